//! The machine that the tests run on, by the name that `run` gives it, with what is known of it.

/// A machine as QEMU was told to make it.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The nodes that the program may allocate on.
    pub(crate) nodes: &'static [usize],
    /// The processors of each node, offline ones left out.
    pub(crate) processors: &'static [(usize, &'static [usize])],
    /// Row by node, column by node, in the order of `processors`.
    pub(crate) distances: &'static [&'static [u32]],
    /// The node that has a page of 1 GiB.
    pub(crate) gigantic_page_on: Option<usize>,
}

const FOUR: &[(usize, &[usize])] = &[(0, &[0]), (1, &[1]), (2, &[2]), (3, &[3])];
const FOUR_DISTANCES: &[&[u32]] =
    &[&[10, 12, 20, 32], &[12, 10, 16, 24], &[20, 16, 10, 14], &[32, 24, 14, 10]];

fn four(nodes: &'static [usize]) -> Machine {
    Machine { nodes, processors: FOUR, distances: FOUR_DISTANCES, gigantic_page_on: None }
}

/// The machine, where `run` made it.
pub(crate) fn known() -> Option<Machine> {
    let name = std::env::var("HEAPSWITCH_NUMA_MACHINE").ok()?;
    Some(match name.as_str() {
        "four" => four(&[0, 1, 2, 3]),
        "newer" => four(&[0, 1, 2, 3]),
        "restricted" => four(&[1, 2]),
        "two" => Machine {
            nodes: &[0, 1],
            processors: &[(0, &[0, 1]), (1, &[2, 3])],
            distances: &[&[10, 21], &[21, 10]],
            gigantic_page_on: Some(1),
        },
        "uneven" => Machine {
            nodes: &[0, 2],
            processors: &[(0, &[0]), (1, &[1]), (2, &[])],
            distances: &[&[10, 20, 40], &[20, 10, 17], &[40, 17, 10]],
            gigantic_page_on: None,
        },
        name => panic!("no machine is called {name}"),
    })
}

/// The nodes that this process may allocate on, as the kernel says; node 0 where it says nothing.
pub(crate) fn nodes() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:"));
    let nodes = line.map_or_else(|| vec![0], |list| crate::oracle::numbers(list.trim()));
    if let Some(machine) = known() {
        assert_eq!(nodes, machine.nodes, "the machine is not the one that was asked for");
    }
    nodes
}

/// Says that a case could not be tested here, which a machine of `run` must not leave unsaid.
pub(crate) fn not_tested(what: &str, why: impl std::fmt::Display) {
    println!("not tested here: {what}: {why}");
}

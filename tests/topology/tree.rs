//! Folders as sysfs and `/proc` have them: written from a description, or from what a virtual
//! machine's init printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A node of a described machine.
pub(crate) struct DescribedNode {
    pub(crate) number: usize,
    /// Offline ones included.
    pub(crate) processors: Vec<usize>,
    pub(crate) kibibytes: u64,
}

/// A machine, and what a thread may use of it.
pub(crate) struct Described {
    pub(crate) nodes: Vec<DescribedNode>,
    pub(crate) offline: Vec<usize>,
    pub(crate) allowed_nodes: Vec<usize>,
    pub(crate) allowed_processors: Vec<usize>,
}

fn list(numbers: &[usize]) -> String {
    // Without ranges, which the kernel would print: both are to be read.
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

impl Described {
    /// So many nodes on a line, each with so many processors and a little more memory than the one
    /// before; all of it usable.
    pub(crate) fn even(nodes: usize, processors: usize) -> Self {
        let node = |number| DescribedNode {
            number,
            processors: (number * processors..(number + 1) * processors).collect(),
            kibibytes: (number as u64 + 1) << 21,
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
            offline: Vec::new(),
            allowed_nodes: (0..nodes).collect(),
            allowed_processors: (0..nodes * processors).collect(),
        }
    }

    /// Gives the nodes these numbers.
    pub(crate) fn renumber(&mut self, numbers: &[usize]) {
        for (node, &number) in self.nodes.iter_mut().zip(numbers) {
            node.number = number;
        }
        self.allowed_nodes = numbers.to_vec();
    }

    /// The numbers of the nodes for which `is_wanted` holds.
    pub(crate) fn numbers(&self, is_wanted: impl Fn(&DescribedNode) -> bool) -> Vec<usize> {
        self.nodes.iter().filter(|node| is_wanted(node)).map(|node| node.number).collect()
    }

    /// A node's processors that are online.
    pub(crate) fn online(&self, node: &DescribedNode) -> Vec<usize> {
        let is_online = |processor: &&usize| !self.offline.contains(processor);
        node.processors.iter().filter(is_online).copied().collect()
    }

    fn all_online(&self) -> Vec<usize> {
        self.nodes.iter().flat_map(|node| self.online(node)).collect()
    }

    pub(crate) fn usable_processors(&self) -> Vec<usize> {
        let mut usable = self.all_online();
        usable.retain(|processor| self.allowed_processors.contains(processor));
        usable
    }

    /// Ten, and seven for each step, more in one direction: no two are equal by chance.
    pub(crate) fn distance(&self, from: usize, to: usize) -> u32 {
        let place = |number| self.nodes.iter().position(|node| node.number == number).unwrap();
        10 + 7 * place(from).abs_diff(place(to)) as u32
    }

    pub(crate) fn write(&self) -> Tree {
        let tree = Tree::new();
        let folder = "sys/devices/system/node";
        tree.write("sys/devices/system/cpu/online", list(&self.all_online()) + "\n");
        tree.write(&format!("{folder}/online"), list(&self.numbers(|_| true)) + "\n");
        let with_memory = self.numbers(|node| node.kibibytes > 0);
        tree.write(&format!("{folder}/has_memory"), list(&with_memory) + "\n");
        let with_processors = self.numbers(|node| !self.online(node).is_empty());
        tree.write(&format!("{folder}/has_cpu"), list(&with_processors) + "\n");
        for node in &self.nodes {
            let folder = format!("{folder}/node{}", node.number);
            tree.write(&format!("{folder}/cpulist"), list(&node.processors) + "\n");
            let distances: Vec<String> = self
                .nodes
                .iter()
                .map(|to| self.distance(node.number, to.number).to_string())
                .collect();
            tree.write(&format!("{folder}/distance"), distances.join(" ") + "\n");
            let (number, total, free) = (node.number, node.kibibytes, node.kibibytes / 2);
            let memory = format!(
                "\nNode {number} MemTotal:       {total} kB\nNode {number} MemFree:  {free} kB\n\
                 Node {number} MemUsed:       {} kB\n",
                total - free
            );
            tree.write(&format!("{folder}/meminfo"), memory);
        }
        let status = format!(
            "Name:\ttest\nCpus_allowed:\tff\nCpus_allowed_list:\t{}\nMems_allowed:\t{}1\n\
             Mems_allowed_list:\t{}\nvoluntary_ctxt_switches:\t1\n",
            list(&self.allowed_processors),
            "00000000,".repeat(31),
            list(&self.allowed_nodes),
        );
        tree.write("proc/thread-self/status", status);
        tree
    }
}

/// A folder that is removed again.
pub(crate) struct Tree(PathBuf);

impl Tree {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("heapswitch-topology-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The tree of a machine of `tests/numa/run`, as it printed it.
    pub(crate) fn captured(name: &str) -> Self {
        let tree = Self::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/numa/trees");
        for line in fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap().lines() {
            let (path, text) = line.split_once(':').unwrap();
            tree.write(path.trim_start_matches('/'), text.replace("\\n", "\n"));
        }
        tree
    }

    pub(crate) fn root(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

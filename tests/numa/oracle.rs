//! What others than this crate say: numactl, and `/proc/self/numa_maps`.

use std::collections::BTreeMap;

/// The numbers of a list as the kernel prints it: `0-3,8`.
pub(crate) fn numbers(list: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for item in list.split(',').filter(|item| !item.is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        numbers.extend(first.parse::<usize>().unwrap()..=last.parse().unwrap());
    }
    numbers
}

/// A mapping in `/proc/self/numa_maps`.
#[derive(Debug)]
pub(crate) struct NumaMaps {
    /// `bind:0`, `interleave:0-3`, `default`.
    pub(crate) policy: String,
    /// Pages by node, of `page_kibibytes` each.
    pub(crate) pages: BTreeMap<usize, usize>,
    pub(crate) page_kibibytes: usize,
}

/// What the kernel says of the mapping that starts at an address; `None` where it keeps no such
/// file.
pub(crate) fn numa_maps(start: *const u8) -> Option<NumaMaps> {
    let mut all = all_numa_maps()?;
    Some(all.remove(&start.addr()).unwrap_or_else(|| panic!("no mapping starts at {start:?}")))
}

/// Every mapping of the process, by its start; `None` where the kernel keeps no such file.
pub(crate) fn all_numa_maps() -> Option<BTreeMap<usize, NumaMaps>> {
    let text = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
    let parse = |line: &str| {
        let (start, rest) = line.split_once(' ').unwrap();
        (usize::from_str_radix(start, 16).unwrap(), parse_numa_maps(rest))
    };
    Some(text.lines().map(parse).collect())
}

/// A line without its address.
fn parse_numa_maps(rest: &str) -> NumaMaps {
    // The name of a policy may hold blanks: "prefer (many):0-1".
    let end = rest.find(" anon=").or_else(|| rest.find(" kernelpagesize")).unwrap_or(rest.len());
    let policy = rest[..end].split(" file=").next().unwrap().trim().to_owned();
    let mut maps = NumaMaps { policy, pages: BTreeMap::new(), page_kibibytes: 4 };
    for field in rest[end..].split_ascii_whitespace() {
        let Some((key, value)) = field.split_once('=') else { continue };
        if key == "kernelpagesize_kB" {
            maps.page_kibibytes = value.parse().unwrap();
        } else if let Some(node) = key.strip_prefix('N') {
            // A file may have a name like a node's.
            if let (Ok(node), Ok(pages)) = (node.parse(), value.parse()) {
                maps.pages.insert(node, pages);
            }
        }
    }
    maps
}

/// What `numactl --hardware` prints.
#[derive(Debug, Default)]
pub(crate) struct Hardware {
    /// Processors and mebibytes by node.
    pub(crate) nodes: BTreeMap<usize, (Vec<usize>, u64)>,
    /// Row by node, in the order of the nodes.
    pub(crate) distances: BTreeMap<usize, Vec<u32>>,
}

/// What numactl says of the machine; `None` where it is not installed, or sees no NUMA.
pub(crate) fn hardware() -> Option<Hardware> {
    let output = std::process::Command::new("numactl").arg("--hardware").output().ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    let mut hardware = Hardware::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["node", node, "cpus:", processors @ ..] => {
                let processors = processors.iter().map(|number| number.parse().unwrap()).collect();
                hardware.nodes.entry(node.parse().unwrap()).or_default().0 = processors;
            }
            ["node", node, "size:", mebibytes, "MB"] => {
                hardware.nodes.entry(node.parse().unwrap()).or_default().1 =
                    mebibytes.parse().unwrap();
            }
            [row, distances @ ..] if row.ends_with(':') && row != &"available:" => {
                if let Ok(node) = row.trim_end_matches(':').parse() {
                    let distances = distances.iter().map(|number| number.parse().unwrap());
                    hardware.distances.insert(node, distances.collect());
                }
            }
            _ => {}
        }
    }
    (!hardware.nodes.is_empty()).then_some(hardware)
}

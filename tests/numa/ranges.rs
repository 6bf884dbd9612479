//! Mapped ranges with a policy lie where it says.

use core::alloc::Layout;

use heapswitch::allocator::{MemoryRange, MemorySource};
use heapswitch::numa::{Node, NodeSet, Placement, Policy};
use heapswitch::source::memory_map::Step;
use heapswitch::source::{HugePages, MemoryMapSettings, MemoryMapSource};

use crate::faults;
use crate::machine::{nodes, not_tested};
use crate::oracle::numa_maps;

/// The length of a range in bytes: 1024 pages of 4 KiB.
const BYTES: usize = 4 << 20;

/// A range that was taken and every page of it touched.
pub(crate) struct Touched {
    pub(crate) source: MemoryMapSource,
    pub(crate) range: MemoryRange,
}

impl Touched {
    /// Small pages, so that the figures are exact.
    pub(crate) fn new(placement: Placement) -> Self {
        let settings = MemoryMapSettings::new().placement(placement).huge_pages(HugePages::Never);
        let source = MemoryMapSource::with_settings(settings).unwrap();
        let range = source.take(Layout::from_size_align(BYTES, 4096).unwrap()).unwrap();
        // SAFETY: the range was taken and is this function's alone.
        unsafe { range.start.write_bytes(1, range.length) };
        Self { source, range }
    }

    pub(crate) fn start(&self) -> *const u8 {
        self.range.start.as_ptr()
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        // SAFETY: taken in `new`, and used no more.
        unsafe { self.source.give_back(self.range) };
    }
}

pub(crate) fn set(nodes: &[usize]) -> NodeSet {
    NodeSet::from_numbers(nodes).unwrap()
}

pub(crate) fn node(number: usize) -> Node {
    Node::new(number).unwrap()
}

/// The kernel's own count of the range's pages by node, with the policy's name; `None` where the
/// kernel took no policy, which is said.
fn told(touched: &Touched, what: &str) -> Option<(String, Vec<(usize, usize)>)> {
    if let Some(refusal) = touched.source.refusals().next() {
        not_tested(what, refusal);
        return None;
    }
    let maps = numa_maps(touched.start())?;
    assert_eq!(maps.page_kibibytes, 4);
    Some((maps.policy, maps.pages.into_iter().collect()))
}

#[test]
fn a_bound_range_lies_on_its_node() {
    let _no_faults = faults::none();
    for number in nodes() {
        let touched = Touched::new(Placement::new(Policy::Bind(set(&[number]))));
        let Some((policy, pages)) = told(&touched, "bind") else { continue };
        assert_eq!((policy, pages), (format!("bind:{number}"), vec![(number, BYTES / 4096)]));
    }
}

#[test]
fn a_preferred_node_gets_the_pages() {
    let _no_faults = faults::none();
    for number in nodes() {
        let touched = Touched::new(Placement::new(Policy::Preferred(node(number))));
        let Some((policy, pages)) = told(&touched, "preferred") else { continue };
        assert_eq!((policy, pages), (format!("prefer:{number}"), vec![(number, BYTES / 4096)]));
    }
}

/// Linux has names from 5.17 on, where it was built with them.
#[test]
fn a_name_is_shown_or_reported() {
    let _no_faults = faults::none();
    let source = MemoryMapSource::with_settings(MemoryMapSettings::new().name(c"named-range"));
    let source = source.unwrap();
    let range = source.take(Layout::new::<[u8; 4096]>()).unwrap();
    let refusal = source.refusals().next();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.contains("[anon:named-range]"), refusal.is_none());
    match refusal {
        None => println!("named mappings on this kernel: as asked"),
        Some(refusal) => {
            assert_eq!((refusal.step, refusal.times), (Step::Name, 1));
            assert!(refusal.error.is_unsupported(), "{refusal}");
            println!("named mappings on this kernel: {refusal}");
        }
    }
    // SAFETY: taken above, and used no more.
    unsafe { source.give_back(range) };
}

#[test]
fn interleaving_is_even() {
    let _no_faults = faults::none();
    let nodes = nodes();
    let touched = Touched::new(Placement::new(Policy::Interleave(set(&nodes))));
    let Some((_, pages)) = told(&touched, "interleave") else { return };
    let even = BYTES / 4096 / nodes.len();
    assert_eq!(pages.len(), nodes.len(), "{pages:?}");
    for (node, count) in pages {
        assert!(count.abs_diff(even) * 100 <= even * 2, "node {node}: {count} of {even}");
    }
}

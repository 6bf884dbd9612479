//! What the library says of pages is what the kernel's files say.

use core::alloc::Layout;
use std::collections::BTreeMap;

use heapswitch::allocator::MemorySource;
use heapswitch::numa::{Placement, Policy, Residence};
use heapswitch::source::{ArenaMemorySource, ArenaSettings, MemoryMapSettings, MemoryMapSource};
use heapswitch::sys::fault::{self, Call};

use crate::faults;
use crate::machine::{nodes, not_tested};
use crate::oracle::numa_maps;
use crate::ranges::{Touched, node, set};

fn by_node(residence: &Residence) -> BTreeMap<usize, usize> {
    residence.nodes().map(|(node, pages)| (node.number(), pages)).collect()
}

#[test]
fn the_kernels_own_count_is_the_same() {
    let _no_faults = faults::none();
    let nodes = nodes();
    for policy in [Policy::Interleave(set(&nodes)), Policy::Bind(set(&nodes[..1])), Policy::Local] {
        let touched = Touched::new(Placement::new(policy));
        let residence = match touched.source.residence_of(touched.range) {
            Ok(residence) => residence,
            Err(error) => return not_tested("residence", error),
        };
        let Some(maps) = numa_maps(touched.start()) else { return };
        assert_eq!(by_node(&residence), maps.pages);
        assert_eq!(residence.resident() * 4096, touched.range.length);
        assert_eq!((residence.not_resident(), residence.unknown()), (0, 0));
        assert_eq!((residence.policy(), residence.misplaced()), (policy, 0));
        let backing = residence.backing().unwrap();
        assert_eq!((backing.page_bytes, backing.transparent_huge_bytes), (4096, 0));
        assert_eq!(backing.resident_bytes, touched.range.length);
        let text = residence.to_string();
        assert!(text.ends_with("0 not resident, 0 misplaced"), "{text}");
    }
}

#[test]
fn what_was_never_touched_is_nowhere() {
    let _no_faults = faults::none();
    let source = MemoryMapSource::new();
    let range = source.take(Layout::from_size_align(1 << 20, 4096).unwrap()).unwrap();
    // SAFETY: taken above; one page of it is written.
    unsafe { range.start.write(1) };
    let asked = Residence::of_range(range.start, range.length);
    match asked {
        // A transparent huge page may come at once.
        Ok(residence) => {
            assert_eq!(residence.resident() + residence.not_resident(), range.length / 4096);
            assert!(residence.resident() >= 1);
            // The address within the first page, and the last byte before the second.
            let mut one = Residence::new();
            one.count_range(range.start, 1).unwrap();
            assert_eq!((one.resident(), one.not_resident()), (1, 0));
        }
        Err(error) => not_tested("residence", error),
    }
    // SAFETY: taken above, and used no more.
    unsafe { source.give_back(range) };
}

#[test]
fn an_arena_is_counted_as_a_whole() {
    let _no_faults = faults::none();
    let number = *nodes().last().unwrap();
    let bind = Placement::new(Policy::Bind(set(&[number])));
    let settings = MemoryMapSettings::new().placement(bind).prefaulted(true);
    let arena = ArenaMemorySource::new(
        MemoryMapSource::with_settings(settings).unwrap(),
        ArenaSettings::DEFAULT,
    );
    if let Err(error) = arena.residence() {
        assert_eq!(arena.held_bytes(), 0);
        return not_tested("residence", error);
    }
    let block = arena.take(Layout::new::<[u8; 100]>()).unwrap();
    let residence = arena.residence().unwrap();
    assert_eq!(residence.policy(), bind.policy);
    assert_eq!(residence.resident() * 4096, arena.held_bytes());
    assert_eq!(residence.on(node(number)), residence.resident());
    assert_eq!(residence.misplaced(), 0);
    // SAFETY: taken above, and used no more.
    unsafe { arena.give_back(block) };
}

#[test]
fn a_system_that_does_not_tell_is_an_error() {
    let _alone = faults::alone();
    let touched = Touched::new(Placement::DEFAULT);
    fault::fail_from(Call::AskPages, 2);
    // A range of 1024 pages is asked for in several parts.
    assert!(touched.source.residence_of(touched.range).is_err());
    fault::clear(Call::AskPages);
    fault::fail_from(Call::AskPolicy, 1);
    assert!(Residence::of_range(touched.range.start, 1).is_err());
    fault::clear(Call::AskPolicy);
    fault::fail_from(Call::Open, 1);
    let residence = touched.source.residence_of(touched.range);
    fault::clear(Call::Open);
    assert_eq!(residence.map(|residence| residence.backing()).unwrap_or_default(), None);
}

//! Huge pages: explicit ones reserved by node, and the fall-back; transparent ones, collapsed.

use core::alloc::Layout;

use heapswitch::allocator::{MemoryRange, MemorySource};
use heapswitch::numa::{HugePagePool, Placement, Policy, Topology};
use heapswitch::source::memory_map::Step;
use heapswitch::source::{HugePages, MemoryMapSettings, MemoryMapSource};
use heapswitch::sys::fault::{self, Call};

use crate::faults;
use crate::machine::{known, nodes, not_tested};
use crate::oracle::numa_maps;
use crate::ranges::{node, set};

const HUGE: usize = 2 << 20;
const GIGANTIC: usize = 1 << 30;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, HUGE).unwrap()
}

#[test]
fn explicit_pages_are_reserved_and_used_on_their_node() {
    let _no_faults = faults::none();
    if known().is_none() {
        // It would change the system of whoever runs the tests.
        return not_tested("reserving huge pages", "this is no machine of our own");
    }
    let topology = Topology::of_system().unwrap();
    for number in nodes() {
        let pool = topology.huge_page_pool(node(number), HUGE).unwrap();
        assert_eq!((pool.total(), pool.reserve(2), pool.free()), (Ok(0), Ok(2), Ok(2)));
        let settings = MemoryMapSettings::new()
            .huge_pages(HugePages::Explicit { shift: 21 })
            .placement(Placement::new(Policy::Bind(set(&[number]))));
        let source = MemoryMapSource::with_settings(settings).unwrap();
        let range = source.take(layout(2 * HUGE)).unwrap();
        // SAFETY: taken above.
        unsafe { range.start.write_bytes(1, range.length) };
        assert_eq!((source.refusals().count(), pool.free()), (0, Ok(0)));
        let residence = source.residence_of(range).unwrap();
        assert_eq!(residence.on(node(number)), 2 * HUGE / 4096, "{residence}");
        let backing = residence.backing().unwrap();
        assert_eq!((backing.page_bytes, backing.explicit_huge_bytes), (HUGE, 2 * HUGE));
        let maps = numa_maps(range.start.as_ptr()).unwrap();
        assert_eq!((maps.page_kibibytes, maps.pages.get(&number)), (2048, Some(&2)));
        // The pool is empty: others back the next range, and it is reported.
        let next = source.take(layout(HUGE)).unwrap();
        let refusal = source.refusals().next().unwrap();
        assert_eq!((refusal.step, refusal.times), (Step::HugePages, 1), "{refusal}");
        // SAFETY: taken above, and used no more.
        unsafe {
            next.start.write_bytes(1, next.length);
            source.give_back(next);
            source.give_back(range);
        }
        assert_eq!((pool.free(), pool.reserve(0)), (Ok(2), Ok(0)));
    }
}

/// A source whose ranges are pages of the pool's size, bound to the pool's node.
fn bound_to_node_of(pool: &HugePagePool) -> MemoryMapSource {
    let settings = MemoryMapSettings::new()
        .huge_pages(HugePages::Explicit { shift: pool.page_bytes().ilog2() })
        .placement(Placement::new(Policy::Bind(set(&[pool.node().number()]))));
    MemoryMapSource::with_settings(settings).unwrap()
}

/// The pool's last page is given, and lies on its node.
fn take_last_page(pool: &HugePagePool, source: &MemoryMapSource) -> MemoryRange {
    let (number, page) = (pool.node().number(), pool.page_bytes());
    assert_eq!(pool.free(), Ok(1));
    let range = source.take(Layout::new::<u8>()).unwrap();
    assert_eq!((range.length, source.refusals().count(), pool.free()), (page, 0, Ok(0)));
    // SAFETY: taken above, and nobody else's.
    let bytes = unsafe { range.as_slice().as_mut() };
    (bytes[0], bytes[page - 1]) = (1, 2);
    let residence = source.residence_of(range).unwrap();
    assert_eq!(residence.on(node(number)), page / 4096, "{residence}");
    assert_eq!((residence.resident(), residence.misplaced()), (page / 4096, 0), "{residence}");
    let backing = residence.backing().unwrap();
    assert_eq!((backing.page_bytes, backing.explicit_huge_bytes), (page, page));
    let maps = numa_maps(range.start.as_ptr()).unwrap();
    assert_eq!((maps.page_kibibytes, maps.pages.get(&number)), (page >> 10, Some(&1)));
    range
}

/// The pool is empty: a range gets other pages, on the same node, and that is reported. Another
/// node's pool may have pages left: the kernel would promise those, and end the process at the
/// first touch.
fn others_serve(pool: &HugePagePool, source: &MemoryMapSource) {
    assert_eq!(pool.free(), Ok(0));
    let range = source.take(Layout::new::<u8>()).unwrap();
    let refusal = source.refusals().next().unwrap();
    assert_eq!((refusal.step, refusal.times), (Step::HugePages, 1), "{refusal}");
    // SAFETY: taken above.
    unsafe { range.start.write(3) };
    let residence = source.residence_of(range).unwrap();
    let pages = residence.on(pool.node());
    assert!(pages >= 1 && pages == residence.resident(), "{residence}");
    let backing = residence.backing().unwrap();
    assert_eq!((backing.page_bytes, backing.explicit_huge_bytes), (4096, 0));
    // SAFETY: taken above, and used no more.
    unsafe { source.give_back(range) };
}

fn assert_one_then_others(pool: &HugePagePool) {
    let source = bound_to_node_of(pool);
    let range = take_last_page(pool, &source);
    others_serve(pool, &source);
    // SAFETY: taken above, and used no more.
    unsafe { source.give_back(range) };
    assert_eq!((pool.free(), source.mapping_count()), (Ok(1), 0));
}

#[test]
fn pages_bound_to_a_node_are_its_own_or_others_serve() {
    let _no_faults = faults::none();
    let Some(machine) = known() else {
        return not_tested("huge pages of several nodes", "this is no machine of our own");
    };
    let topology = Topology::of_system().unwrap();
    let pool = |&number: &usize| topology.huge_page_pool(node(number), HUGE).unwrap();
    let pools: Vec<_> = machine.nodes.iter().map(pool).collect();
    for pool in &pools {
        assert_eq!(pool.reserve(1), Ok(1));
    }
    pools.iter().for_each(assert_one_then_others);
    for pool in &pools {
        assert_eq!(pool.reserve(0), Ok(0));
    }
}

#[test]
fn pages_of_a_gibibyte_lie_on_their_node() {
    let _no_faults = faults::none();
    let Some(with_page) = known().and_then(|machine| machine.gigantic_page_on) else {
        return not_tested("pages of 1 GiB", "none was set aside when the machine started");
    };
    let topology = Topology::of_system().unwrap();
    for number in nodes() {
        let pool = topology.huge_page_pool(node(number), GIGANTIC).unwrap();
        assert_eq!(pool.total(), Ok(usize::from(number == with_page)));
        if number == with_page {
            assert_one_then_others(&pool);
        } else {
            others_serve(&pool, &bound_to_node_of(&pool));
        }
    }
    println!("pages of 1 GiB: the one on node {with_page} was used, others where none was left");
}

#[test]
fn a_size_that_the_system_lacks_is_an_error() {
    let _no_faults = faults::none();
    let topology = Topology::of_system().unwrap();
    let first = topology.nodes().first().unwrap();
    let error = topology.huge_page_pool(first, 3 << 20).unwrap_err();
    assert!(error.to_string().contains("hugepages-3072kB/nr_hugepages"), "{error}");
}

#[test]
fn a_pool_that_may_not_be_changed_is_an_error() {
    let _alone = faults::alone();
    let topology = Topology::of_system().unwrap();
    let Ok(pool) = topology.huge_page_pool(topology.nodes().first().unwrap(), HUGE) else {
        return not_tested("huge page pools", "the system has none");
    };
    fault::fail_from(Call::Write, 1);
    let total = pool.total().unwrap();
    let refused = pool.reserve(total);
    fault::clear(Call::Write);
    assert!(refused.unwrap_err().to_string().contains("run this as root"));
}

#[test]
fn pages_are_collapsed_at_once_or_it_is_reported() {
    let _no_faults = faults::none();
    let settings = MemoryMapSettings::new()
        .alignment(HUGE)
        .granule(HUGE)
        .huge_pages(HugePages::AsSystem)
        .prefaulted(true)
        .collapsed(true);
    let source = MemoryMapSource::with_settings(settings).unwrap();
    let range = source.take(layout(2 * HUGE)).unwrap();
    match source.refusals().next() {
        Some(refusal) => not_tested("collapsing", refusal),
        None => {
            let backing = source.residence_of(range).unwrap().backing().unwrap();
            assert!(backing.transparent_huge_bytes >= 2 * HUGE, "{backing:?}");
        }
    }
    // SAFETY: taken above, and used no more.
    unsafe { source.give_back(range) };
}

#[test]
fn refused_collapsing_is_reported_and_the_range_is_given() {
    let _alone = faults::alone();
    let source = MemoryMapSource::with_settings(MemoryMapSettings::new().collapsed(true)).unwrap();
    fault::fail_from(Call::Advise, 1);
    let range = source.take(layout(HUGE)).unwrap();
    fault::clear(Call::Advise);
    assert_eq!(source.refusals().map(|refusal| refusal.step).collect::<Vec<_>>(), [Step::Collapse]);
    // SAFETY: taken above, and used no more.
    unsafe {
        range.start.write_bytes(1, range.length);
        source.give_back(range);
    }
}

//! The slab's memory is made of huge pages where they are wanted: read back from smaps.
//!
//! Not under sanitizers, whose own memory takes the huge pages that the kernel has at hand.
#![cfg(not(any(heapswitch_pass_through, loom, heapswitch_asan, heapswitch_tsan)))]

use heapswitch::numa::Placement;
use heapswitch::{
    CurrentAllocatorInUse, KindSettings, RegionHugePages, RegionMapSource, residence_of,
};

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    thread_huge_pages = transparent,
    // Nothing goes back, but where it is told to.
    decay_milliseconds = 3600000,
}

/// Bytes that the small blocks have together.
const BYTES: usize = 48 << 20;

/// Why the kernel gives no transparent huge pages here, if it does not.
fn unavailable() -> Option<String> {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    match std::fs::read_to_string(file) {
        Err(error) => Some(format!("{file}: {error}")),
        Ok(modes) if modes.contains("[never]") => Some(format!("{file}: {modes}")),
        Ok(_) => None,
    }
}

/// What the kernel says under `key` of the mapping that holds `address`.
fn smaps_line(address: usize, key: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut holds = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.and_then(|(a, b)| Some((number(a)?, number(b)?))) {
            holds = (start..end).contains(&address);
        } else if holds && let Some(said) = line.strip_prefix(key) {
            return said.trim().to_owned();
        }
    }
    panic!("no mapping holds {address:x}");
}

/// A figure of the mapping that holds `address`, in bytes.
fn smaps_bytes(address: usize, key: &str) -> usize {
    let said = smaps_line(address, key);
    said.split(' ').next().unwrap().parse::<usize>().unwrap() << 10
}

/// Whether the mapping that holds `address` was advised to have huge pages.
fn is_advised(address: usize) -> bool {
    smaps_line(address, "VmFlags:").split(' ').any(|flag| flag == "hg")
}

/// Whether it was advised to have none.
fn is_refused(address: usize) -> bool {
    smaps_line(address, "VmFlags:").split(' ').any(|flag| flag == "nh")
}

/// All in one test: the first part's mappings have to lie side by side.
#[test]
fn small_blocks_lie_in_huge_pages() {
    let blocks: Vec<Box<[u8; 112]>> = (0..BYTES / 112).map(|_| Box::new([1; 112])).collect();
    let address = std::ptr::from_ref(&*blocks[blocks.len() / 2]).addr();
    if let Some(reason) = unavailable() {
        return println!("not tested here: transparent huge pages: {reason}");
    }
    let huge = smaps_bytes(address, "AnonHugePages:");
    let resident = smaps_bytes(address, "Rss:");
    println!("{huge} of {resident} bytes are in huge pages");
    assert!(resident >= BYTES, "{resident}");
    // All but the ends of segments, where the kernel may have had none at hand.
    assert!(huge * 10 >= BYTES * 9, "{huge} of {resident}");
    let backing = residence_of(CurrentAllocatorInUse::ThreadLocal).unwrap().backing().unwrap();
    assert!(backing.transparent_huge_bytes >= huge, "{backing:?}");
    drop(blocks);
    small_pages_are_collapsed();
    the_first_mebibytes_have_small_pages_where_the_rest_has_huge_ones();
    sparse_memory_has_small_pages_until_it_is_filled();
}

fn small_pages_are_collapsed() {
    let settings = KindSettings {
        placement: Placement::DEFAULT,
        huge_pages: RegionHugePages::System,
        ..KindSettings::new(c"to-collapse")
    };
    let source: &'static RegionMapSource =
        Box::leak(Box::new(RegionMapSource::new(settings).unwrap()));
    let heap = heapswitch::Heap::builder().source(source).build().unwrap();
    let large = heap.run(|| vec![1_u8; 16 << 20]).unwrap();
    match source.collapse() {
        Err(error) => println!("not tested here: collapsing: {error}"),
        Ok(bytes) => {
            assert!(bytes >= 14 << 20, "{bytes}");
            let huge = smaps_bytes(large.as_ptr().addr(), "AnonHugePages:");
            assert!(huge >= 14 << 20, "{huge}");
        }
    }
    assert!(large.iter().all(|&byte| byte == 1));
}

fn the_first_mebibytes_have_small_pages_where_the_rest_has_huge_ones() {
    const SEGMENT_BYTES: usize = 32 << 20;
    let settings =
        KindSettings { huge_pages: RegionHugePages::Grown, ..KindSettings::new(c"grown") };
    let source: &'static RegionMapSource =
        Box::leak(Box::new(RegionMapSource::new(settings).unwrap()));
    let heap = heapswitch::Heap::builder().source(source).build().unwrap();
    let blocks: Vec<Vec<u8>> =
        (0..20).map(|_| heap.run(|| Vec::with_capacity(4 << 20)).unwrap()).collect();
    let addresses: Vec<usize> = blocks.iter().map(|block| block.as_ptr().addr()).collect();
    let first_segment = addresses.iter().min().unwrap() & !(SEGMENT_BYTES - 1);
    let [mut small, mut huge] = [0; 2];
    for address in addresses {
        let is_first = address - first_segment < 16 << 20;
        let place = address - first_segment;
        assert_eq!((is_advised(address), is_refused(address)), (!is_first, is_first), "{place:#x}");
        *if is_first { &mut small } else { &mut huge } += 1;
    }
    assert!(small >= 3 && huge >= 12, "{small} {huge}");
    huge_pages_are_for_growth(&heap, blocks, first_segment);
}

/// What was given back, the kernel shall not fill again to make huge pages of what is left.
fn huge_pages_are_for_growth(heap: &heapswitch::Heap, mut blocks: Vec<Vec<u8>>, first: usize) {
    blocks.sort_by_key(|block| block.as_ptr().addr());
    let kept = blocks.pop().unwrap();
    let address = kept.as_ptr().addr();
    assert!(is_advised(address));
    heap.run(|| drop(blocks)).unwrap();
    heapswitch::purge();
    assert!(is_refused(address) && is_refused(first + (1 << 20)));
    let _little = heap.run(|| vec![1_u8; 1 << 20]).unwrap();
    assert!(!is_advised(address));
    let _more = heap.run(|| vec![1_u8; 4 << 20]).unwrap();
    assert!(is_advised(address) && is_refused(first + (1 << 20)));
}

/// A page of each chunk, as many threads' heaps touch them: huge pages would make all resident.
fn sparse_memory_has_small_pages_until_it_is_filled() {
    const CHUNK: usize = 64 << 10;
    let settings =
        KindSettings { huge_pages: RegionHugePages::Grown, ..KindSettings::new(c"sparse") };
    let source: &'static RegionMapSource =
        Box::leak(Box::new(RegionMapSource::new(settings).unwrap()));
    let heap = heapswitch::Heap::builder().source(source).build().unwrap();
    let take = |chunks: usize, touched: usize| -> Vec<Vec<u8>> {
        let chunk = || {
            let mut block = Vec::with_capacity(CHUNK);
            block.resize(touched, 1);
            block
        };
        (0..chunks).map(|_| heap.run(chunk).unwrap()).collect()
    };
    let highest = |blocks: &[Vec<u8>]| blocks.iter().map(|block| block.as_ptr().addr()).max();
    // Nearly three times what is always small.
    let mut sparse = take(44 << 4, 1);
    let address = highest(&sparse).unwrap();
    assert!(is_refused(address));
    assert!(smaps_bytes(address, "Rss:") <= 8 << 20);
    // The last part that is looked at is filled now, and what follows has huge pages.
    let filled = take(24 << 4, CHUNK);
    assert!(is_advised(highest(&filled).unwrap()));
    assert!(is_refused(address));
    // What was sparse and is full asks for huge pages when there is another segment, and what is
    // still sparse does not.
    let first = sparse.iter().map(|block| block.as_ptr().addr()).min().unwrap();
    let first = first & !((32 << 20) - 1);
    let is_in_second = |block: &&mut Vec<u8>| (block.as_ptr().addr() - first) >> 24 == 1;
    sparse.iter_mut().filter(is_in_second).for_each(|block| block.resize(CHUNK, 1));
    assert!(is_refused(first + (20 << 20)));
    let _more = take(64 << 4, 1);
    assert!(is_advised(first + (20 << 20)));
    assert!(is_refused(address) && is_refused(first));
}

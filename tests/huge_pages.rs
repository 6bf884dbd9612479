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
    if is_always_huge() {
        return println!("not tested here: sparse memory, which is huge pages where all is");
    }
    sparse_memory_has_small_pages_until_it_is_filled();
}

/// Whether the kernel makes huge pages of all memory that does not refuse them.
fn is_always_huge() -> bool {
    let modes = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    modes.is_ok_and(|modes| modes.contains("[always]"))
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
        assert_eq!(is_advised(address), !is_first, "{:#x}", address - first_segment);
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
    let flags_of = |address| smaps_line(address, "VmFlags:");
    assert!(flags_of(address).split(' ').any(|flag| flag == "nh"), "{}", flags_of(address));
    // The first part never had huge pages, and is as the system has it.
    let of_first = flags_of(first + (1 << 20));
    assert!(!of_first.split(' ').any(|flag| flag == "nh" || flag == "hg"), "{of_first}");
    let _little = heap.run(|| vec![1_u8; 1 << 20]).unwrap();
    assert!(!is_advised(address));
    let _more = heap.run(|| vec![1_u8; 4 << 20]).unwrap();
    assert!(is_advised(address));
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
    let sparse = take(44 << 4, 1);
    let address = highest(&sparse).unwrap();
    assert!(!is_advised(address));
    assert!(smaps_bytes(address, "Rss:") <= 8 << 20);
    // The last part that is looked at is filled now, and what follows has huge pages.
    let filled = take(24 << 4, CHUNK);
    assert!(is_advised(highest(&filled).unwrap()));
    assert!(!is_advised(address));
}

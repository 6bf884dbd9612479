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

/// A figure of the mappings that hold `address`, in bytes, as the kernel's file has it.
fn smaps_bytes(address: usize, key: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut holds = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.and_then(|(a, b)| Some((number(a)?, number(b)?))) {
            holds = (start..end).contains(&address);
        } else if holds && line.starts_with(key) {
            let kibibytes = line.split_ascii_whitespace().nth(1).unwrap();
            return kibibytes.parse::<usize>().unwrap() << 10;
        }
    }
    panic!("no mapping holds {address:x}");
}

/// Both in one test: it is one heap.
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

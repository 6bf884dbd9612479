//! A region of 4 GiB, filled up: by contexts closed with a survivor each, by heaps that hold on.
//! What finds no room comes from the global allocator, counted, and when room is made heaps use it
//! again.
//!
//! At full scale: `cargo test --release --test exhausted -- --ignored --nocapture`
//! Not under a sanitizer, whose own records of each page would be counted as resident.
#![cfg(not(any(heapswitch_asan, heapswitch_tsan, heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;
#[path = "support/memory.rs"]
mod memory;

use std::alloc::Layout;
use std::sync::Mutex;
use std::time::Instant;

use heapswitch::allocator::{AllocError, Allocator};
use heapswitch::{Heap, LifetimeHint, process_usage, purge};
use hints::HINTS;
use memory::resident_bytes;

heapswitch::global_thread_and_coroutine_switchable_allocator! { region_bytes = 4 GiB }

/// The tests share the region.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One context of 40 KiB that leaves one block of 32 bytes behind.
fn close_with_survivor(hint: LifetimeHint, number: usize) -> Box<[u8; 32]> {
    let heap = Heap::with_hint(hint).unwrap();
    heap.run(|| {
        let before: Vec<Vec<u8>> = (0..number % 39).map(|_| vec![1; 1024]).collect();
        let survivor = Box::new([number as u8; 32]);
        let after: Vec<Vec<u8>> = (before.len()..39).map(|_| vec![2; 1024]).collect();
        assert_eq!((before.len() + after.len(), survivor[31]), (39, number as u8));
        survivor
    })
    .unwrap()
}

fn close_contexts(count: usize, hint: LifetimeHint) {
    let _alone = alone();
    let mut survivors = Vec::with_capacity(count);
    purge();
    let (before, usage) = (resident_bytes(), process_usage());
    let started = Instant::now();
    survivors.extend((0..count).map(|number| close_with_survivor(hint, number)));
    let took = started.elapsed();
    let each = (resident_bytes() - before) / count;
    let overflow = process_usage().overflow_blocks - usage.overflow_blocks;
    assert!(survivors.iter().enumerate().all(|(number, block)| **block == [number as u8; 32]));
    println!(
        "{count} contexts, {hint:?}: {each} bytes each, {overflow} blocks overflowed, {took:?}"
    );
    assert!(each <= 8 << 10, "{each}");
    assert!(overflow > 0 || count < 65_000);
    drop(survivors);
    purge();
    let left = process_usage().region.taken_bytes;
    assert!(left <= usage.region.taken_bytes + (4 << 20), "{usage:?} {left}");
    drop(close_with_survivor(hint, 7));
}

#[test]
fn more_survivors_than_the_region_has_chunks() {
    close_contexts(if cfg!(debug_assertions) { 66_500 } else { 150_000 }, LifetimeHint::Short);
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn a_million_survivors() {
    HINTS.into_iter().for_each(|hint| close_contexts(1_000_000, hint));
}

#[test]
fn a_full_region_is_an_error_for_traits_and_an_overflow_for_programs() {
    let _alone = alone();
    for hint in HINTS {
        let full = Heap::with_hint(hint).unwrap();
        let other = Heap::with_hint(hint).unwrap();
        let large = Layout::from_size_align(64 << 20, 8).unwrap();
        let mut held = Vec::new();
        while let Ok(block) = (&full).allocate(large) {
            held.push(block);
        }
        let chunk = Layout::from_size_align(64 << 10, 8).unwrap();
        let mut small = Vec::new();
        while let Ok(block) = (&full).allocate(chunk) {
            small.push(block);
        }
        assert!(held.len() > 50, "{}", held.len());
        assert_eq!((&other).allocate(Layout::new::<u64>()).unwrap_err(), AllocError);
        let before = process_usage().overflow_blocks;
        let text = other.run(|| "over".repeat(1000)).unwrap();
        assert!(!other.contains(text.as_ptr()) && process_usage().overflow_blocks > before);
        let grown = std::thread::spawn(move || text.clone() + &text.repeat(100)).join().unwrap();
        assert_eq!(grown.len(), 404_000);
        // SAFETY: the blocks are this heap's and freed once.
        unsafe {
            held.iter().for_each(|block| (&full).deallocate(block.cast(), large));
            small.iter().for_each(|block| (&full).deallocate(block.cast(), chunk));
        }
        let text = other.run(|| "back".repeat(1000)).unwrap();
        assert!(other.contains(text.as_ptr()));
        full.verify().unwrap();
        assert_eq!(full.close().blocks, 0);
    }
}

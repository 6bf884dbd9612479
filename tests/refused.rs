//! The kernel refuses: mappings, protection, advice, from any call on. Nothing aborts, nothing is
//! lost, and when it gives again everything is as before.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread;

use heapswitch::allocator::Allocator;
use heapswitch::sys::fault::{self, Call};
use heapswitch::{Heap, HeapError, HeapSwitch, current, process_usage, purge, with_global};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// Faults strike the whole process.
static ALONE: Mutex<()> = Mutex::new(());

const CALLS: [Call; 4] = [Call::Map, Call::Protect, Call::Advise, Call::Remap];

/// Ends the faults also when a test fails.
struct Faults;

impl Faults {
    fn from(call: Call, nth: u32) -> Self {
        fault::fail_from(call, nth);
        Self
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        CALLS.into_iter().for_each(fault::clear);
    }
}

fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn strings(count: usize) -> Vec<String> {
    (0..count).map(|number| "s".repeat(number)).collect()
}

fn are_right(strings: &[String]) -> bool {
    strings.iter().enumerate().all(|(number, text)| text.len() == number)
}

/// A little of everything; takes and gives back some megabytes.
fn work() {
    let mut kept = Vec::new();
    for hint in HINTS {
        let made = Heap::with_hint(hint);
        let Ok(heap) = made else {
            assert_eq!(made.unwrap_err(), HeapError::NoMemory);
            continue;
        };
        match heap.run(|| (strings(500), vec![0_u64; 1 << 19])) {
            Ok((texts, large)) => {
                assert!(are_right(&texts) && large.iter().all(|&word| word == 0));
                kept.push(texts);
            }
            Err(error) => assert_eq!(error, HeapError::NoMemory),
        }
        heap.verify().unwrap();
    }
    kept.push(strings(1000));
    let map: HashMap<usize, String> =
        (0..2000).map(|number| (number, "m".repeat(number % 300))).collect();
    assert!(map.iter().all(|(number, text)| text.len() == number % 300));
    kept.push(thread::spawn(|| strings(500)).join().unwrap());
    assert!(kept.iter().all(|texts| are_right(texts)));
    drop(kept);
    purge();
}

#[test]
fn any_call_is_refused_from_any_moment_on() {
    let _alone = alone();
    for call in CALLS {
        for nth in 1..=40 {
            let faults = Faults::from(call, nth);
            work();
            drop(faults);
            work();
        }
    }
}

#[test]
fn a_heap_cannot_be_made_without_memory_for_its_records() {
    let _alone = alone();
    let faults = Faults::from(Call::Map, 1);
    let mut heaps = Vec::new();
    // The mapped piece of records runs out, for the shorter ones last, and then it is an error.
    for hint in HINTS {
        let error = loop {
            match Heap::with_hint(hint) {
                Ok(heap) => heaps.push(heap),
                Err(error) => break error,
            }
        };
        assert_eq!(error, HeapError::NoMemory);
        assert!(Heap::with_hint(hint).is_err());
    }
    drop(faults);
    assert!(Heap::new().is_ok());
}

#[test]
fn entering_deep_without_memory_is_an_error_and_changes_nothing() {
    let _alone = alone();
    let heaps: Vec<Heap> = (0..100_000).map(|_| Heap::new().unwrap()).collect();
    let faults = Faults::from(Call::Map, 1);
    let mut guards = Vec::new();
    let refused = heaps.iter().find_map(|heap| match with_global(|| guards.reserve(1)) {
        Ok(()) => match heap.enter() {
            Ok(guard) => {
                guards.push(guard);
                None
            }
            Err(error) => Some((heap, error)),
        },
        Err(error) => Some((heap, error)),
    });
    drop(faults);
    let (heap, error) = refused.expect("the stack of contexts grew without memory");
    assert_eq!(error, HeapError::NoMemory);
    drop(guards.drain(..).rev().collect::<Vec<_>>());
    assert_eq!(current(), heapswitch::CurrentAllocatorInUse::ThreadLocal);
    assert!(heap.enter().is_ok());
}

#[test]
fn what_a_heap_cannot_serve_comes_from_the_global_allocator_and_is_counted() {
    let _alone = alone();
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let faults = Faults::from(Call::Protect, 1);
        let before = process_usage().overflow_blocks;
        let blocks = heap.run(|| {
            let mut blocks = Vec::new();
            while process_usage().overflow_blocks == before {
                blocks.push(vec![7_u8; 30_000]);
            }
            blocks
        });
        let blocks = blocks.unwrap();
        assert!((&heap).allocate(std::alloc::Layout::new::<[u8; 1 << 20]>()).is_err());
        assert!(!heap.contains(blocks.last().unwrap().as_ptr()));
        assert!(heap.contains(blocks[0].as_ptr()));
        drop(faults);
        assert!(blocks.iter().all(|block| block.iter().all(|&byte| byte == 7)));
        let more = heap.run(|| vec![1_u8; 30_000]).unwrap();
        assert!(heap.contains(more.as_ptr()));
    }
}

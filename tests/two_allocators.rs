//! Two allocators declared in one program: one is installed, the other called by hand.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::alloc::{GlobalAlloc, Layout};
use std::thread;

use heapswitch::{Heap, LifetimeHint, with_global};

mod installed {
    heapswitch::global_thread_and_coroutine_switchable_allocator! {
        coroutine = bump,
        call_sites = all,
    }
}

mod by_hand {
    heapswitch::global_thread_and_coroutine_switchable_allocator! {
        /// The other.
        pub(crate) struct Other;
        coroutine = trees,
        thread = bit_set(block_bytes = 32),
        install = false,
    }
}

/// A vector's worth of blocks from the allocator that is called by hand.
fn blocks_of_other() -> Vec<(usize, Layout)> {
    (1..400_usize)
        .map(|size| {
            let layout = Layout::from_size_align(size * 13, 8).unwrap();
            // SAFETY: the layout is not empty, and the block that long.
            unsafe {
                let block = by_hand::Other.alloc(layout);
                block.write_bytes(size as u8, layout.size());
                (block.expose_provenance(), layout)
            }
        })
        .collect()
}

fn free_in_other(blocks: Vec<(usize, Layout)>) {
    for (address, layout) in blocks {
        let block = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the block came from this allocator with this layout, grown by its own `realloc`.
        unsafe {
            let byte = (layout.size() / 13) as u8;
            assert_eq!((block.read(), block.add(layout.size() - 1).read()), (byte, byte));
            let grown = by_hand::Other.realloc(block, layout, layout.size() * 2);
            assert_eq!(grown.add(layout.size() - 1).read(), byte);
            let layout = Layout::from_size_align(layout.size() * 2, 8).unwrap();
            by_hand::Other.dealloc(grown, layout);
        }
    }
}

#[test]
fn both_serve_side_by_side() {
    let heap = Heap::new().unwrap();
    assert_eq!(heap.strategy(), "bump with sites");
    let hinted = Heap::with_hint(LifetimeHint::Medium).unwrap();
    assert_eq!(hinted.strategy(), "bit_set with sites");
    let here = blocks_of_other();
    let inside = heap.run(blocks_of_other).unwrap();
    let global = with_global(blocks_of_other).unwrap();
    thread::spawn(move || {
        let mine = blocks_of_other();
        let boxed = Box::new(5);
        free_in_other(here);
        free_in_other(mine);
        assert_eq!(*boxed, 5);
    })
    .join()
    .unwrap();
    let report = heap.close();
    assert!(report.blocks >= 399);
    // What the installed one was told to record, the other's allocations in its heap as well.
    assert_eq!(report.sites.blocks(), report.blocks as u64);
    let text = report.sites.to_string();
    assert!(text.contains(" in 399 blocks: two_allocators::blocks_of_other"), "{text}");
    free_in_other(inside);
    free_in_other(global);
}

#[test]
fn either_may_be_the_first_that_a_thread_uses() {
    for _ in 0..100 {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                thread::spawn(move || {
                    let first = (number % 2 == 0).then(blocks_of_other);
                    let text = "x".repeat(1000);
                    first.into_iter().for_each(free_in_other);
                    text
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().len(), 1000);
        }
    }
}

//! Questions about addresses: who owns them, whether a heap holds them, how much of a block may be
//! used. With the allocator really installed.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use heapswitch::strategy::slab::Slab;
use heapswitch::{
    Allocator, Heap, HeapSwitch, MemoryMapAllocator, flush_foreign_frees, owner_of, thread_heap_id,
    usable_size, with_global,
};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;

/// One test at a time: what one gives back another's heap would take, and own.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn each_byte_of_a_block_is_its_heaps() {
    let _alone = alone();
    for hint in HINTS {
        let (heap, other) = (Heap::with_hint(hint).unwrap(), Heap::with_hint(hint).unwrap());
        assert_ne!(heap.id(), other.id());
        for size in [1, 100, 5000, 40_000, CHUNK, 10 * CHUNK + 1] {
            let block = heap.run(|| vec![1_u8; size]).unwrap();
            for offset in [0, size / 2, size - 1] {
                let address = &raw const block[offset];
                assert_eq!(owner_of(address), Some(heap.id()), "{offset} of {size}, {hint:?}");
                assert!(heap.contains(address) && !other.contains(address));
            }
        }
    }
}

#[test]
fn what_no_heap_holds_has_no_owner() {
    let _alone = alone();
    static STATIC: u8 = 1;
    let local = 2_u8;
    let global = with_global(|| Box::new(3_u8)).unwrap();
    let mapped = MemoryMapAllocator::new();
    let layout = Layout::new::<[u8; 4096]>();
    let mapping = mapped.allocate(layout).unwrap();
    let code: *const u8 = what_no_heap_holds_has_no_owner as *const () as *const u8;
    let heap = Heap::new().unwrap();
    let nowhere = [std::ptr::null(), std::ptr::without_provenance(usize::MAX)];
    let held = [&raw const STATIC, &raw const local, &raw const *global, code];
    for address in nowhere.into_iter().chain(held).chain([mapping.as_ptr().cast_const().cast()]) {
        assert_eq!(owner_of(address), None, "{address:?}");
        assert!(!heap.contains(address));
    }
    // SAFETY: allocated above.
    unsafe { mapped.deallocate(mapping.cast(), layout) };
}

#[test]
fn a_threads_own_heap_is_an_owner_as_any_other() {
    let _alone = alone();
    let mine = Box::new([1_u8; 100]);
    let id = thread_heap_id();
    assert!(id.is_some());
    assert_eq!(owner_of(mine.as_ptr()), id);
    let theirs = thread::spawn(move || {
        let own = Box::new(1_u8);
        assert_eq!(owner_of(mine.as_ptr()), id);
        assert_eq!(owner_of(&raw const *own), thread_heap_id());
        assert_ne!(thread_heap_id(), id);
    });
    theirs.join().unwrap();
}

#[test]
fn an_escapee_has_an_owner_until_it_is_freed() {
    let _alone = alone();
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let id = heap.id();
        let (small, large) = heap.run(|| (vec![1_u8; 30], vec![2_u8; 3 * CHUNK])).unwrap();
        assert_eq!(heap.close().blocks, 2);
        let addresses = [small.as_ptr(), &raw const large[2 * CHUNK]];
        assert_eq!(addresses.map(owner_of), [Some(id); 2]);
        drop((small, large));
        flush_foreign_frees();
        assert_eq!(addresses.map(owner_of), [None; 2], "{hint:?}");
    }
}

/// Every byte that is said to be usable can be written, and no neighbour's is touched.
#[test]
fn what_is_usable_is_the_blocks_and_no_more() {
    let _alone = alone();
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let mut blocks = Vec::new();
        for size in [1, 7, 8, 9, 33, 100, 1000, 5000, 32_768, 32_769, CHUNK + 1] {
            for align in [1, 8, 64, 4096] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the size is not zero, and the block is as long as it says it may be used.
                unsafe {
                    let start = heap.run(|| GLOBAL.alloc(layout)).unwrap();
                    let start = NonNull::new(start).unwrap();
                    let usable = usable_size(start, layout);
                    assert_eq!(Ok(usable), heap.block_length(layout));
                    assert!(usable >= size);
                    // Any layout that fits says the same.
                    let longest = Layout::from_size_align(usable, align).unwrap();
                    assert_eq!(usable_size(start, longest), usable);
                    start.write_bytes(blocks.len() as u8, usable);
                    blocks.push((start.as_ptr().expose_provenance(), layout, usable));
                }
            }
        }
        // Another thread may ask as well, whoever runs the heap.
        let blocks = thread::spawn(move || {
            for &(address, layout, usable) in &blocks {
                let start = std::ptr::with_exposed_provenance_mut(address);
                // SAFETY: allocated above with that layout.
                assert_eq!(unsafe { usable_size(NonNull::new(start).unwrap(), layout) }, usable);
            }
            blocks
        });
        for (number, (address, layout, usable)) in blocks.join().unwrap().into_iter().enumerate() {
            let start: *mut u8 = std::ptr::with_exposed_provenance_mut(address);
            // SAFETY: allocated above with that layout, and freed here.
            unsafe {
                let bytes = std::slice::from_raw_parts(start, usable);
                assert!(bytes.iter().all(|&byte| byte == number as u8), "{layout:?}");
                GLOBAL.dealloc(start, layout);
            }
        }
    }
}

#[test]
fn of_the_global_allocators_blocks_what_was_asked_for_is_usable() {
    let _alone = alone();
    let layout = Layout::new::<[u8; 100]>();
    // SAFETY: the size is not zero; freed below.
    let block = with_global(|| NonNull::new(unsafe { GLOBAL.alloc(layout) })).unwrap().unwrap();
    // SAFETY: allocated above.
    unsafe {
        assert_eq!(usable_size(block, layout), 100);
        GLOBAL.dealloc(block.as_ptr(), layout);
    }
}

/// A size may have a class where the alignment wants a run: such a block is as long as its run,
/// whatever waits in the lists. What may be used of it, and growing it in place, go by its layout.
#[test]
fn what_has_a_run_by_its_alignment_never_comes_from_a_list() {
    let _alone = alone();
    let of_a_class = Layout::from_size_align(8192, 8).unwrap();
    let aligned = Layout::from_size_align(5000, 8192).unwrap();
    let heap = Heap::builder().build_kind::<Slab>(()).unwrap();
    // SAFETY: the layouts have sizes, and each block is freed once with its layout.
    unsafe {
        let listed = [(); 3].map(|()| GLOBAL.alloc(of_a_class));
        listed.into_iter().for_each(|block| GLOBAL.dealloc(block, of_a_class));
        let block = GLOBAL.alloc(aligned);
        assert_eq!(usable_size(NonNull::new(block).unwrap(), aligned), CHUNK);
        assert_eq!(block.addr() % CHUNK, 0, "no run begins here");
        GLOBAL.dealloc(block, aligned);

        let listed = [(); 3].map(|()| (&heap).allocate(of_a_class).unwrap());
        listed.into_iter().for_each(|block| (&heap).deallocate(block.cast(), of_a_class));
        let block = (&heap).allocate(aligned).unwrap();
        assert_eq!(block.len(), CHUNK);
        (&heap).deallocate(block.cast(), aligned);
    }
}

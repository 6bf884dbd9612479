//! What the `check` build finds: `RUSTFLAGS="--cfg heapswitch_check" cargo test --test check`.
#![cfg(heapswitch_check)]

mod child;

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;

use allocator_api2::alloc::Allocator;
use child::fails_with;
use heapswitch::__private::{settings, strategy};
use heapswitch::{Fit, Heap, HeapSwitch, LifetimeHint, owner_of, thread_heap_id};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// A heap of each kind, with its name.
fn heaps() -> [(&'static str, Heap); 7] {
    let first_fit = settings::free_list(Fit::First);
    let hinted = |hint| Heap::with_hint(hint).unwrap();
    [
        ("bump", hinted(LifetimeHint::Short)),
        ("bits", hinted(LifetimeHint::Medium)),
        ("trees", hinted(LifetimeHint::Long)),
        ("slab", Heap::builder().build_kind::<strategy::Slab>(()).unwrap()),
        ("free list", Heap::builder().build_kind::<strategy::FreeList>(first_fit).unwrap()),
        ("buddy", Heap::builder().build_kind::<strategy::Buddy>(()).unwrap()),
        ("stripes", Heap::builder().build_kind::<strategy::Stripes>(()).unwrap()),
    ]
}

const BLOCK: Layout = Layout::new::<[u64; 8]>();

fn allocate_in(heap: &Heap) -> *mut u8 {
    heap.run(|| Box::into_raw(Box::new(black_box([7_u64; 8]))).cast()).unwrap()
}

/// Frees, as nobody should.
fn free(block: *mut u8) {
    // SAFETY: none, which is what is tested: the process has to stop in here where this is unsound.
    unsafe { dealloc(black_box(block), BLOCK) };
}

const NOT_ALLOCATED: &str = "a block is freed that is not allocated, perhaps freed before: 0x";

#[test]
fn a_second_free_stops_the_process() {
    for (name, heap) in heaps() {
        fails_with("a_second_free_stops_the_process", name, NOT_ALLOCATED, || {
            heap.run(|| {
                let block = Box::into_raw(Box::new([7_u64; 8])).cast();
                let neighbour = Box::new([8_u64; 8]);
                free(block);
                free(block);
                drop(neighbour);
            })
            .unwrap();
        });
    }
}

/// In the thread's own heap, where a small block's free is inline and a larger one's is not.
#[test]
fn a_second_free_in_the_threads_heap_stops_the_process() {
    let test = "a_second_free_in_the_threads_heap_stops_the_process";
    fails_with(test, "small", NOT_ALLOCATED, || {
        let block = Box::into_raw(Box::new(black_box([7_u64; 8]))).cast();
        assert_eq!(owner_of(block), thread_heap_id());
        free(block);
        free(block);
    });
    for bytes in [2000, 30_000] {
        fails_with(test, &bytes.to_string(), NOT_ALLOCATED, || {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            // SAFETY: none, which is what is tested.
            unsafe {
                let block = black_box(alloc(layout));
                dealloc(block, layout);
                dealloc(block, layout);
            }
        });
    }
}

/// Of a block whose chunks are nobody's by then, and where there are no chunks at all.
#[test]
fn a_free_where_nobody_owns_the_chunk_stops_the_process() {
    let test = "a_free_where_nobody_owns_the_chunk_stops_the_process";
    let layout = Layout::from_size_align(4 << 20, 8).unwrap();
    // SAFETY: none, in any of these, which is what is tested.
    fails_with(test, "second free", NOT_ALLOCATED, || unsafe {
        let block = black_box(alloc(layout));
        dealloc(block, layout);
        dealloc(block, layout);
    });
    // SAFETY: as above.
    fails_with(test, "second free in a heap", NOT_ALLOCATED, || unsafe {
        let heap = Heap::new().unwrap();
        let block = (&heap).allocate(layout).unwrap().cast();
        (&heap).deallocate(block, layout);
        (&heap).deallocate(block, layout);
    });
    // SAFETY: as above.
    fails_with(test, "resize", "a block is resized that is not allocated", || unsafe {
        let block = black_box(alloc(layout));
        dealloc(block, layout);
        black_box(realloc(block, layout, 8 << 20));
    });
    // Where the region is as long as it is by default.
    let far = |block: *const [u64; 8]| block.cast::<u8>().cast_mut().wrapping_add(600 << 30);
    if GLOBAL.contains(far(&raw const *Box::new([7_u64; 8]))) {
        fails_with(test, "no chunk", NOT_ALLOCATED, || free(far(Box::into_raw(Box::new([7; 8])))));
    }
}

#[test]
fn a_second_free_by_another_thread_stops_the_process() {
    for (name, heap) in heaps() {
        let test = "a_second_free_by_another_thread_stops_the_process";
        fails_with(test, name, NOT_ALLOCATED, || {
            let block = allocate_in(&heap).addr();
            let free_there = move || free(std::ptr::with_exposed_provenance_mut(block));
            std::thread::spawn(free_there).join().unwrap();
            std::thread::spawn(free_there).join().unwrap();
        });
    }
}

#[test]
fn a_second_free_after_the_close_stops_the_process() {
    for (name, heap) in heaps() {
        let test = "a_second_free_after_the_close_stops_the_process";
        fails_with(test, name, NOT_ALLOCATED, || {
            let (block, survivor) = (allocate_in(&heap), allocate_in(&heap));
            heap.close();
            free(block);
            free(block);
            free(survivor);
        });
    }
}

#[test]
fn a_free_of_what_is_no_block_stops_the_process_and_names_it() {
    for (name, heap) in heaps() {
        let test = "a_free_of_what_is_no_block_stops_the_process_and_names_it";
        let errors = child::failing(test, name, || {
            let inside = allocate_in(&heap).wrapping_add(16);
            eprintln!("freeing {:#018x}", inside.addr());
            free(inside);
        });
        if let Some((_, freed)) = errors.split_once("freeing ") {
            let address = &freed[..18];
            assert!(errors.contains(&format!("{NOT_ALLOCATED}{}", &address[2..])), "{errors}");
            assert!(errors.contains(&format!(", page {}000, class", &address[..15])), "{errors}");
            // Only the slab's chunks have blocks of one length.
            let class = if name == "slab" { "0x0000000000000040" } else { "no class" };
            assert!(errors.contains(&format!("class of bytes: {class}")), "{errors}");
        }
    }
}

#[test]
#[cfg(not(heapswitch_asan))] // It reads freed memory.
fn freed_memory_is_filled() {
    for (name, heap) in heaps() {
        heap.run(|| {
            let block = Box::into_raw(Box::new([7_u64; 8])).cast::<u8>();
            let neighbour = Box::new([8_u64; 8]);
            free(block);
            // SAFETY: the memory is still mapped, and nobody got it since.
            let bytes = unsafe { std::slice::from_raw_parts(black_box(block), 64) };
            // What no strategy keeps words in.
            assert!(bytes[40..48].iter().all(|&byte| byte == 0xDE), "{name}: {bytes:x?}");
            drop(neighbour);
        })
        .unwrap();
    }
}

/// A strategy whose links in free memory are overwritten says so at the next check, under its name.
/// The slab and the bump keep none there.
#[test]
#[cfg(not(heapswitch_asan))] // It writes to freed memory.
fn a_corrupted_structure_stops_the_process_and_is_named() {
    let named = [
        ("bits", "heapswitch: bit_set: "),
        ("trees", "heapswitch: trees: "),
        ("free list", "heapswitch: free_list: "),
        ("buddy", "heapswitch: buddy: "),
    ];
    for (name, heap) in heaps() {
        let Some((_, message)) = named.iter().find(|(kind, _)| *kind == name) else { continue };
        let test = "a_corrupted_structure_stops_the_process_and_is_named";
        fails_with(test, name, message, || {
            // Buddies write nothing into the blocks of a length that were freed last.
            let blocks = if name == "buddy" { 64 } else { 3 };
            let blocks: Vec<_> = (0..blocks).map(|_| allocate_in(&heap)).collect();
            // Every other one, so that none joins its neighbour.
            let freed = || blocks.iter().skip(1).step_by(2);
            heap.run(|| freed().for_each(|&block| free(block))).unwrap();
            // SAFETY: none: this is the use after free that is to be noticed.
            freed().for_each(|&block| unsafe { black_box(block).write_bytes(0x55, 64) });
            heap.verify().unwrap();
        });
    }
}

#[test]
fn guards_dropped_in_the_wrong_order_stop_the_process() {
    let test = "guards_dropped_in_the_wrong_order_stop_the_process";
    fails_with(test, "guards", "guards of contexts were dropped in the wrong order", || {
        let heaps = [(); 2].map(|()| Heap::new().unwrap());
        let outer = heaps[0].enter().unwrap();
        let inner = heaps[1].enter().unwrap();
        drop(outer);
        drop(inner);
    });
}

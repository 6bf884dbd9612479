//! That damage to the slab's own records, which no program can reach by its blocks, is found and
//! named: by a heap's `verify`, which the `check` build calls on slow paths.

use core::sync::atomic::Ordering;

use allocator_api2::alloc::{Allocator, Layout};

use super::Heap;
use crate::region::owners::ChunkPlace;
use crate::region::{ChunkEntry, entry_of};
use crate::strategy::{Extent, extent_of, slab::Slab};

#[path = "../../tests/child/mod.rs"]
mod child;

/// What is done to a chunk's entry or the record of its extent.
type Damage = fn(&ChunkEntry, &Extent);

fn damaged(damage: Damage) {
    let heap = Heap::builder().build_kind::<Slab>(()).unwrap();
    let blocks = [(); 40].map(|()| (&heap).allocate(Layout::new::<[u64; 8]>()).unwrap());
    heap.verify().unwrap();
    let entry = entry_of(blocks[0].as_ptr().cast()).unwrap();
    // SAFETY: a block of the heap is allocated in the chunk, which is an extent.
    damage(entry, unsafe { extent_of(entry) });
    heap.verify().unwrap();
}

#[test]
fn damage_to_the_slabs_records_stops_the_process_and_is_named() {
    let cases: [(&str, &str, Damage); 5] = [
        ("bits", "an extent's bits of free blocks are corrupted", |_, extent| {
            // SAFETY: the slab has bits for each extent, and this thread alone uses the heap.
            let first = unsafe { extent.metadata().cast::<u64>().as_mut() };
            *first ^= 1 << 3;
        }),
        ("counts", "an extent's bits of free blocks are corrupted", |_, extent| {
            extent.words[1].set(extent.words[1].get() + 1);
        }),
        ("links", "the runs of a heap are corrupted: slab", |entry, _| {
            entry.previous.set(entry.previous.get() + 1);
        }),
        ("classes", "the runs of a heap are corrupted: slab", |entry, _| {
            ChunkPlace::of(entry).class_cell().fetch_add(1, Ordering::Relaxed);
        }),
        ("owners", "the runs of a heap are corrupted: slab", |entry, _| {
            ChunkPlace::of(entry).set_owner(core::ptr::null_mut());
        }),
    ];
    for (name, message, damage) in cases {
        let test = "switch::damage::damage_to_the_slabs_records_stops_the_process_and_is_named";
        child::fails_with(test, name, message, || damaged(damage));
    }
}

//! How many bytes a close reports of what outlives it: with every strategy the lengths of the
//! blocks, to the byte, whoever freed the others and when.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use heapswitch::strategy::bit_set::{BitSet, Settings};
use heapswitch::strategy::buddy::Buddy;
use heapswitch::strategy::bump::Bump;
use heapswitch::strategy::free_list::{self, FreeList};
use heapswitch::strategy::memory_map::MemoryMap;
use heapswitch::strategy::sites::{self, WithSites};
use heapswitch::strategy::slab::Slab;
use heapswitch::strategy::stripes::Stripes;
use heapswitch::strategy::trees::MultipleBinarySearchTree;
use heapswitch::{Allocator, Heap, HeapKind, flush_foreign_frees};

use super::GLOBAL;

/// Small ones, such as fill pages and chunks, and runs of their own.
const SIZES: [usize; 11] = [1, 8, 24, 100, 333, 1024, 1025, 5000, 30_000, 40_000, 200_000];

type Block = (NonNull<[u8]>, Layout);

fn allocate(heap: &Heap) -> Vec<Block> {
    let sizes = SIZES.iter().cycle().take(40 * SIZES.len());
    let allocated = sizes.map(|&size| {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let block = (&heap).allocate(layout).unwrap();
        assert_eq!(heap.block_length(layout), Ok(block.len()));
        (block, layout)
    });
    allocated.collect()
}

fn free(blocks: impl IntoIterator<Item = Block>) {
    for (block, layout) in blocks {
        // SAFETY: the block is allocated, and used no more.
        unsafe { GLOBAL.dealloc(block.cast().as_ptr(), layout) };
    }
}

fn free_elsewhere(blocks: Vec<Block>) {
    let blocks: Vec<_> = blocks
        .into_iter()
        .map(|(block, layout)| (block.cast::<u8>().expose_provenance(), layout))
        .collect();
    let free = move || {
        for (address, layout) in blocks {
            let block = std::ptr::with_exposed_provenance_mut(address.get());
            // SAFETY: the block is allocated, and the sender uses it no more.
            unsafe { GLOBAL.dealloc(block, layout) };
        }
        flush_foreign_frees();
    };
    std::thread::spawn(free).join().unwrap();
}

fn lengths(blocks: &[Block]) -> usize {
    blocks.iter().map(|(block, _)| block.len()).sum()
}

/// One in three is freed within, one in three elsewhere, and the rest outlives a reset and a close.
fn are_exact<K: HeapKind>(settings: K::Settings) {
    let mut heap = Heap::builder().build_kind::<K>(settings).unwrap();
    let mut outliving = Vec::new();
    for is_reset in [true, false] {
        let (mut here, mut elsewhere, mut kept) = (vec![], vec![], vec![]);
        for (index, block) in allocate(&heap).into_iter().enumerate() {
            [&mut here, &mut elsewhere, &mut kept][index % 3].push(block);
        }
        heap.run(|| free(here)).unwrap();
        free_elsewhere(elsewhere);
        let report = if is_reset {
            heap.reset().unwrap()
        } else {
            std::mem::replace(&mut heap, Heap::new().unwrap()).close()
        };
        let strategy = heap.strategy();
        assert_eq!((report.blocks, report.bytes), (kept.len(), lengths(&kept)), "{strategy}");
        assert!(report.bytes <= report.kept_bytes);
        outliving.extend(kept);
    }
    free(outliving);
}

#[test]
fn a_close_tells_the_bytes_of_what_outlives_it() {
    are_exact::<Bump<true>>(());
    are_exact::<BitSet>(Settings { block_bytes: 32 });
    are_exact::<BitSet>(Settings { block_bytes: 256 });
    are_exact::<MultipleBinarySearchTree>(());
    are_exact::<Slab>(());
    are_exact::<FreeList>(free_list::Settings::default());
    are_exact::<Buddy>(());
    are_exact::<Stripes>(());
    are_exact::<MemoryMap>(());
    are_exact::<WithSites<Bump<true>>>(sites::Settings::default());
}

#[test]
fn an_empty_heap_leaves_no_bytes() {
    let heap = Heap::new().unwrap();
    let blocks = allocate(&heap);
    free_elsewhere(blocks);
    let report = heap.close();
    assert_eq!((report.blocks, report.bytes, report.kept_bytes), (0, 0, 0));
    let heap = Heap::new().unwrap();
    drop(allocate(&heap));
    // SAFETY: what was allocated in it is used no more.
    assert_eq!(unsafe { heap.discard_unchecked() }.bytes, 0);
}

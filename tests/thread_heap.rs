//! How a slab heap hands its blocks out: of a new chunk page by page, and in order of address,
//! whatever was freed how; and what comes and goes again and again stays at hand. One test, for
//! what other threads leave would be in the way.
#![cfg(not(any(heapswitch_pass_through, heapswitch_asan, loom)))]

use std::alloc::{Layout, alloc, dealloc};

use heapswitch::HeapSwitch;
use heapswitch::strategy::Strategy;
use heapswitch::strategy::slab::Slab;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK_BYTES: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;

/// Blocks of a length that nothing else here asks for.
#[derive(Clone, Copy)]
struct Blocks {
    layout: Layout,
}

impl Blocks {
    fn of(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        assert_eq!(Slab::new(()).block_length(layout), Ok(bytes), "no length of a class");
        Self { layout }
    }

    fn make(self) -> *mut u8 {
        // SAFETY: the layout is not empty.
        let block = unsafe { alloc(self.layout) };
        assert!(!block.is_null());
        block
    }

    fn make_all(self, count: usize) -> Vec<*mut u8> {
        let mut blocks = Vec::with_capacity(count);
        blocks.extend((0..count).map(|_| self.make()));
        blocks
    }

    fn free(self, block: *mut u8) {
        // SAFETY: the block was made with this layout, and is freed once.
        unsafe { dealloc(block, self.layout) };
    }
}

/// The pages of a block's chunk that are resident.
fn resident_pages(block: *mut u8) -> usize {
    let chunk = block.map_addr(|address| address & !(CHUNK_BYTES - 1));
    let mut pages = [0_u8; CHUNK_BYTES / PAGE_BYTES];
    // SAFETY: the chunk is mapped, and `pages` has a byte for each of its pages.
    assert_eq!(unsafe { libc::mincore(chunk.cast(), CHUNK_BYTES, pages.as_mut_ptr()) }, 0);
    pages.iter().filter(|page| **page & 1 == 1).count()
}

/// New blocks follow one another, and their pages are touched as they are written, not before.
fn new_blocks_are_carved_page_by_page() {
    for bytes in [448, 896, 3072] {
        let blocks = Blocks::of(bytes);
        let first = blocks.make();
        let before = resident_pages(first);
        // SAFETY: the block is as long.
        unsafe { first.write_bytes(1, bytes) };
        assert!(resident_pages(first) <= before + 1 && before <= 1, "{bytes}: {before}");
        let mut made = vec![first];
        let mut is_new_chunk = false;
        while !is_new_chunk {
            let (last, block) = (*made.last().unwrap(), blocks.make());
            is_new_chunk = (last.addr() ^ block.addr()) >= CHUNK_BYTES;
            assert!(is_new_chunk || block.addr() == last.addr() + bytes, "{last:?} {block:?}");
            // SAFETY: the block is as long.
            unsafe { block.write_bytes(1, bytes) };
            made.push(block);
            let used = made.len() * bytes;
            let most = used.div_ceil(PAGE_BYTES) + 1;
            assert!(is_new_chunk || resident_pages(first) <= most, "{bytes}: {used} bytes");
        }
        made.into_iter().for_each(|block| blocks.free(block));
    }
}

/// Objects that are made and dropped by the hundred, again and again, are soon had without a slow
/// path, though there are half as many again as a magazine holds at first.
fn what_comes_and_goes_stays_at_hand() {
    let first_of_48 = 520;
    let counts = [first_of_48, 600, 700, 850, 1000].map(|count| (48, count));
    for (bytes, count) in [(24, 1000), (224, 210), (640, 75), (1792, 26)].into_iter().chain(counts)
    {
        let blocks = Blocks::of(bytes);
        let mut made = Vec::with_capacity(count);
        let mut slow_of_rounds = |rounds: usize| {
            let before = heapswitch::process_usage().slow_allocations;
            for _ in 0..rounds {
                made.extend((0..count).map(|_| blocks.make()));
                made.drain(..).rev().for_each(|block| blocks.free(block));
            }
            heapswitch::process_usage().slow_allocations - before
        };
        let (first, later) = (slow_of_rounds(30), slow_of_rounds(100));
        println!("{bytes}: {first} slow allocations in 30 rounds, {later} in 100 more");
        let is_new = bytes != 48 || count == first_of_48;
        assert!(first > 0 || !is_new, "{bytes}: nothing was ever refilled");
        assert_eq!(later, 0, "{bytes}: slow allocations in 100 rounds");
    }
}

/// What was freed at random comes back in rows, but for what the magazine held.
fn refills_are_in_order_of_address() {
    for bytes in [224, 640] {
        let (blocks, count) = (Blocks::of(bytes), (4 << 20) / bytes);
        let mut made = blocks.make_all(count);
        let mut seed = 3_u64;
        for at in (1..made.len()).rev() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            made.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let descents = |blocks: &[*mut u8]| {
            blocks.windows(2).filter(|pair| pair[1].addr() < pair[0].addr()).count()
        };
        assert!(descents(&made) > count / 3, "they are not freed at random");
        // One of 16 stays, so that chunks keep their class and have holes.
        let kept = made.split_off(count - count / 16);
        made.drain(..).for_each(|block| blocks.free(block));
        let again = blocks.make_all(count / 2);
        let in_magazine = (32 << 10) / bytes;
        let found = descents(&again[in_magazine..]);
        println!("{bytes}: {found} descents in {count} blocks");
        assert!(found * 16 < again.len(), "{bytes}: {found} of {}", again.len());
        again.into_iter().chain(kept).for_each(|block| blocks.free(block));
    }
}

#[test]
fn blocks_are_handed_out_in_order_of_address() {
    new_blocks_are_carved_page_by_page();
    what_comes_and_goes_stays_at_hand();
    // Of lengths that came and went before.
    refills_are_in_order_of_address();
}

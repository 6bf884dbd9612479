//! The workloads on the least that an allocator can do: not one to use, but what the others'
//! loops over small objects are measured against.
//!
//! Each thread has a list of free blocks for each size. Allocating takes the first block of a list,
//! freeing puts one back in front. Whether the list is empty is all that is ever checked: not whose
//! a block is, nor what it is, and nothing is counted. What was freed stays in the lists of the
//! thread that freed it; no memory is ever given back, merged, or used for another size, and the
//! lists of a thread that ends are lost. So it runs what each thread does alone, and not for long.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Sizes up to this have a list for each multiple of 8 bytes, larger ones for each power of two.
const SMALL_BYTES: usize = 1024;
const STEP_BYTES: usize = 8;
const SMALL_LISTS: usize = SMALL_BYTES / STEP_BYTES + 1;
const LISTS: usize = SMALL_LISTS + usize::BITS as usize;
/// What a thread cuts its small blocks from, in the order of addresses.
const CHUNK_BYTES: usize = 1 << 20;
/// All that can ever be handed out: only what is touched takes memory. More would not fit beside
/// valgrind.
const REGION_BYTES: usize = 1 << 33;

static REGION: AtomicUsize = AtomicUsize::new(0);
/// How much of the region is handed out.
static USED_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Lists {
    free: [*mut u8; LISTS],
    next: usize,
    end: usize,
}

thread_local! {
    static LISTS_OF_THREAD: UnsafeCell<Lists> =
        const { UnsafeCell::new(Lists { free: [ptr::null_mut(); LISTS], next: 0, end: 0 }) };
}

struct Floor;

#[global_allocator]
static GLOBAL: Floor = Floor;

/// The list of a layout's size, and the size of the blocks in it.
#[inline]
fn list_of(layout: Layout) -> (usize, usize) {
    let size = layout.size().max(STEP_BYTES);
    if size <= SMALL_BYTES && layout.align() <= STEP_BYTES {
        let list = size.div_ceil(STEP_BYTES);
        return (list, list * STEP_BYTES);
    }
    let size = size.max(layout.align()).next_power_of_two();
    (SMALL_LISTS + size.ilog2() as usize, size)
}

// SAFETY: a block is handed out once, from the region or from the list its freeing put it in, and
// lists are a thread's own. Small blocks are multiples of 8 bytes apart, larger ones aligned to
// their size.
unsafe impl GlobalAlloc for Floor {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (list, block_bytes) = list_of(layout);
        LISTS_OF_THREAD.with(|lists| {
            // SAFETY: the thread's own, and nothing called from here allocates.
            let lists = unsafe { &mut *lists.get() };
            let first = lists.free[list];
            if first.is_null() {
                return lists.cut(block_bytes);
            }
            // SAFETY: a free block holds the address of the next.
            lists.free[list] = unsafe { first.cast::<*mut u8>().read() };
            first
        })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (list, _) = list_of(layout);
        LISTS_OF_THREAD.with(|lists| {
            // SAFETY: as above.
            let lists = unsafe { &mut *lists.get() };
            // SAFETY: the block is free, and at least 8 bytes at a multiple of 8.
            unsafe { block.cast::<*mut u8>().write(lists.free[list]) };
            lists.free[list] = block;
        });
    }
}

impl Lists {
    /// A block that nobody had before.
    #[cold]
    #[inline(never)]
    fn cut(&mut self, block_bytes: usize) -> *mut u8 {
        if block_bytes > SMALL_BYTES {
            return from_region(block_bytes, block_bytes);
        }
        if self.end - self.next < block_bytes {
            let chunk = from_region(CHUNK_BYTES, STEP_BYTES);
            if chunk.is_null() {
                return chunk;
            }
            (self.next, self.end) = (chunk.expose_provenance(), chunk.addr() + CHUNK_BYTES);
        }
        let block = ptr::with_exposed_provenance_mut(self.next);
        self.next += block_bytes;
        block
    }
}

/// So many bytes of the region, at a multiple of `align`, a power of two; null when it is used up.
fn from_region(size_bytes: usize, align: usize) -> *mut u8 {
    let region = region();
    let align_up = |used: usize| (region + used).next_multiple_of(align) - region;
    let mut used = USED_BYTES.load(Relaxed);
    loop {
        let start = align_up(used);
        if size_bytes > REGION_BYTES - start.min(REGION_BYTES) {
            return ptr::null_mut();
        }
        match USED_BYTES.compare_exchange_weak(used, start + size_bytes, Relaxed, Relaxed) {
            Ok(_) => return ptr::with_exposed_provenance_mut(region + start),
            Err(now) => used = now,
        }
    }
}

/// Where the region begins. Reserved by the first caller, before there are threads.
fn region() -> usize {
    let known = REGION.load(Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: a new mapping, at a place that the system chooses.
    let region = unsafe {
        libc::mmap(
            ptr::null_mut(),
            REGION_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if region == libc::MAP_FAILED {
        // SAFETY: it ends the program.
        unsafe { libc::abort() };
    }
    REGION.store(region.expose_provenance(), Relaxed);
    region.addr()
}

fn owns(block: *const u8) -> bool {
    block.addr().wrapping_sub(region()) < REGION_BYTES
}

fn main() {
    let local = 0;
    assert!(!owns(&raw const local), "the floor claims the stack");
    workloads::run("floor", env!("CARGO_PKG_VERSION"), "0.", owns);
}

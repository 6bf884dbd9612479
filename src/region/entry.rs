//! The chunk table's entry.

use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

use super::label::Label;
use crate::sync::{AtomicPtr, ChunkWord};

/// The bytes of one entry: two cache lines, which processors prefetch as a pair. The first has what
/// who collects others' frees reads, the second the strategy's record. In the `check` build 1024
/// more, for the bits of the chunk's blocks.
pub const ENTRY_BYTES: usize = if cfg!(heapswitch_check) { 128 + 1024 } else { 128 };

/// Space for a strategy's record about the run that starts here.
pub type RecordSpace = UnsafeCell<MaybeUninit<[u64; 10]>>;

/// What is known about one chunk.
///
/// # Invariants
/// - `owner` is null in a free chunk. In a taken run it is set in every chunk before the run's
///   first block is handed out, and cleared after its last one was freed. [`owners`](super::owners)
///   says the same.
/// - The cells belong to whoever may change the chunk: the lock of the segment's kind while the
///   chunk is free, the thread that runs the owner, or holds the owner's lock, while it is taken;
///   after the owner's close, nobody.
/// - All zero bytes are a valid entry: a chunk that was never used.
#[repr(C, align(128))]
pub struct ChunkEntry {
    /// The heap that owns the chunk. Written by [`Run::set_owner`](super::Run::set_owner), which
    /// writes both tables.
    pub(super) owner: AtomicPtr<u8>,
    /// After the owner's close: blocks still allocated in the run, with the closed bit. Of a run's
    /// first chunk.
    pub word: ChunkWord,
    /// The length of the run that starts here, in chunks; of a free run, in its first chunk.
    pub run_chunks: Cell<u32>,
    /// How many chunks back the run starts. Of a free run, in its last chunk.
    pub head_distance: Cell<u32>,
    /// The next in the list that the run is in: the heap's, or the bin's of free runs.
    pub next: Cell<u32>,
    /// The previous one in that list.
    pub previous: Cell<u32>,
    /// Blocks of the run that are currently allocated, as far as the runner counts them.
    pub live: Cell<u32>,
    /// For the owner of the run.
    pub tag: Cell<u8>,
    /// For the runs of free chunks: whether a free run starts or ends here.
    pub(super) edge: Cell<u8>,
    /// Which length the blocks in the chunk have, for frees that do not tell: see [`class`].
    ///
    /// [`class`]: super::class
    pub(super) class: AtomicU8,
    /// What anyone may read about the chunk, for maps of the region.
    pub label: Label,
    /// For the owner of the run.
    pub record: RecordSpace,
    /// Where blocks start that are allocated. Anyone's.
    #[cfg(heapswitch_check)]
    pub blocks: super::BlockBits,
}

const _: () = assert!(size_of::<ChunkEntry>() == ENTRY_BYTES);

impl ChunkEntry {
    /// The heap that owns the chunk; null where none does.
    // Relaxed: who was handed a block got it by an edge that orders its chunk's owner too. For
    // others a chunk may be taken or given back at any time.
    #[inline]
    pub fn owner(&self) -> *mut u8 {
        self.owner.load(Ordering::Relaxed)
    }
}

impl core::fmt::Debug for ChunkEntry {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("ChunkEntry").field("owner", &self.owner).finish_non_exhaustive()
    }
}

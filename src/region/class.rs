//! Which length the blocks of a chunk have: for who frees without telling a size, as C does.
//!
//! A class is set before the chunk's first block is handed out, and stays as long as one is
//! allocated. So whoever holds a block may read it, on whichever thread: in the entry, beside the
//! owner, or from [`ChunkPlace::class`]. Changing one costs two atomic additions, once a chunk.

use core::sync::atomic::{AtomicU64, Ordering};

use super::ChunkEntry;
use super::owners::ChunkPlace;

/// No class: the chunk is free, its blocks differ in length, or it continues a run.
pub const NO_CLASS: u8 = 0;

/// The run that starts at the chunk is one block.
pub const WHOLE_RUN: u8 = u8::MAX;

const CLASSES: usize = WHOLE_RUN as usize + 1;

/// Runs that were given to a class, and those that still are.
#[derive(Debug)]
struct Count {
    given: AtomicU64,
    held: AtomicU64,
}

static COUNTS: [Count; CLASSES] =
    [const { Count { given: AtomicU64::new(0), held: AtomicU64::new(0) } }; CLASSES];

impl ChunkEntry {
    /// The class of the chunk's blocks.
    #[inline]
    pub fn class(&self) -> u8 {
        // Relaxed: the block was handed to this thread by an edge that orders this too.
        self.class.load(Ordering::Relaxed)
    }

    /// Sets the class, of a chunk in which no block is allocated and that the caller alone changes.
    pub fn set_class(&self, class: u8) {
        let old = self.class();
        if old == class {
            return;
        }
        self.class.store(class, Ordering::Relaxed);
        ChunkPlace::of(self).class_cell().store(class, Ordering::Relaxed);
        if class != NO_CLASS
            && let Some(count) = COUNTS.get(usize::from(class))
        {
            count.given.fetch_add(1, Ordering::Relaxed);
            count.held.fetch_add(1, Ordering::Relaxed);
        }
        if old != NO_CLASS
            && let Some(count) = COUNTS.get(usize::from(old))
        {
            count.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs of a class that were taken since the process's start, and that are held now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassUsage {
    /// Since the start.
    pub given_runs: u64,
    /// Now, those that heaps keep without a block included.
    pub held_runs: u64,
}

/// What the process's heaps hold of a class.
pub fn class_usage(class: u8) -> ClassUsage {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    COUNTS.get(usize::from(class)).map_or(ClassUsage { given_runs: 0, held_runs: 0 }, |count| {
        ClassUsage { given_runs: read(&count.given), held_runs: read(&count.held) }
    })
}

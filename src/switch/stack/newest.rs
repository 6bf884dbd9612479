//! The heap that was entered last: not put into the stack's slots before something is to stand on
//! it, or asks for all entries.
//!
//! ```text
//!   slots   │ base │ entry │ ... │ top │           newest: name, heap
//! ```
//! Most heaps are entered and left with nothing entered between. That takes two stores here and one
//! load to see that it is so, and no look at what stands below: what is in use there was noted when
//! the slots changed last. Switching is bound by its loads and stores.

use core::cell::Cell;
use core::ptr::NonNull;

use super::{ContextStack, Entry, Hold};
use crate::heap::{HeapHeader, Inline};
use crate::switch::in_use::CurrentAllocatorInUse;

/// What `heap` is while there is no newest entry and one may be put here: no address of a heap. Not
/// null, which is what a thread that is not set up has there.
const FREE: *mut HeapHeader = core::ptr::without_provenance_mut(1);

/// The entry that stands on top of the slots, if there is one.
///
/// # Invariants
/// - `heap` is null where none may be put here: the thread is not set up, or torn down, or the
///   slots are full. So there always is a slot for one that is put here.
/// - `name` is a serial number that no entry in any thread's slots has or had. It changes when the
///   entry gets into its slot: so a guard that has the name is of the entry that is here.
/// - The entry's heap is in use, and run by this thread; whoever drops its guard borrows its
///   handle.
#[derive(Debug)]
pub struct Newest {
    // Not changed where heaps come and go, which would have each wait for the one before.
    name: Cell<u64>,
    heap: Cell<*mut HeapHeader>,
    /// Where allocations are served from inline when it is left: what the slots' top says.
    pub below: Cell<Inline>,
}

/// What a guard remembers of its entry. Two words, or it would lie in memory wherever a heap is
/// entered.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The heap that was entered, whose handle whoever drops the guard borrows; dangling of other
    /// entries, which are never newest.
    pub heap: NonNull<HeapHeader>,
    /// The entry's serial number.
    pub serial: u64,
}

impl Place {
    /// Of an entry in the slots.
    pub const fn of_serial(serial: u64) -> Self {
        Self { heap: NonNull::dangling(), serial }
    }
}

impl Newest {
    /// None, and none may be put here. All bytes are zero.
    pub const fn new() -> Self {
        Self {
            name: Cell::new(0),
            heap: Cell::new(core::ptr::null_mut()),
            below: Cell::new(Inline::NONE),
        }
    }

    /// Whether there is none, and one may be put here.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.heap.get() == FREE
    }

    /// Puts an entry here. It has to be free.
    #[inline]
    pub fn put(&self, heap: NonNull<HeapHeader>) -> Place {
        self.heap.set(heap.as_ptr());
        Place { heap, serial: self.name.get() }
    }

    /// Whether the entry of a place is here.
    #[inline]
    pub fn is(&self, place: Place) -> bool {
        self.name.get() == place.serial
    }

    /// Takes the entry away whose place is given up with this, so the next may have its name.
    #[inline]
    pub fn take(&self) {
        self.heap.set(FREE);
    }

    /// The entry that is here.
    #[inline]
    pub fn get(&self) -> Option<Entry> {
        let heap = NonNull::new(self.heap.get()).filter(|heap| heap.as_ptr() != FREE)?;
        Some(Entry {
            heap: Some(heap),
            serial: self.name.get(),
            in_use: CurrentAllocatorInUse::CoroutineLocal,
            hold: Hold::Entered,
            is_dead: false,
            is_telling: false,
        })
    }

    /// Frees it for an entry of this serial number.
    pub fn open(&self, serial: u64) {
        self.name.set(serial);
        self.heap.set(FREE);
    }

    /// Has nothing put here. There is no entry.
    pub fn close(&self) {
        self.heap.set(core::ptr::null_mut());
    }
}

impl ContextStack {
    /// Puts the newest entry into its slot: from here on the slots have all entries.
    #[inline]
    pub fn settle(&self) {
        if let Some(entry) = self.newest.get() {
            self.settle_newest(entry);
        }
    }

    #[inline(never)]
    fn settle_newest(&self, entry: Entry) {
        self.write(self.index() + 1, entry);
        self.set_index(self.index() + 1);
        self.open_newest();
        if let Some(heap) = entry.heap {
            // SAFETY: this thread runs the heaps of its entries.
            self.newest.below.set(unsafe { heap.as_ref() }.inline);
        }
    }

    /// Has the newest entry put beside the slots again, under a new name, if there is a slot for
    /// it. There is none now.
    pub fn open_newest(&self) {
        let serial = self.next_serial();
        self.newest.open(serial);
        if !self.has_room() {
            self.newest.close();
        }
    }
}

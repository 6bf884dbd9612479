//! The stack of contexts of a thread: what to restore, and which heaps are run meanwhile.
//!
//! Entering pushes an entry, leaving pops it. The entries lie in the thread's state, and from the ninth
//! on in metadata memory. Guards name their entry by its serial number, which it keeps where a coroutine
//! is suspended at one depth and resumed at another. One that is dropped while others stand above its
//! entry only marks that dead; the stack is popped to the newest live entry when those have gone. One
//! whose entry is not in the stack, since it belongs to a suspended coroutine, does nothing.

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;

use super::in_use::CurrentAllocatorInUse;
use super::state::{ThreadState, state};
use crate::heap::{FastPath, HeapHeader};
use crate::region::Metadata;

/// Entries that lie in the thread's state.
const INLINE: usize = 8;

/// One context that was entered: what is current while it is on top.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The context's heap.
    pub heap: Option<NonNull<HeapHeader>>,
    /// Which allocator is in use.
    pub in_use: CurrentAllocatorInUse,
    /// How the entry holds its heap.
    pub hold: Hold,
    /// Whether its guard was dropped before those above it.
    pub is_dead: bool,
    /// Which entry of its thread it is, in the order of entering. Given by the stack. Comes round after
    /// 2^32: a guard that is dropped out of order may then mark another entry than its own.
    pub serial: u32,
}

/// How an entry of the stack holds its heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hold {
    /// Not: an entry below runs it, or there is none.
    Inherited = 0,
    /// It runs the heap, which a guard or a wrapper borrows or owns.
    Entered = 1,
    /// It runs the heap and owns it: the slot that `swap` changes.
    Owned = 2,
}

impl Entry {
    /// Nothing: the thread's own heap is in use.
    pub const EMPTY: Self = Self {
        heap: None,
        in_use: CurrentAllocatorInUse::ThreadLocal,
        hold: Hold::Inherited,
        is_dead: false,
        serial: 0,
    };

    /// The same without its heap, which is not to be used any more.
    #[must_use]
    pub fn without_heap(self) -> Self {
        Self { heap: None, hold: Hold::Inherited, ..self }.with_possible_use()
    }

    /// The same; but the coroutine-local heap is in use only if there is one.
    #[must_use]
    pub fn with_possible_use(self) -> Self {
        match (self.in_use, self.heap) {
            (CurrentAllocatorInUse::CoroutineLocal, None) => {
                Self { in_use: CurrentAllocatorInUse::ThreadLocal, ..self }
            }
            _ => self,
        }
    }
}

/// The stack.
///
/// # Invariants
/// - Entries at or above `length` are not read.
/// - A heap stands in at most one entry that does not inherit it, and this thread runs it.
#[derive(Debug)]
#[repr(C)]
pub struct ContextStack {
    length: Cell<u32>,
    /// Of `spilled`, in entries; 0: the inline ones serve.
    capacity: Cell<u32>,
    spilled: Cell<Option<NonNull<Entry>>>,
    next_serial: Cell<u32>,
    /// What is current while nothing was entered.
    base: Cell<Entry>,
    inline: UnsafeCell<[Entry; INLINE]>,
}

impl ContextStack {
    /// An empty stack.
    pub const fn new() -> Self {
        Self {
            length: Cell::new(0),
            capacity: Cell::new(0),
            spilled: Cell::new(None),
            next_serial: Cell::new(0),
            base: Cell::new(Entry::EMPTY),
            inline: UnsafeCell::new([Entry::EMPTY; INLINE]),
        }
    }

    /// How many contexts were entered and not left.
    #[inline]
    pub fn depth(&self) -> u32 {
        self.length.get()
    }

    #[inline]
    fn entries(&self) -> *mut Entry {
        match self.spilled.get() {
            None => self.inline.get().cast(),
            Some(spilled) => spilled.as_ptr(),
        }
    }

    /// The entry at a depth; `None` at or above the top.
    #[inline]
    pub fn get(&self, depth: u32) -> Option<Entry> {
        if depth >= self.length.get() {
            return None;
        }
        // SAFETY: entries below the length are initialised; the state is this thread's alone, and no
        // reference into the entries is ever held.
        Some(unsafe { self.entries().add(depth as usize).read() })
    }

    /// Replaces the entry at a depth below the top.
    fn set(&self, depth: u32, entry: Entry) {
        if depth < self.length.get() {
            // SAFETY: as in `get`.
            unsafe { self.entries().add(depth as usize).write(entry) };
        }
    }

    /// What is current.
    #[inline]
    pub fn top(&self) -> Entry {
        match self.length.get().checked_sub(1).and_then(|depth| self.get(depth)) {
            Some(entry) => entry,
            None => self.base.get(),
        }
    }

    /// Replaces what is current.
    pub fn set_top(&self, entry: Entry) {
        match self.length.get().checked_sub(1) {
            Some(depth) => self.set(depth, entry),
            None => self.base.set(entry),
        }
    }

    /// Pushes a new entry; its serial number. `None` where there is no memory for more entries.
    #[inline]
    pub fn push(&self, entry: Entry) -> Option<u32> {
        let serial = self.next_serial.get();
        self.push_again(Entry { serial, ..entry })?;
        self.next_serial.set(serial.wrapping_add(1));
        Some(serial)
    }

    /// Makes room for so many more entries; false where there is no memory for them.
    pub fn reserve(&self, more: u32) -> bool {
        let Some(needed) = self.length.get().checked_add(more) else { return false };
        loop {
            let capacity = self.capacity.get().max(INLINE as u32);
            if needed <= capacity {
                return true;
            }
            if self.grow(capacity).is_none() {
                return false;
            }
        }
    }

    /// Pushes an entry that has its serial number; its depth. `None` where there is no memory for more
    /// entries.
    #[inline]
    pub fn push_again(&self, entry: Entry) -> Option<u32> {
        let depth = self.length.get();
        let capacity = self.capacity.get().max(INLINE as u32);
        if depth == capacity {
            self.grow(capacity)?;
        }
        // SAFETY: the depth is below the capacity; as in `get`.
        unsafe { self.entries().add(depth as usize).write(entry) };
        self.length.set(depth + 1);
        Some(depth)
    }

    /// The depth of the entry with a serial number; the uppermost, should there be two.
    pub fn find(&self, serial: u32) -> Option<u32> {
        (0..self.length.get())
            .rev()
            .find(|&depth| self.get(depth).is_some_and(|entry| entry.serial == serial))
    }

    #[cold]
    fn grow(&self, capacity: u32) -> Option<()> {
        let bytes = |capacity: u32| capacity as usize * size_of::<Entry>();
        let more = Metadata::take(bytes(capacity.checked_mul(2)?))?.cast::<Entry>();
        // SAFETY: the old entries are initialised up to the capacity, the new memory is longer.
        unsafe { more.as_ptr().copy_from_nonoverlapping(self.entries(), capacity as usize) };
        self.give_back();
        self.spilled.set(Some(more));
        self.capacity.set(capacity * 2);
        Some(())
    }

    /// Gives the metadata memory back; the entries in it are lost.
    pub fn give_back(&self) {
        if let Some(spilled) = self.spilled.take() {
            let bytes = self.capacity.replace(0) as usize * size_of::<Entry>();
            // SAFETY: the memory was taken by `grow` with this size.
            unsafe { Metadata::give_back(spilled.cast(), bytes) };
        }
    }

    /// Pops the top entry.
    #[inline]
    pub fn pop(&self) -> Option<Entry> {
        let depth = self.length.get().checked_sub(1)?;
        let entry = self.get(depth);
        self.length.set(depth);
        entry
    }
}

impl Default for ContextStack {
    fn default() -> Self {
        Self::new()
    }
}

impl ThreadState {
    /// Makes what the top of the stack says current.
    #[inline]
    pub fn apply_top(&self) {
        let top = self.contexts.top();
        self.heap.set(top.heap);
        self.in_use.set(top.in_use);
        let is_bump = |heap: NonNull<HeapHeader>| {
            // SAFETY: heaps that the state names are run by this thread, so they are valid.
            (unsafe { heap.as_ref() }.fast_path == FastPath::Bump).then_some(heap)
        };
        let (slab, bump) = match top.in_use {
            CurrentAllocatorInUse::CoroutineLocal => (None, top.heap.and_then(is_bump)),
            CurrentAllocatorInUse::ThreadLocal => (self.own_slab.get(), None),
            CurrentAllocatorInUse::Global => (None, None),
        };
        self.slab.set(slab);
        self.bump.set(bump);
    }

    /// Enters a context; its serial number. `None` where there is no memory for the entry.
    #[inline]
    pub fn push_context(&self, entry: Entry) -> Option<u32> {
        let serial = self.contexts.push(entry)?;
        self.apply_top();
        Some(serial)
    }

    /// Leaves a context: pops it, and dead ones below it; marks it dead if others stand above it; does
    /// nothing if it is not in the stack.
    #[inline]
    pub fn pop_context(&self, serial: u32) {
        if self.contexts.depth() == 0 || self.contexts.top().serial != serial {
            self.mark_dead(serial);
            return;
        }
        self.pop_and_leave();
        self.pop_dead();
        self.apply_top();
    }

    /// Leaves a context, all above it, and dead ones below it; does nothing if it is not in the stack.
    #[inline]
    pub fn pop_context_and_above(&self, serial: u32) {
        if self.contexts.top().serial != serial {
            self.pop_above(serial);
        }
        self.pop_context(serial);
    }

    #[cold]
    fn pop_above(&self, serial: u32) {
        if let Some(depth) = self.contexts.find(serial) {
            self.leave_above(depth + 1);
        }
    }

    /// Pops what stands on top and is dead.
    #[inline]
    pub fn pop_dead(&self) {
        while self.contexts.top().is_dead {
            self.pop_and_leave();
        }
    }

    #[inline]
    fn pop_and_leave(&self) {
        let Some(entry) = self.contexts.pop() else { return };
        match (entry.hold, entry.heap) {
            // SAFETY: the entry holds the heap, so this thread runs it.
            (Hold::Entered, Some(heap)) => unsafe { heap.as_ref() }.leave(),
            (Hold::Owned, Some(heap)) => close_owned(heap),
            _ => {}
        }
    }

    #[cold]
    fn mark_dead(&self, serial: u32) {
        if let Some(depth) = self.contexts.find(serial)
            && let Some(entry) = self.contexts.get(depth)
        {
            if cfg!(heapswitch_check) {
                crate::sys::abort_with(&["guards of contexts were dropped in the wrong order"]);
            }
            self.contexts.set(depth, Entry { is_dead: true, ..entry });
        }
    }

    /// Takes a heap out of every entry that names it; this thread still runs it.
    ///
    /// A guard borrows the heap's handle. So whoever closes a heap that is entered leaked the guard, and
    /// the entry ends here, or nothing ever ended it and what stands below.
    #[cold]
    pub fn unlink(&self, heap: NonNull<HeapHeader>) {
        let base = self.contexts.base.get();
        if base.heap == Some(heap) {
            self.contexts.base.set(base.without_heap());
        }
        for depth in 0..self.contexts.depth() {
            if let Some(entry) = self.contexts.get(depth)
                && entry.heap == Some(heap)
            {
                let is_dead = entry.is_dead || entry.hold == Hold::Entered;
                self.contexts.set(depth, Entry { is_dead, ..entry.without_heap() });
            }
        }
        self.pop_dead();
        self.apply_top();
    }

    /// Leaves every context but those below `depth`.
    pub fn leave_above(&self, depth: u32) {
        while self.contexts.depth() > depth {
            self.pop_and_leave();
        }
        self.apply_top();
    }
}

/// Closes a heap that was swapped in, with the slot that owned it.
#[cold]
fn close_owned(heap: NonNull<HeapHeader>) {
    // What this thread freed in it before is no escapee.
    state().batches.flush();
    // SAFETY: the slot ran the heap and had its only handle.
    unsafe { (heap.as_ref().operations.close)(heap) };
}

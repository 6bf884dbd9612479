//! The stack of contexts of a thread: what to restore, and which heaps are run meanwhile.
//!
//! Entering pushes an entry, leaving pops it. The entries lie in the thread's state, and from the
//! ninth on in metadata memory; a heap that was entered last may stand beside them (`newest`).
//! Guards name their entry by its serial number, which it keeps where a coroutine is suspended at
//! one depth and resumed at another. One that is dropped while others stand above its entry only
//! marks that dead; the stack is popped to the newest live entry when those have gone. One whose
//! entry is not in the stack, since it belongs to a suspended coroutine, does nothing.

mod hidden;
mod newest;

use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

pub use self::hidden::Hidden;
use self::newest::Newest;
pub use self::newest::Place;
use super::in_use::CurrentAllocatorInUse;
use super::safe_point;
use super::state::ThreadState;
use crate::heap::{HeapHeader, Inline, attention};
use crate::region::Metadata;

/// Entries that lie in the thread's state, the base included.
const INLINE: usize = 8;

/// Serial numbers that a thread draws at once.
const SERIALS: u64 = 1 << 20;

/// One context that was entered: what is current while it is on top.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The context's heap.
    pub heap: Option<NonNull<HeapHeader>>,
    /// Which entry of the process it is. Given by the stack; never again once it was in a slot.
    pub serial: u64,
    /// Which allocator is in use.
    pub in_use: CurrentAllocatorInUse,
    /// How the entry holds its heap.
    pub hold: Hold,
    /// Whether its guard was dropped before those above it.
    pub is_dead: bool,
    /// Whether reclaim callbacks are called above it. Here and not beside the stack: a coroutine
    /// may be suspended within one, and takes the entry along.
    pub is_telling: bool,
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
        is_telling: false,
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
/// - The slot at index 0 is the base: what is current while nothing was entered. The entry at depth
///   `d` lies at index `d + 1`, or is the newest and on top of all. Slots above `top` are not read.
/// - `slots`, `top` and `last` are set, or none of them is: before the first use and after the
///   last. Then the base is in `inline`.
/// - A heap stands in at most one entry that does not inherit it, and this thread runs it. An entry
///   that is `Entered` has a heap. The base never is.
#[derive(Debug)]
#[repr(C)]
pub struct ContextStack {
    newest: Newest,
    /// The slot of the top entry, but for the newest.
    top: Cell<*mut Entry>,
    /// The last slot.
    last: Cell<*mut Entry>,
    /// The slots: `inline`, or metadata memory.
    slots: Cell<Option<NonNull<Entry>>>,
    last_serial: Cell<u64>,
    inline: UnsafeCell<[Entry; INLINE]>,
}

impl ContextStack {
    /// An empty stack.
    pub const fn new() -> Self {
        Self {
            newest: Newest::new(),
            top: Cell::new(core::ptr::null_mut()),
            last: Cell::new(core::ptr::null_mut()),
            slots: Cell::new(None),
            last_serial: Cell::new(0),
            inline: UnsafeCell::new([Entry::EMPTY; INLINE]),
        }
    }

    /// How many contexts were entered and not left.
    #[inline]
    pub fn depth(&self) -> u32 {
        self.settle();
        self.index()
    }

    /// The index of the slots' top.
    fn index(&self) -> u32 {
        self.index_of(self.top.get())
    }

    fn inline(&self) -> NonNull<Entry> {
        NonNull::from(&self.inline).cast()
    }

    fn slots(&self) -> NonNull<Entry> {
        self.slots.get().unwrap_or_else(|| self.inline())
    }

    #[inline]
    fn index_of(&self, slot: *mut Entry) -> u32 {
        let bytes = match NonNull::new(slot) {
            Some(slot) => crate::pointers::distance(self.slots().cast(), slot.cast()),
            None => 0,
        };
        (bytes / size_of::<Entry>()) as u32
    }

    /// The slot at an index up to that of `last`.
    #[inline]
    fn slot(&self, index: u32) -> NonNull<Entry> {
        // SAFETY: there are as many slots.
        unsafe { place_of(self.slots(), index) }
    }

    fn read(&self, index: u32) -> Entry {
        // SAFETY: slots up to the top are initialised; the state is this thread's alone, and no
        // reference into the slots is ever held.
        unsafe { self.slot(index).read() }
    }

    fn write(&self, index: u32, entry: Entry) {
        // SAFETY: as in `read`; a slot up to `last` may be written.
        unsafe { self.slot(index).write(entry) };
    }

    fn set_index(&self, index: u32) {
        self.top.set(self.slot(index).as_ptr());
    }

    /// A serial number that no entry of the process has or had: a coroutine may take its entries,
    /// and their guards, to another thread.
    fn next_serial(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut serial = self.last_serial.get() + 1;
        if serial % SERIALS == 1 {
            // Relaxed: a number, and nothing else.
            serial = NEXT.fetch_add(SERIALS, Ordering::Relaxed) + 1;
        }
        self.last_serial.set(serial);
        serial
    }

    /// The entry at a depth; `None` at or above the top.
    #[inline]
    pub fn get(&self, depth: u32) -> Option<Entry> {
        (depth < self.depth()).then(|| self.read(depth + 1))
    }

    /// What is current while nothing was entered.
    pub fn base(&self) -> Entry {
        self.read(0)
    }

    /// What is current.
    #[inline]
    pub fn top(&self) -> Entry {
        match self.newest.get() {
            Some(newest) => newest,
            None => self.read(self.index()),
        }
    }

    /// The entries from the top down to the base.
    #[cfg(heapswitch_check)]
    pub fn entries(&self) -> impl Iterator<Item = Entry> + Clone {
        self.newest.get().into_iter().chain((0..=self.index()).rev().map(|index| self.read(index)))
    }

    /// Replaces what is current; [`apply_top`](ThreadState::apply_top) is to follow.
    pub fn set_top(&self, entry: Entry) {
        self.write(self.depth(), entry);
    }

    /// Whether there is a slot for another entry. Never in a thread that is not set up, or torn
    /// down.
    fn has_room(&self) -> bool {
        self.top.get() != self.last.get()
    }

    /// Makes the newest entry settle, and room for another: false where there is no memory for it.
    pub fn reserve_newest(&self) -> bool {
        self.settle();
        let has_room = self.newest.is_free() || self.has_room() || self.grow().is_some();
        if has_room && !self.newest.is_free() {
            self.open_newest();
        }
        has_room
    }

    /// Makes room for so many more entries; false where there is no memory for them.
    pub fn reserve(&self, more: u32) -> bool {
        let Some(needed) = self.depth().checked_add(more) else { return false };
        while self.slots.get().is_none() || needed > self.index_of(self.last.get()) {
            if self.grow().is_none() {
                return false;
            }
        }
        true
    }

    /// Pushes a new entry; its serial number. `None` where there is no memory for more entries.
    #[inline]
    pub fn push(&self, entry: Entry) -> Option<u64> {
        let serial = self.next_serial();
        self.push_again(Entry { serial, ..entry })?;
        Some(serial)
    }

    /// Pushes an entry that has its serial number; its depth. `None` where there is no memory for
    /// more entries.
    #[inline]
    pub fn push_again(&self, entry: Entry) -> Option<u32> {
        let depth = self.depth();
        if !self.has_room() {
            self.grow()?;
        }
        self.write(depth + 1, entry);
        self.set_index(depth + 1);
        if !self.has_room() {
            self.newest.close();
        }
        Some(depth)
    }

    /// Whether what runs here was called by a reclaim callback.
    pub fn is_telling(&self) -> bool {
        let tells = |entry: Entry| entry.is_telling && !entry.is_dead;
        (0..self.depth()).any(|depth| self.get(depth).is_some_and(tells))
    }

    /// The depth of the entry with a serial number.
    pub fn find(&self, serial: u64) -> Option<u32> {
        (0..self.depth())
            .rev()
            .find(|&depth| self.get(depth).is_some_and(|entry| entry.serial == serial))
    }

    #[cold]
    #[inline(never)]
    fn grow(&self) -> Option<()> {
        let (index, slots) = (self.index(), self.index_of(self.last.get()) + 1);
        if self.slots.get().is_none() {
            self.use_slots(self.inline(), INLINE as u32, 0);
            return Some(());
        }
        let more = slots.checked_mul(2)?;
        let memory = Metadata::take(bytes_of(more))?.cast::<Entry>();
        // SAFETY: the old slots are initialised, the new ones twice as many.
        unsafe { memory.copy_from_nonoverlapping(self.slots(), slots as usize) };
        self.give_back();
        self.use_slots(memory, more, index);
        Some(())
    }

    /// # Invariants
    /// Those up to `index` are initialised.
    fn use_slots(&self, slots: NonNull<Entry>, count: u32, index: u32) {
        self.slots.set(Some(slots));
        self.last.set(self.slot(count - 1).as_ptr());
        self.set_index(index);
        self.open_newest();
    }

    /// Gives the metadata memory back, and is as before the first use; the entries but the base are
    /// lost.
    pub fn give_back(&self) {
        self.newest.close();
        let base = self.read(0);
        let count = self.index_of(self.last.replace(core::ptr::null_mut())) + 1;
        self.top.set(core::ptr::null_mut());
        if let Some(slots) = self.slots.take()
            && slots != self.inline()
        {
            // SAFETY: the memory was taken by `grow` with this size.
            unsafe { Metadata::give_back(slots.cast(), bytes_of(count)) };
        }
        self.write(0, base);
    }

    /// Pops the top entry.
    #[inline]
    pub fn pop(&self) -> Option<Entry> {
        let depth = self.depth().checked_sub(1)?;
        let entry = self.top();
        self.set_index(depth);
        Some(entry)
    }
}

const fn bytes_of(slots: u32) -> usize {
    slots as usize * size_of::<Entry>()
}

/// # Safety
/// The array at `slots` is longer than `index`.
#[inline]
unsafe fn place_of(slots: NonNull<Entry>, index: u32) -> NonNull<Entry> {
    // SAFETY: the caller's contract.
    unsafe { crate::pointers::forward(slots.cast(), bytes_of(index)) }.cast()
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
        self.contexts.settle();
        let top = self.contexts.top();
        let inline = match (top.in_use, top.heap) {
            // SAFETY: heaps that the state names are run by this thread, so they are valid.
            (CurrentAllocatorInUse::CoroutineLocal, Some(heap)) => unsafe { heap.as_ref() }.inline,
            (CurrentAllocatorInUse::ThreadLocal, _) => {
                self.own_slab.get().map_or(Inline::NONE, Inline::of_slab)
            }
            _ => Inline::NONE,
        };
        self.contexts.newest.below.set(inline);
        self.inline.set(inline);
        #[cfg(heapswitch_check)]
        self.verify();
    }

    /// Enters a context; its serial number. `None` where there is no memory for the entry.
    #[inline]
    pub fn push_context(&self, entry: Entry) -> Option<u64> {
        let serial = self.contexts.push(entry)?;
        self.apply_top();
        Some(serial)
    }

    /// Whether [`push_heap`](Self::push_heap) may follow.
    #[inline]
    pub fn may_push_heap(&self) -> bool {
        self.contexts.newest.is_free()
    }

    /// As [`push_context`](Self::push_context), of a heap that was just entered.
    ///
    /// # Safety
    /// This thread runs the heap, the guard that gets the place borrows its handle, and
    /// [`may_push_heap`](Self::may_push_heap) said so.
    #[inline]
    pub unsafe fn push_heap(&self, heap: NonNull<HeapHeader>) -> Place {
        let place = self.contexts.newest.put(heap);
        // SAFETY: this thread runs the heap.
        self.inline.set(unsafe { heap.as_ref() }.inline);
        #[cfg(heapswitch_check)]
        self.verify();
        place
    }

    /// Hands over what the thread freed in heaps of others, and leaves a context: pops it, and dead
    /// ones below it; marks it dead if others stand above it; does nothing if it is not in the
    /// stack.
    #[inline]
    pub fn pop_context(&self, place: Place) {
        if !self.pop_newest(place) {
            self.pop_otherwise(place);
        }
    }

    /// Does what [`pop_any`](Self::pop_any) would, where the newest entry is left, nothing waits to
    /// be handed over, and its heap asks for no attention. False otherwise, and nothing is done.
    #[inline]
    fn pop_newest(&self, place: Place) -> bool {
        if !self.contexts.newest.is(place) {
            return false;
        }
        // SAFETY: the entry is in the stack, so this thread runs its heap.
        let header = unsafe { place.heap.as_ref() };
        // One branch for both.
        if header.attention() | self.batches.pending() != 0 {
            return false;
        }
        header.runner.leave();
        self.contexts.newest.take();
        self.inline.set(self.contexts.newest.below.get());
        #[cfg(heapswitch_check)]
        self.verify();
        true
    }

    /// As [`pop_context`](Self::pop_context), of children and of what is not the newest.
    #[cold]
    #[inline(never)]
    fn pop_otherwise(&self, place: Place) {
        if !self.pop_child(place) {
            self.pop_any(place.serial);
        }
    }

    /// As [`pop_newest`](Self::pop_newest), of a heap that ends with its parent.
    fn pop_child(&self, place: Place) -> bool {
        if self.batches.is_pending() || !self.contexts.newest.is(place) {
            return false;
        }
        // SAFETY: the entry is in the stack, so this thread runs its heap.
        let header = unsafe { place.heap.as_ref() };
        if header.attention() != attention::SHARED {
            return false;
        }
        self.contexts.newest.take();
        self.inline.set(self.contexts.newest.below.get());
        // SAFETY: this thread runs the heap, and the guard borrows its handle.
        unsafe { safe_point::leave_child(self, header) };
        // Anew: the program's code may have been called.
        #[cfg(heapswitch_check)]
        super::state::state().verify();
        true
    }

    #[cold]
    #[inline(never)]
    fn pop_any(&self, serial: u64) {
        if self.batches.is_pending() {
            self.batches.flush();
        }
        if self.contexts.depth() == 0 || self.contexts.top().serial != serial {
            self.mark_dead(serial);
            return;
        }
        self.pop_and_leave();
        self.pop_dead();
        self.apply_top();
        safe_point::reach(self);
    }

    /// As [`pop_newest`](Self::pop_newest), and calls nothing of the program's: what is due waits
    /// for the next safe point.
    pub(super) fn pop_quietly(&self, place: Place) {
        if self.contexts.depth() == 0 || self.contexts.top().serial != place.serial {
            self.mark_dead(place.serial);
            return;
        }
        self.pop_and_leave();
        self.pop_dead();
        self.apply_top();
    }

    /// Leaves a context, all above it, and dead ones below it; does nothing if it is not in the
    /// stack.
    #[inline]
    pub fn pop_context_and_above(&self, place: Place) {
        if !self.pop_newest(place) {
            self.pop_above(place);
        }
    }

    #[inline(never)]
    fn pop_above(&self, place: Place) {
        if self.pop_child(place) {
            return;
        }
        let serial = place.serial;
        if self.contexts.top().serial != serial
            && let Some(depth) = self.contexts.find(serial)
        {
            self.leave_above(depth + 1);
        }
        self.pop_any(serial);
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
            (Hold::Entered, Some(heap)) => unsafe { safe_point::leave(self, heap) },
            // Closed where the stack is whole again, for its callbacks may do anything.
            // SAFETY: the slot ran the heap and had its only handle.
            (Hold::Owned, Some(heap)) => unsafe { self.due.close(heap) },
            _ => {}
        }
    }

    #[cold]
    fn mark_dead(&self, serial: u64) {
        if let Some(depth) = self.contexts.find(serial)
            && let Some(entry) = self.contexts.get(depth)
        {
            if cfg!(heapswitch_check) {
                crate::sys::abort_with(&["guards of contexts were dropped in the wrong order"]);
            }
            self.contexts.write(depth + 1, Entry { is_dead: true, ..entry });
        }
    }

    /// Takes a heap out of every entry that names it; this thread still runs it.
    ///
    /// A guard borrows the heap's handle. So whoever closes a heap that is entered leaked the
    /// guard, and the entry ends here, or nothing ever ended it and what stands below.
    #[cold]
    pub fn unlink(&self, heap: NonNull<HeapHeader>) {
        for index in 0..=self.contexts.depth() {
            let entry = self.contexts.read(index);
            if entry.heap == Some(heap) {
                let is_dead = entry.is_dead || entry.hold == Hold::Entered;
                self.contexts.write(index, Entry { is_dead, ..entry.without_heap() });
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

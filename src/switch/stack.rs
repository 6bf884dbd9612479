//! The stack of contexts of a thread: what to restore, and which heaps are run meanwhile.
//!
//! Entering pushes an entry, leaving pops it. The entries lie in the thread's state, and from the
//! ninth on in metadata memory. Guards name their entry by its serial number, which it keeps where
//! a coroutine is suspended at one depth and resumed at another. One that is dropped while others
//! stand above its entry only marks that dead; the stack is popped to the newest live entry when
//! those have gone. One whose entry is not in the stack, since it belongs to a suspended coroutine,
//! does nothing.

mod hidden;

use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::NonNull;

pub use self::hidden::Hidden;
use super::in_use::CurrentAllocatorInUse;
use super::safe_point;
use super::state::ThreadState;
use crate::heap::{FastPath, HeapHeader};
use crate::region::Metadata;

/// Entries that lie in the thread's state, the base included.
const INLINE: usize = 8;

/// One context that was entered: what is current while it is on top.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// The context's heap.
    pub heap: Option<NonNull<HeapHeader>>,
    /// Which allocator is in use.
    pub in_use: CurrentAllocatorInUse,
    /// How the entry holds its heap.
    pub hold: Hold,
    /// Whether its guard was dropped before those above it.
    pub is_dead: bool,
    /// 0: every byte of an entry is initialised, for it is compared by words.
    pub reserved: u8,
    /// Which entry of its thread it is, in the order of entering. Given by the stack. Comes round
    /// after 2^32: a guard that is dropped out of order may then mark another entry than its own.
    pub serial: u32,
}

/// An [`Entry`] as the two words that it is written in: entering and leaving are bound by their
/// stores.
#[repr(C)]
struct Words {
    heap: Option<NonNull<HeapHeader>>,
    rest: u64,
}

impl Words {
    /// Of an entry where the thread's own heap is in use: of the base, as a rule.
    const BASE: [u8; 4] = [0; 4];

    /// All but the serial number.
    #[inline]
    fn kind(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.rest.to_ne_bytes();
        [a, b, c, d]
    }
}

const _: () = {
    assert!(size_of::<Entry>() == size_of::<Words>());
    assert!(offset_of!(Entry, in_use) == 8 && offset_of!(Entry, hold) == 9);
    assert!(offset_of!(Entry, is_dead) == 10 && offset_of!(Entry, reserved) == 11);
    assert!(offset_of!(Entry, serial) == 12);
};

/// Where a guard's entry was put, and as what: while it stands there unchanged, and on top, it is
/// popped without a look at anything else.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    slot: NonNull<Entry>,
    /// As in [`Words`].
    rest: u64,
}

impl Place {
    /// Of an entry that is to be looked for.
    pub fn of_serial(serial: u32) -> Self {
        Self { slot: NonNull::dangling(), rest: Entry { serial, ..Entry::EMPTY }.rest() }
    }

    fn serial(self) -> u32 {
        let [.., a, b, c, d] = self.rest.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }
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
        reserved: 0,
        serial: 0,
    };

    /// What follows the heap, as the bytes lie in memory.
    #[inline]
    fn rest(self) -> u64 {
        let [a, b, c, d] = self.serial.to_ne_bytes();
        let (in_use, hold, is_dead) = (self.in_use as u8, self.hold as u8, self.is_dead as u8);
        u64::from_ne_bytes([in_use, hold, is_dead, self.reserved, a, b, c, d])
    }

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
///   `d` lies at index `d + 1`. Slots above `top` are not read.
/// - `slots`, `top` and `last` are set, or none of them is: before the first use and after the
///   last. Then the base is in `inline`.
/// - A heap stands in at most one entry that does not inherit it, and this thread runs it. An entry
///   that is `Entered` has a heap. The base never is.
#[derive(Debug)]
#[repr(C)]
pub struct ContextStack {
    /// The slot of the top entry.
    top: Cell<*mut Entry>,
    /// The last slot.
    last: Cell<*mut Entry>,
    /// The slots: `inline`, or metadata memory.
    slots: Cell<Option<NonNull<Entry>>>,
    next_serial: Cell<u32>,
    inline: UnsafeCell<[Entry; INLINE]>,
}

impl ContextStack {
    /// An empty stack.
    pub const fn new() -> Self {
        Self {
            top: Cell::new(core::ptr::null_mut()),
            last: Cell::new(core::ptr::null_mut()),
            slots: Cell::new(None),
            next_serial: Cell::new(0),
            inline: UnsafeCell::new([Entry::EMPTY; INLINE]),
        }
    }

    /// How many contexts were entered and not left.
    #[inline]
    pub fn depth(&self) -> u32 {
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

    fn set_depth(&self, depth: u32) {
        self.top.set(self.slot(depth).as_ptr());
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
        self.read(self.depth())
    }

    /// Replaces what is current; [`apply_top`](ThreadState::apply_top) is to follow.
    pub fn set_top(&self, entry: Entry) {
        self.write(self.depth(), entry);
    }

    /// Whether an entry can be pushed at once. Never in a thread that is not set up, or torn down.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.room().is_some()
    }

    /// The top slot, where an entry can be pushed at once.
    #[inline]
    pub fn room(&self) -> Option<NonNull<Entry>> {
        let top = self.top.get();
        if top == self.last.get() {
            return None;
        }
        // SAFETY: it is set, for it is null only where `last` is.
        Some(unsafe { NonNull::new_unchecked(top) })
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
    pub fn push(&self, entry: Entry) -> Option<u32> {
        let serial = self.next_serial.get();
        self.push_again(Entry { serial, ..entry })?;
        self.next_serial.set(serial.wrapping_add(1));
        Some(serial)
    }

    /// Pushes an entry that has its serial number; its depth. `None` where there is no memory for
    /// more entries.
    #[inline]
    pub fn push_again(&self, entry: Entry) -> Option<u32> {
        if !self.has_room() {
            self.grow()?;
        }
        let depth = self.depth();
        self.write(depth + 1, entry);
        self.set_depth(depth + 1);
        Some(depth)
    }

    /// The depth of the entry with a serial number; the uppermost, should there be two.
    pub fn find(&self, serial: u32) -> Option<u32> {
        (0..self.depth())
            .rev()
            .find(|&depth| self.get(depth).is_some_and(|entry| entry.serial == serial))
    }

    #[cold]
    #[inline(never)]
    fn grow(&self) -> Option<()> {
        let (depth, slots) = (self.depth(), self.index_of(self.last.get()) + 1);
        if self.slots.get().is_none() {
            self.use_slots(self.inline(), INLINE as u32, 0);
            return Some(());
        }
        let more = slots.checked_mul(2)?;
        let memory = Metadata::take(bytes_of(more))?.cast::<Entry>();
        // SAFETY: the old slots are initialised, the new ones twice as many.
        unsafe { memory.copy_from_nonoverlapping(self.slots(), slots as usize) };
        self.give_back();
        self.use_slots(memory, more, depth);
        Some(())
    }

    /// # Invariants
    /// Those up to `depth` are initialised.
    fn use_slots(&self, slots: NonNull<Entry>, count: u32, depth: u32) {
        self.slots.set(Some(slots));
        self.last.set(self.slot(count - 1).as_ptr());
        self.set_depth(depth);
    }

    /// Gives the metadata memory back, and is as before the first use; the entries but the base are
    /// lost.
    pub fn give_back(&self) {
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
        self.set_depth(depth);
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
        let top = self.contexts.top();
        self.apply(top);
    }

    #[inline]
    fn apply(&self, top: Entry) {
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
        #[cfg(heapswitch_check)]
        self.verify();
    }

    /// Enters a context; its serial number. `None` where there is no memory for the entry.
    #[inline]
    pub fn push_context(&self, entry: Entry) -> Option<u32> {
        let serial = self.contexts.push(entry)?;
        self.apply_top();
        Some(serial)
    }

    /// As [`push_context`](Self::push_context), of a heap that was just entered.
    ///
    /// # Safety
    /// This thread runs the heap, and `top` is what [`room`](ContextStack::room) gave.
    #[inline]
    pub unsafe fn push_heap(&self, top: NonNull<Entry>, heap: NonNull<HeapHeader>) -> Place {
        let serial = self.contexts.next_serial.get();
        let entry = Entry {
            heap: Some(heap),
            in_use: CurrentAllocatorInUse::CoroutineLocal,
            hold: Hold::Entered,
            is_dead: false,
            reserved: 0,
            serial,
        };
        self.contexts.next_serial.set(serial.wrapping_add(1));
        let rest = entry.rest();
        // SAFETY: there is room, so another slot follows the top one.
        let slot = unsafe {
            let slot = place_of(top, 1);
            slot.cast().write(Words { heap: entry.heap, rest });
            slot
        };
        self.contexts.top.set(slot.as_ptr());
        self.apply(entry);
        Place { slot, rest }
    }

    /// Hands over what the thread freed in heaps of others, and leaves a context: pops it, and dead
    /// ones below it; marks it dead if others stand above it; does nothing if it is not in the
    /// stack.
    #[inline]
    pub fn pop_context(&self, place: Place) {
        if self.batches.is_pending() || !self.pop_plain(place) {
            self.pop_any(place.serial());
        }
    }

    /// Does what [`pop_any`](Self::pop_any) would, where a heap that was entered last is left,
    /// it asks for no attention, and what stands below is alive. False otherwise, and nothing is
    /// done.
    #[inline]
    fn pop_plain(&self, place: Place) -> bool {
        let slot = place.slot;
        if self.contexts.top.get() != slot.as_ptr() {
            return false;
        }
        // SAFETY: the top slot is initialised.
        let top = unsafe { slot.cast::<Words>().read() };
        if top.rest != place.rest {
            return false;
        }
        // SAFETY: the entry is as `push_heap` wrote it, for no other place has a slot: this thread
        // runs its heap, and as it is not the base, another slot is below, which is initialised.
        let (header, below, words) = unsafe {
            let below = crate::pointers::backward(slot.cast(), bytes_of(1)).cast::<Entry>();
            (top.heap.unwrap_unchecked().as_ref(), below, below.cast::<Words>().read())
        };
        if header.attention() != 0 {
            return false;
        }
        if words.kind() == Words::BASE {
            header.runner.leave();
            self.contexts.top.set(below.as_ptr());
            self.slab.set(self.own_slab.get());
            self.bump.set(None);
            #[cfg(heapswitch_check)]
            self.verify();
            return true;
        }
        // SAFETY: as above.
        let entry = unsafe { below.read() };
        if entry.is_dead {
            return false;
        }
        header.runner.leave();
        self.contexts.top.set(below.as_ptr());
        self.apply(entry);
        true
    }

    #[cold]
    #[inline(never)]
    fn pop_any(&self, serial: u32) {
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

    /// Leaves a context, all above it, and dead ones below it; does nothing if it is not in the
    /// stack.
    #[inline]
    pub fn pop_context_and_above(&self, place: Place) {
        if self.batches.is_pending() || !self.pop_plain(place) {
            self.pop_above(place.serial());
        }
    }

    #[cold]
    #[inline(never)]
    fn pop_above(&self, serial: u32) {
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
    fn mark_dead(&self, serial: u32) {
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

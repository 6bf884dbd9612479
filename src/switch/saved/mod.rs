//! The context of a coroutine that is suspended: the hooks for any coroutine runtime.
//!
//! A thread's stack of contexts is the nesting of scopes on its machine stack. A coroutine takes
//! its part of the machine stack away when it is suspended, so its part of the context stack has to
//! go with it:
//!
//! ```text
//!   resumed                           suspended                 resumed elsewhere
//!
//!   ┌ scope in it ───┐                                          ┌ scope in it ───┐
//!   │ scope in it    │ above the      ┌ scope in it ───┐        │ scope in it    │
//!   ├ its base ──────┤ mark       ──▶ └ scope in it ───┘  ──▶   ├ its base ──────┤
//!   │ scope outside  │                  a SavedContext          │ scope outside  │
//!   └ …              ┘                                          │ scope outside  │
//!                                                               └ …              ┘
//! ```
//!
//! [`SavedContext::resume`] puts the base and what was saved on top of the thread's stack and
//! enters the heaps from the lowest up; [`SavedContext::suspend`] takes it off and leaves them from
//! the topmost down. Both run on the thread that runs the coroutine, on whichever machine stack: a
//! runtime calls them in the resumer before it switches to the coroutine and after the coroutine
//! has switched back, or wraps the switch in [`SavedContext::run`], which also holds when a panic
//! comes out of it.
//!
//! # For a runtime of your own
//!
//! ```
//! use heapswitch::{Heap, HeapError, SavedContext};
//!
//! /// A coroutine of some runtime: here a closure that is "resumed" by calling it.
//! struct Task {
//!     heap: Heap,
//!     context: SavedContext,
//!     step: Box<dyn FnMut()>,
//! }
//!
//! impl Task {
//!     fn resume(&mut self) -> Result<(), HeapError> {
//!         let Self { heap, context, step } = self;
//!         // Around the switch, and nothing else.
//!         context.run_in(heap, step)
//!     }
//! }
//! # let (heap, context) = (Heap::new()?, SavedContext::new());
//! # let mut task = Task { heap, context, step: Box::new(|| ()) };
//! # task.resume()?;
//! # Ok::<(), HeapError>(())
//! ```
//!
//! A coroutine that ended leaves nothing behind but guards that it forgot: drop its `SavedContext`,
//! or call [`SavedContext::discard`].
//!
//! # What it costs
//! Nothing is allocated for up to three scopes that a coroutine is suspended within; from there on
//! a block of the allocator's own metadata memory, never of a heap.

#[cfg(feature = "corosensei")]
mod end;

use core::marker::PhantomData;
use core::ptr::NonNull;

use super::closing;
use super::handle::{Heap, HeapError, refused, token};
use super::in_use::CurrentAllocatorInUse;
use super::safe_point;
use super::stack::{Entry, Hold};
use super::state::{ThreadState, state};
use crate::heap::{HeapHeader, pins};
use crate::region::Metadata;
use crate::sync::Token;

/// Entries that a saved context holds without metadata memory.
const INLINE: usize = 3;

/// A coroutine's part of a thread's stack of contexts while the coroutine is suspended.
///
/// `!Send`: what it was saved on, it is resumed on. A runtime whose coroutines change threads while
/// they are suspended wraps it in a type with an `unsafe impl Send` and thereby promises that no
/// heap which the coroutine is within a scope of is used by anybody else before the coroutine is
/// resumed or dropped; the heap given to [`resume_in`](Self::resume_in) is not meant, it is entered
/// anew each time.
///
/// ```compile_fail
/// fn is_send<T: Send>() {}
/// is_send::<heapswitch::SavedContext>();
/// ```
///
/// # Invariants
/// - `entries` below `length` are initialised. Each that is `Entered` has a pin of its heap, which
///   is bound to the thread of `token`; each that is `Owned`, and `slot`, has its heap's only
///   handle.
#[derive(Debug)]
pub struct SavedContext {
    length: u32,
    /// Of `spilled`, in entries; 0: the inline ones serve.
    capacity: u32,
    /// What the coroutine chose at its base, if not what it found there.
    in_use: Option<CurrentAllocatorInUse>,
    /// A heap that was swapped in at the base.
    slot: Option<NonNull<HeapHeader>>,
    token: Token,
    spilled: Option<NonNull<Entry>>,
    inline: [Entry; INLINE],
    not_send: PhantomData<*mut ()>,
}

/// Where a resumed coroutine's part of the stack of contexts begins.
///
/// One that is forgotten is as a forgotten [`Scope`](crate::Scope).
#[derive(Debug)]
#[must_use = "the context stays entered until `suspend` gets the mark"]
pub struct ContextMark {
    depth: u32,
    serial: u64,
    not_send: PhantomData<*mut ()>,
}

impl SavedContext {
    /// Of a coroutine that was not started.
    pub const fn new() -> Self {
        Self {
            length: 0,
            capacity: 0,
            in_use: None,
            slot: None,
            token: Token::NOBODY,
            spilled: None,
            inline: [Entry::EMPTY; INLINE],
            not_send: PhantomData,
        }
    }

    /// How many scopes the coroutine is suspended within.
    pub fn depth(&self) -> usize {
        self.length as usize
    }

    /// Enters the coroutine's contexts, on top of what is current here. To be called before the
    /// switch to it.
    ///
    /// # Errors
    /// [`HeapError::Running`] if a heap of a scope that it is within is entered already;
    /// [`HeapError::Closed`] if the parent of one has ended; [`HeapError::NoMemory`];
    /// [`HeapError::ThreadEnded`]. Nothing is changed then.
    pub fn resume(&mut self) -> Result<ContextMark, HeapError> {
        self.resume_at(None)
    }

    /// As [`resume`](Self::resume), with a heap of the coroutine's own entered below its scopes.
    ///
    /// # Errors
    /// As [`resume`](Self::resume), and [`HeapError::Running`] if `heap` is entered already.
    #[inline]
    pub fn resume_in(&mut self, heap: &Heap) -> Result<ContextMark, HeapError> {
        self.resume_at(Some(heap.raw()))
    }

    /// Leaves the coroutine's contexts and keeps them. To be called after the coroutine has
    /// switched back, or before it does, on the thread that called [`resume`](Self::resume).
    ///
    /// A mark that another thread or another context gave does no harm but to the contexts; without
    /// memory for more than three scopes, those above are forgotten.
    #[inline]
    pub fn suspend(&mut self, mark: ContextMark) {
        let state = state();
        if state.batches.is_pending() {
            state.batches.flush();
        }
        let Some(depth) = mark.find(state) else { return };
        if depth + 1 != state.contexts.depth() {
            self.save_above(state, depth);
        }
        if let Some(base) = state.contexts.pop() {
            self.leave_base(state, base);
        }
        state.pop_dead();
        state.apply_top();
        safe_point::reach(state);
    }

    /// Calls `switch`, which switches to the coroutine and returns when that is suspended or ends,
    /// within the coroutine's contexts. They are left, and kept, also when it panics.
    ///
    /// # Errors
    /// As [`resume`](Self::resume); `switch` is not called then.
    pub fn run<T>(&mut self, switch: impl FnOnce() -> T) -> Result<T, HeapError> {
        let mark = self.resume()?;
        let resumed = Resumed::new(self, mark);
        let result = switch();
        drop(resumed);
        Ok(result)
    }

    /// As [`run`](Self::run), with a heap of the coroutine's own entered below its scopes.
    ///
    /// # Errors
    /// As [`resume_in`](Self::resume_in); `switch` is not called then.
    pub fn run_in<T>(&mut self, heap: &Heap, switch: impl FnOnce() -> T) -> Result<T, HeapError> {
        let mark = self.resume_in(heap)?;
        let resumed = Resumed::new(self, mark);
        let result = switch();
        drop(resumed);
        Ok(result)
    }

    /// Forgets the contexts: of a coroutine that has ended. Closes heaps that it had swapped in.
    pub fn discard(&mut self) {
        while let Some(entry) = self.pop() {
            self.release(entry);
        }
        if let Some(slot) = self.slot.take() {
            // SAFETY: the slot has the only handle.
            drop(unsafe { Heap::from_raw(slot) });
        }
        self.in_use = None;
    }

    /// Enters as much as can be entered, so that the coroutine can be unwound in its contexts.
    /// `None` on a thread that can enter nothing.
    #[cfg(feature = "corosensei")]
    pub(super) fn resume_to_unwind(&mut self, heap: NonNull<HeapHeader>) -> Option<ContextMark> {
        let state = state();
        let token = token().ok().filter(|_| state.contexts.reserve(self.length + 1));
        let Some(token) = token else {
            // What is on its stack is dropped outside: heaps too, which then must not be kept.
            self.discard();
            return None;
        };
        // SAFETY: the caller has the heap's handle.
        let is_entered = unsafe { safe_point::try_enter(heap, token) };
        let base = if is_entered { self.base_in(heap) } else { Entry::EMPTY };
        self.push_all(state, token, base)
    }

    /// The caller has the handle of `heap`.
    #[inline]
    pub(super) fn resume_at(
        &mut self,
        heap: Option<NonNull<HeapHeader>>,
    ) -> Result<ContextMark, HeapError> {
        let token = token()?;
        let state = state();
        if self.length != 0 {
            self.check_all(state)?;
        }
        let base = match heap.or(self.slot) {
            Some(heap) => {
                // SAFETY: the caller or the slot has the heap's handle.
                let this = unsafe { heap.as_ref() };
                // SAFETY: as above.
                let is_entered = this.runner.try_enter_idle(token)
                    || unsafe { safe_point::try_enter(heap, token) };
                if !is_entered {
                    return Err(refused(this));
                }
                if !this.foreign.is_empty() {
                    // SAFETY: this thread runs the heap now.
                    unsafe { (this.operations.collect)(heap) };
                }
                self.base_in(heap)
            }
            None => self.base_inherited(state),
        };
        match self.push_all(state, token, base) {
            Some(mark) => Ok(mark),
            None => {
                self.leave_base(state, base);
                safe_point::reach(state);
                Err(HeapError::NoMemory)
            }
        }
    }

    /// A base whose heap was just entered. A slot's heap now belongs to the entry.
    fn base_in(&mut self, heap: NonNull<HeapHeader>) -> Entry {
        let is_slot = self.slot == Some(heap);
        if is_slot {
            self.slot = None;
        }
        Entry {
            heap: Some(heap),
            in_use: self.in_use.unwrap_or(CurrentAllocatorInUse::CoroutineLocal),
            hold: if is_slot { Hold::Owned } else { Hold::Entered },
            ..Entry::EMPTY
        }
    }

    fn base_inherited(&self, state: &ThreadState) -> Entry {
        let below = state.contexts.top();
        let in_use = self.in_use.unwrap_or(below.in_use);
        Entry { heap: below.heap, in_use, ..Entry::EMPTY }.with_possible_use()
    }

    /// Pushes the base, which is entered, and re-enters the rest, for which there is room. `None`
    /// where there is none for the base.
    #[inline]
    fn push_all(&mut self, state: &ThreadState, token: Token, base: Entry) -> Option<ContextMark> {
        let depth = state.contexts.depth();
        let serial = state.contexts.push(base)?;
        if self.length != 0 {
            self.reenter_all(state, token);
        }
        state.apply_top();
        Some(ContextMark { depth, serial, not_send: PhantomData })
    }

    /// Pops the base's entry and keeps what the coroutine changed in it.
    #[inline]
    fn leave_base(&mut self, state: &ThreadState, base: Entry) {
        let found = match (base.hold, base.heap) {
            (Hold::Entered, Some(heap)) => {
                // SAFETY: the entry holds the heap, so this thread runs it.
                unsafe { safe_point::leave(state, heap) };
                CurrentAllocatorInUse::CoroutineLocal
            }
            (Hold::Owned, Some(heap)) => {
                // SAFETY: as above.
                unsafe { safe_point::leave(state, heap) };
                if let Some(old) = self.slot.replace(heap) {
                    // SAFETY: the slot had the only handle.
                    drop(unsafe { Heap::from_raw(old) });
                }
                CurrentAllocatorInUse::CoroutineLocal
            }
            _ => state.contexts.top().in_use,
        };
        self.in_use = (base.in_use != found).then_some(base.in_use);
    }
}

impl Default for SavedContext {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SavedContext {
    fn drop(&mut self) {
        self.discard();
        if let Some(spilled) = self.spilled.take() {
            let bytes = self.capacity as usize * size_of::<Entry>();
            // SAFETY: the memory was taken by `reserve` with this size.
            unsafe { Metadata::give_back(spilled.cast(), bytes) };
        }
    }
}

impl ContextMark {
    /// The depth of the base that the mark names, if it is in this thread's stack.
    #[inline]
    fn find(&self, state: &ThreadState) -> Option<u32> {
        match state.contexts.get(self.depth) {
            Some(base) if base.serial == self.serial => Some(self.depth),
            _ => state.contexts.find(self.serial),
        }
    }
}

/// Suspends when dropped.
struct Resumed<'a> {
    context: &'a mut SavedContext,
    mark: Option<ContextMark>,
}

impl<'a> Resumed<'a> {
    fn new(context: &'a mut SavedContext, mark: ContextMark) -> Self {
        Self { context, mark: Some(mark) }
    }
}

impl Drop for Resumed<'_> {
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take() {
            self.context.suspend(mark);
        }
    }
}

/// The entries above the base.
impl SavedContext {
    /// Whether there is room for every entry, and every heap can be entered. As nobody but this
    /// thread may enter them, none is entered between this and [`reenter_all`](Self::reenter_all),
    /// which therefore has nothing to undo.
    #[cold]
    fn check_all(&self, state: &ThreadState) -> Result<(), HeapError> {
        if !state.contexts.reserve(self.length + 1) {
            return Err(HeapError::NoMemory);
        }
        for index in 0..self.length {
            let entry = self.get(index);
            if let (Hold::Entered, Some(heap)) = (entry.hold, entry.heap) {
                // SAFETY: the entry has a pin; this is the thread that the heap is bound to, or was
                // sent the context by it.
                let may_go_on = unsafe { pins::is_closed(heap) || pins::is_free(heap, self.token) };
                if !may_go_on {
                    return Err(HeapError::Running);
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn reenter_all(&mut self, state: &ThreadState, token: Token) {
        for index in 0..self.length {
            let entry = self.reenter(state, self.get(index), token);
            // There is room.
            let _ = state.contexts.push_again(entry);
        }
        self.length = 0;
    }

    /// The entry as it is on top of what is there now, its heap entered.
    fn reenter(&self, state: &ThreadState, entry: Entry, token: Token) -> Entry {
        match (entry.hold, entry.heap) {
            (Hold::Inherited, Some(_)) => {
                Entry { heap: state.contexts.top().heap, ..entry }.with_possible_use()
            }
            (Hold::Entered, Some(heap)) => {
                // SAFETY: as in `check_all`; where the heap was not entered the pin is still
                // there, and is not used after it was taken back.
                unsafe {
                    if pins::unpin_and_enter(heap, self.token, token) {
                        return entry;
                    }
                    pins::unpin(heap, self.token);
                }
                entry.without_heap()
            }
            (Hold::Owned, Some(heap)) => {
                // SAFETY: the entry has the only handle, so the header is valid.
                let this = unsafe { heap.as_ref() };
                if this.runner.try_enter(token) {
                    return entry;
                }
                if !this.is_ended_with_parent() {
                    // A heap with a pin is never swapped in, so nobody else can have entered it.
                    crate::sys::abort_with(&["a suspended context's own heap runs elsewhere"]);
                }
                // SAFETY: the entry had the only handle, and gives it up.
                drop(unsafe { Heap::from_raw(heap) });
                entry.without_heap()
            }
            (_, None) => entry,
        }
    }

    /// Leaves and keeps the entries above `depth`, innermost first.
    #[cold]
    fn save_above(&mut self, state: &ThreadState, depth: u32) {
        self.discard_entries();
        self.token = state.token.get();
        let count = state.contexts.depth() - depth - 1;
        let kept = self.reserve(count);
        self.length = count.min(kept);
        for index in (0..count).rev() {
            let Some(entry) = state.contexts.pop() else { continue };
            match (entry.hold, entry.heap) {
                // SAFETY: an entry of the stack that holds a heap runs it.
                (Hold::Entered, Some(heap)) => unsafe {
                    safe_point::note(state, heap.as_ref());
                    pins::pin_and_leave(heap);
                },
                // SAFETY: as above.
                (Hold::Owned, Some(heap)) => unsafe { safe_point::leave(state, heap) },
                _ => {}
            }
            if index < kept {
                self.set(index, entry);
            } else {
                self.release(entry);
            }
        }
    }

    /// Gives up what a saved entry holds.
    fn release(&self, entry: Entry) {
        match (entry.hold, entry.heap) {
            (Hold::Entered, Some(heap)) => {
                // SAFETY: the entry has a pin, which keeps the header.
                let this = unsafe { heap.as_ref() };
                let account = this.is_shared().then(|| this.account.clone());
                // SAFETY: the entry is gone; the thread is as in `check_all`.
                unsafe { pins::unpin(heap, self.token) };
                // The parent may have ended meanwhile, and left the close to whoever leaves it.
                if let Some(account) = account {
                    closing::close_if_ended(&account);
                }
            }
            // SAFETY: the entry had the only handle and is gone.
            (Hold::Owned, Some(heap)) => drop(unsafe { Heap::from_raw(heap) }),
            _ => {}
        }
    }

    fn discard_entries(&mut self) {
        while let Some(entry) = self.pop() {
            self.release(entry);
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let index = self.length.checked_sub(1)?;
        let entry = self.get(index);
        self.length = index;
        Some(entry)
    }

    /// Makes room for so many entries, all of which may be lost; for how many there is room.
    fn reserve(&mut self, count: u32) -> u32 {
        let capacity = self.capacity.max(INLINE as u32);
        if count <= capacity {
            return capacity;
        }
        let wanted = count.next_power_of_two();
        let Some(memory) = Metadata::take(wanted as usize * size_of::<Entry>()) else {
            return capacity;
        };
        if let Some(old) = self.spilled.replace(memory.cast()) {
            let bytes = self.capacity as usize * size_of::<Entry>();
            // SAFETY: taken here with this size, and no entry is in it.
            unsafe { Metadata::give_back(old.cast(), bytes) };
        }
        self.capacity = wanted;
        wanted
    }

    fn entries(&self) -> NonNull<Entry> {
        match self.spilled {
            Some(spilled) => spilled,
            None => NonNull::from(&self.inline).cast(),
        }
    }

    /// The entry at an index below the length.
    fn get(&self, index: u32) -> Entry {
        debug_assert!(index < self.length);
        // SAFETY: entries below the length are initialised.
        unsafe { place_of(self.entries(), index).read() }
    }

    /// Sets the entry at an index for which there is room.
    fn set(&mut self, index: u32, entry: Entry) {
        match self.spilled {
            // SAFETY: there is room for the index.
            Some(spilled) => unsafe { place_of(spilled, index).write(entry) },
            None => {
                if let Some(place) = self.inline.get_mut(index as usize) {
                    *place = entry;
                }
            }
        }
    }
}

/// # Safety
/// The array at `entries` is longer than `index`.
unsafe fn place_of(entries: NonNull<Entry>, index: u32) -> NonNull<Entry> {
    // SAFETY: the caller's contract.
    unsafe { crate::pointers::forward(entries.cast(), index as usize * size_of::<Entry>()) }.cast()
}

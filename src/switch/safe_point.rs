//! Safe points: where what the allocator only noted is acted upon.
//!
//! Inside the allocator a limit that is passed sets a bit, and a parent's end sets another. Nothing
//! of the program's runs there. It runs here: where a heap is left, in a checkpoint, and before it
//! is decided whether a task or a coroutine ends. A heap for which there is something to do says so
//! in the word that leaving reads anyway, so a heap for which there is not pays nothing.

use core::cell::Cell;
use core::ptr::NonNull;

use super::scope::out_of_contexts;
use super::stack::Entry;
use super::state::{ThreadState, state};
use super::{closing, pressure};
use crate::heap::account::Node;
use crate::heap::{Account, HeapHeader, attention};
use crate::sync::{Token, child};

/// What a thread does at its next safe point. All zero bytes are a valid, empty value.
///
/// # Invariants
/// - `waiting` begins a list of accounts, each with a count and the bit `WAITS`.
/// - `ended` begins a list of heaps that this thread runs and that nobody has a handle of, and of
///   heaps that were claimed because their parents ended.
#[derive(Debug)]
pub struct Due {
    waiting: Cell<Option<NonNull<Node>>>,
    ended: Cell<Option<NonNull<HeapHeader>>>,
}

impl Due {
    /// Nothing.
    pub const fn new() -> Self {
        Self { waiting: Cell::new(None), ended: Cell::new(None) }
    }

    /// Whether there is something to do.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.waiting.get().is_some() || self.ended.get().is_some()
    }

    fn note(&self, account: &Account) {
        if let Some(first) = account.wait_before(self.waiting.get()) {
            self.waiting.set(Some(first));
        }
    }

    fn next_waiting(&self) -> Option<Account> {
        let first = self.waiting.get()?;
        // SAFETY: `note` made the list, which is this thread's.
        let (account, rest) = unsafe { Account::take_waiting(first) };
        self.waiting.set(rest);
        Some(account)
    }

    /// Has a heap closed at the next safe point.
    ///
    /// # Safety
    /// This thread runs the heap, and its only handle is given up to this; or it was claimed by
    /// [`closing::claim_if_ended`].
    pub unsafe fn close(&self, header: NonNull<HeapHeader>) {
        // SAFETY: the caller keeps everybody out of the heap, which stands in no thread's list. One
        // whose handle is in a pool may stand in the pool's.
        unsafe { header.as_ref() }.next_due.set(self.ended.get());
        self.ended.set(Some(header));
    }

    fn next_ended(&self) -> Option<NonNull<HeapHeader>> {
        let header = self.ended.get()?;
        // SAFETY: nobody but this thread has the heaps in the list.
        self.ended.set(unsafe { header.as_ref() }.next_due.take());
        Some(header)
    }
}

/// Ends a thread's run of a heap; [`reach`] is to follow, once the thread's state is whole.
///
/// # Safety
/// This thread runs the heap.
#[inline]
pub unsafe fn leave(state: &ThreadState, header: NonNull<HeapHeader>) {
    // SAFETY: the thread runs the heap.
    let this = unsafe { header.as_ref() };
    if this.attention() == 0 {
        this.runner.leave();
    } else {
        leave_with_work(state, this);
    }
}

/// As [`leave`], where nothing of the program's may run: within an allocation through a handle.
/// What there is to do is done at this thread's next safe point or where the heap is left next,
/// whichever comes first; a heap whose parent has ended is closed there, or when it is entered.
///
/// # Safety
/// This thread runs the heap, and the caller borrows its handle: that keeps the header.
#[inline]
pub unsafe fn leave_quietly(state: &ThreadState, this: &HeapHeader) {
    if this.attention() == 0 {
        this.runner.leave();
    } else {
        leave_quietly_with_work(state, this);
    }
}

#[cold]
#[inline(never)]
fn leave_quietly_with_work(state: &ThreadState, this: &HeapHeader) {
    // The bit stays, for who leaves the heap next: that may be another thread.
    if this.attention() & attention::NOTED != 0 {
        state.due.note(&this.account);
    }
    if !this.is_shared() {
        this.leave();
    } else if child::leave(this.account.bits(), || this.leave()) {
        state.due.note(&this.account);
    }
}

#[cold]
#[inline(never)]
fn leave_with_work(state: &ThreadState, this: &HeapHeader) {
    note(state, this);
    if !this.is_shared() {
        this.leave();
        return;
    }
    let account = this.account.clone();
    // The account may wait in another thread's list, for something else; so the heap goes to ours.
    if child::leave(account.bits(), || this.leave())
        && let Some(header) = closing::claim_if_ended(&account)
    {
        // SAFETY: it was claimed just now.
        unsafe { state.due.close(header) };
    }
}

/// As [`leave`] and [`reach`], of a heap that ends with its parent and has nothing else to tell.
///
/// # Safety
/// This thread runs the heap, and whoever calls borrows its handle: that keeps the header, and the
/// account with it, when the parent's closer comes as soon as the heap is left. The thread's state
/// is whole.
#[inline]
pub unsafe fn leave_child(state: &ThreadState, this: &HeapHeader) {
    if child::leave(this.account.bits(), || this.runner.leave_shared()) {
        close_left(this.account.clone());
    } else {
        reach(state);
    }
}

#[cold]
#[inline(never)]
fn close_left(account: Account) {
    closing::close_if_ended(&account);
    // The program's code was called: it may have moved to another thread.
    reach(super::state::state());
}

/// Makes the thread of `token` the runner of a heap that nobody runs, that nothing waits in to be
/// collected, and whose parent has not ended. False otherwise, and nothing is done.
///
/// # Safety
/// The caller has the heap's handle.
#[inline]
pub unsafe fn try_enter_soon(this: &HeapHeader, token: Token) -> bool {
    if !this.foreign.is_empty() {
        return false;
    }
    if this.is_shared() {
        !child::is_ended(this.account.bits()) && this.runner.try_claim_and_wait(token)
    } else {
        this.runner.try_enter_idle(token)
    }
}

/// Makes the thread of `token` the runner of a heap, however it is to be entered. False if somebody
/// runs it, or it is closed; it is, if its parent ended. Calls the program's code then.
///
/// # Safety
/// The caller has the heap's handle.
pub unsafe fn try_enter(header: NonNull<HeapHeader>, token: Token) -> bool {
    // SAFETY: the handle keeps the header.
    let this = unsafe { header.as_ref() };
    if child::is_ended(this.account.bits()) {
        closing::close_if_ended(&this.account);
        return false;
    }
    this.runner.try_enter(token)
}

/// Notes what a limit asks for, of a heap that this thread runs.
pub(super) fn note(state: &ThreadState, this: &HeapHeader) {
    if this.attended(attention::NOTED) {
        state.due.note(&this.account);
    }
}

/// Does what is due. Calls the program's code.
#[inline]
pub fn reach(state: &ThreadState) {
    if state.due.is_any() {
        settle();
    }
}

#[cold]
#[inline(never)]
fn settle() {
    // Within a callback heaps are closed; what is to be told waits until it returns.
    let is_within = state().contexts.is_telling();
    if is_within && state().due.ended.get().is_none() {
        return;
    }
    // The state is read anew after each call to the program's code, which may add to it.
    out_of_contexts(|| {
        close_ended();
        if is_within || state().due.waiting.get().is_none() {
            return;
        }
        let mut told = Vec::new();
        // The entry is the program's own where there was no memory for another.
        let was_telling = state().contexts.top().is_telling;
        set_telling(true);
        while let Some(account) = state().due.next_waiting() {
            closing::close_if_ended(&account);
            pressure::tell(&account, &mut told);
            close_ended();
        }
        set_telling(was_telling);
    });
}

/// Notes in this thread's current entry whether callbacks are being called. The thread may be
/// another after each of them: one can suspend the coroutine, which is then resumed elsewhere.
fn set_telling(is_telling: bool) {
    let contexts = &state().contexts;
    contexts.set_top(Entry { is_telling, ..contexts.top() });
}

fn close_ended() {
    while let Some(header) = state().due.next_ended() {
        // SAFETY: this thread runs the heap, which has no handle; or it was claimed.
        unsafe {
            if header.as_ref().runner.is(Token::CLOSER) {
                closing::close_claimed(header);
            } else {
                closing::close(header);
            }
        }
    }
}

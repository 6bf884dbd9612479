//! How a heap ends: its children first, then its callbacks, then its blocks.
//!
//! ```text
//!   close(parent)
//!     ├─ child that nobody runs      claimed, and closed here
//!     ├─ child that runs somewhere   marked; whoever leaves it closes it
//!     ├─ callbacks, newest first
//!     └─ chunks: back to the source, or orphans
//! ```
//!
//! A child that was closed so still has its handle, which keeps the header; entering it is an error
//! from then on, [`HeapError::Closed`](super::HeapError::Closed).

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::configuration::GLOBAL_COUNTERS;
use super::handle::{Heap, HeapError, token};
use super::scope::out_of_contexts;
use super::state::state;
use super::{call_sites, events, safe_point};
use crate::heap::account::{signal, unrefused};
use crate::heap::callbacks::Registered;
use crate::heap::{Account, EscapeReport, HeapEnd, HeapHeader, attention, pins};
use crate::sync::Token;
use crate::sync::child::{self, Dropped};
use crate::sync::inspection;

/// Closes a heap: children, callbacks, blocks. The header may be gone afterwards.
///
/// # Safety
/// This thread runs the heap, nobody else can enter it, and whoever has a handle of it has a pin.
pub(super) unsafe fn close(header: NonNull<HeapHeader>) -> EscapeReport {
    // SAFETY: the caller runs the heap.
    let this = unsafe { header.as_ref() };
    let mut report = end_contents(this, HeapEnd::Close);
    if this.is_shared() {
        this.account.outlive_parent();
    }
    flush_own_frees();
    // The header may be gone when there is something to tell.
    let is_told = events::ARE_WANTED || call_sites::is_told();
    let account = is_told.then(|| this.account.clone());
    // SAFETY: the caller's contract. What is freed from the close on is no longer counted off the
    // sites.
    let (sites, closed) = unsafe { (call_sites::log_of(header), (this.operations.close)(header)) };
    report.blocks = closed.blocks;
    report.bytes = closed.bytes;
    report.kept_bytes = closed.kept_bytes;
    report.returned_bytes = closed.returned_bytes;
    report.sites = call_sites::copy_of(sites);
    if let Some(account) = account {
        events::closed(&account, &report);
        tell_escaped(&account, &report);
    }
    report
}

/// Tells whoever wants to know of what outlives a heap.
fn tell_escaped(account: &Account, report: &EscapeReport) {
    if report.blocks != 0 {
        events::escaped(account, report);
        call_sites::escaped(account, report);
    }
}

/// Closes the heap of an account whose parent has ended, unless somebody runs it or it is gone.
/// Whether it was closed here.
pub(super) fn close_if_ended(account: &Account) -> bool {
    let Some(header) = claim_if_ended(account) else { return false };
    // SAFETY: it was claimed for this.
    unsafe { close_claimed(header) };
    true
}

/// Keeps everybody out of the heap of an account whose parent has ended, unless somebody runs it or
/// it is gone. [`close_claimed`] is to follow.
pub(super) fn claim_if_ended(account: &Account) -> Option<NonNull<HeapHeader>> {
    let claimed = account.with_heap(|header| {
        // SAFETY: a heap that its account names is not closed, and the tree's lock is held.
        let runner = unsafe { &header.as_ref().runner };
        child::try_claim(runner, account.bits()).then_some(header)
    });
    let header = claimed.flatten()?;
    // SAFETY: the claim keeps everybody out.
    let this = unsafe { header.as_ref() };
    // Not under the tree's lock.
    inspection::all().pass(&this.runner);
    // For the handle, which is still there, or is dropped meanwhile.
    this.set_attention(this.attention() + attention::PIN);
    Some(header)
}

/// Closes such a heap.
///
/// # Safety
/// [`claim_if_ended`] gave the heap, and nobody has closed it since.
pub(super) unsafe fn close_claimed(header: NonNull<HeapHeader>) {
    // SAFETY: the claim keeps the header until it is closed.
    let account = unsafe { header.as_ref() }.account.clone();
    let is_last = child::finish(account.bits(), || {
        // SAFETY: the heap is claimed, and the handle has its pin.
        unsafe { close(header) };
    });
    if is_last {
        // SAFETY: whoever dropped the handle left its pin to us.
        unsafe { pins::unpin(header, Token::NOBODY) };
    }
}

/// Ends the children and calls the callbacks of a heap that is about to be closed or reset. The
/// thread that runs it may be another then: who calls this reads the thread's state anew.
pub(super) fn end_contents(this: &HeapHeader, end: HeapEnd) -> EscapeReport {
    let mut report = EscapeReport::default();
    if this.account.may_have_children() || !this.callbacks.is_empty() {
        let is_claimed = this.runner.is(Token::CLOSER);
        // A callback may suspend its coroutine, which is then resumed on another thread, while this
        // one frees what was allocated in the heap: so it is run by no thread meanwhile.
        this.runner.hand_to(Token::CLOSER);
        out_of_contexts(|| {
            close_children(&this.account, &mut report);
            report.panicked_callbacks += this.callbacks.call_all(end);
        });
        if !is_claimed {
            this.runner.hand_to(own_token());
        }
    }
    report
}

/// What this thread runs heaps by that it ends.
fn own_token() -> Token {
    // A thread that is torn down runs nothing, but may close what nobody runs.
    token().unwrap_or(Token::CLOSER)
}

/// Closes the heaps below an account, lowest first, that end with their parent.
#[cold]
fn close_children(account: &Account, report: &mut EscapeReport) {
    let mut below: Vec<(usize, Account)> = Vec::new();
    // Of heaps that live on, detached or only charged to the account, the children do too.
    let lives_on = |above: &Account| above.has_heap() && above.with_heap(|_| ()).is_none();
    let ends = |child: &Account| {
        let mut between = child.with_parents().skip(1).take_while(|above| above != account);
        child != account && !between.any(|above| lives_on(&above))
    };
    for child in account.subtree().filter(ends) {
        unrefused(|| below.push((child.with_parents().count(), child)));
    }
    // Sorting takes memory, too.
    unrefused(|| below.sort_by_key(|(depth, _)| core::cmp::Reverse(*depth)));
    for (_, below) in below {
        // One that is detached meanwhile is not marked, or marked before and then cleared.
        let mark = |bits| below.with_heap(|_| below.raise(bits));
        match child::end(mark, || close_if_ended(&below)) {
            Some(true) => report.closed_children += 1,
            Some(false) => report.deferred_children += 1,
            None => {}
        }
    }
}

/// Makes this thread the runner of a heap that its handle's owner ends. False if a leaked guard
/// left it running on another thread.
///
/// # Safety
/// The caller has the heap's handle, the heap is not closed, and the handle is not used any more.
unsafe fn claim(header: NonNull<HeapHeader>) -> bool {
    // SAFETY: the heap is not closed, so its header is valid.
    let this = unsafe { header.as_ref() };
    match own_token() {
        token if token != Token::CLOSER && this.runner.is(token) => {
            state().unlink(header);
            true
        }
        token => this.runner.try_enter(token),
    }
}

/// Closes a heap whose handle is gone.
///
/// # Safety
/// The caller had the only handle of the heap.
pub(super) unsafe fn close_by_handle(header: NonNull<HeapHeader>) -> EscapeReport {
    flush_own_frees();
    // SAFETY: the handle kept the header.
    let this = unsafe { header.as_ref() };
    // SAFETY: the caller's contract.
    let report = unsafe {
        let mut report = EscapeReport::default();
        let try_close = || {
            let is_claimed = claim(header);
            if is_claimed {
                report = close(header);
            }
            is_claimed
        };
        match child::drop_handle(try_close, |bits| this.account.raise(bits)) {
            Dropped::Closed | Dropped::LeftToCloser => {}
            // The closer left a pin for the handle.
            Dropped::LastOfTwo => pins::unpin(header, Token::NOBODY),
            Dropped::Runs => {
                GLOBAL_COUNTERS.leaked_heaps.fetch_add(1, Ordering::Relaxed);
            }
        }
        report
    };
    safe_point::reach(state());
    report
}

impl Heap {
    /// Ends what is in the heap and goes on with it empty: chunks without blocks are kept for reuse
    /// (one) or given back, those with survivors become orphans, as after [`close`](Self::close).
    /// Its children are closed, and its callbacks called, as there.
    ///
    /// # Errors
    /// [`HeapError::Running`], [`HeapError::Closed`], [`HeapError::ThreadEnded`];
    /// [`HeapError::NoMemory`] where something survives and there is no memory for new records: its
    /// blocks are then as they were.
    pub fn reset(&mut self) -> Result<EscapeReport, HeapError> {
        self.reset_and_look().map(|(report, _)| report)
    }

    /// As [`reset`](Self::reset); also whether the account holds nothing but what the heap keeps:
    /// nothing that survived, and no heap that goes on.
    pub(super) fn reset_and_look(&mut self) -> Result<(EscapeReport, bool), HeapError> {
        flush_own_frees();
        let token = token()?;
        // SAFETY: this is the heap's handle.
        if !unsafe { safe_point::try_enter(self.raw(), token) } {
            return Err(self.refused());
        }
        let mut report = end_contents(self.header(), HeapEnd::Reset);
        flush_own_frees();
        // SAFETY: this thread runs the heap; a closed one is replaced in the handle.
        let renewed = unsafe { self.renew(&mut report) };
        self.forget_end();
        self.header().account.begin_again();
        let mut is_alone = false;
        // Nobody runs a successor: something survived. The callbacks may have returned on another
        // thread.
        if self.header().runner.is(own_token()) {
            let account = &self.header().account;
            is_alone =
                account.holds_only(self.header().held_bytes.get()) && !account.has_heaps_below();
            // SAFETY: this thread runs the heap.
            unsafe { safe_point::leave(state(), self.raw()) };
        }
        safe_point::reach(state());
        renewed.map(|()| (report, is_alone))
    }

    /// Nothing that happened so far ends what comes now.
    #[inline]
    pub(super) fn forget_end(&self) {
        let account = &self.header().account;
        if account.is_ended() {
            account.lower(signal::END);
        }
    }

    /// Empties the heap, or puts another in its place.
    ///
    /// # Safety
    /// This thread runs the heap.
    unsafe fn renew(&mut self, report: &mut EscapeReport) -> Result<(), HeapError> {
        let header = self.raw();
        let operations = self.header().operations;
        // SAFETY: the caller runs the heap.
        unsafe {
            match (operations.reset)(header) {
                Ok(returned_bytes) => {
                    report.returned_bytes = returned_bytes;
                    return Ok(());
                }
                Err(returned_bytes) => report.returned_bytes = returned_bytes,
            }
            let successor = (operations.recreate)(header).ok_or(HeapError::NoMemory)?;
            self.replace_raw(successor);
            let (sites, closed) = (call_sites::log_of(header), (operations.close)(header));
            report.blocks = closed.blocks;
            report.bytes = closed.bytes;
            report.kept_bytes = closed.kept_bytes;
            report.returned_bytes += closed.returned_bytes;
            report.sites = call_sites::copy_of(sites);
        }
        tell_escaped(&self.header().account, report);
        Ok(())
    }

    /// Ends the heap. Chunks without blocks go back at once; what is still allocated stays valid
    /// until it is freed, and its chunks go back with their last block.
    ///
    /// Its children, the heaps that have it as their [parent](crate::HeapBuilder::parent), are
    /// closed first; those that run are closed when they are left. Then its callbacks are called.
    ///
    /// A heap that a leaked guard left current on this thread is first made not current. One that a
    /// leaked guard left running on *another* thread cannot be closed: it is leaked and counted,
    /// and the report is empty.
    pub fn close(self) -> EscapeReport {
        let header = self.into_raw();
        // SAFETY: the handle was the only one, and is gone.
        unsafe { close_by_handle(header) }
    }

    /// Ends the heap and frees everything in it, also what is still allocated.
    ///
    /// # Safety
    /// Nothing that was allocated in the heap is used, or freed, once its callbacks were called.
    /// Other threads that freed blocks of it have called
    /// [`flush_foreign_frees`](crate::flush_foreign_frees) since, or ended: blocks that wait in
    /// their batches would be handed over to a heap that is gone.
    pub unsafe fn discard_unchecked(self) -> EscapeReport {
        flush_own_frees();
        let header = self.into_raw();
        // SAFETY: the handle was the only one; the caller says that no block is in use.
        unsafe {
            if !claim(header) {
                return close_by_handle(header);
            }
            let report = end_contents(header.as_ref(), HeapEnd::Close);
            flush_own_frees();
            let held_bytes = header.as_ref().held_bytes.get();
            (header.as_ref().operations.forget_blocks)(header);
            let closed = close(header);
            // Unlinking may have left other heaps.
            safe_point::reach(state());
            EscapeReport {
                returned_bytes: closed.returned_bytes + held_bytes,
                closed_children: report.closed_children,
                deferred_children: report.deferred_children,
                panicked_callbacks: report.panicked_callbacks,
                ..closed
            }
        }
    }

    /// Calls `call` once, when what is in the heap ends: at its next reset, or when it is closed.
    /// The newest callback is called first, those of children before their parents'. A panic in one
    /// is caught and counted in the report.
    ///
    /// It is called before any block is given back, by whoever ends the heap, with the thread's
    /// own heap in use.
    ///
    /// ```
    /// use heapswitch::{Heap, HeapEnd};
    ///
    /// let heap = Heap::new()?;
    /// heap.on_end(|end| assert_eq!(end, HeapEnd::Close))?;
    /// heap.close();
    /// # Ok::<(), heapswitch::HeapError>(())
    /// ```
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::Closed`]; [`HeapError::ThreadEnded`].
    pub fn on_end(&self, call: impl FnOnce(HeapEnd) + Send + 'static) -> Result<(), HeapError> {
        let registered = out_of_contexts(|| Registered::new(call));
        let mut registered = Some(registered);
        self.as_runner(|header| {
            if let Some(registered) = registered.take() {
                // SAFETY: called as the runner.
                unsafe { header.as_ref() }.callbacks.push(registered);
            }
        })
    }

    /// Lets the heap outlive its parent. Its memory stays charged to it: the accounts above outlive
    /// the heaps too.
    ///
    /// # Errors
    /// [`HeapError::Running`]; [`HeapError::Closed`] if the parent has ended already;
    /// [`HeapError::ThreadEnded`].
    pub fn detach(&mut self) -> Result<(), HeapError> {
        let token = token()?;
        // SAFETY: this is the heap's handle.
        if !unsafe { safe_point::try_enter(self.raw(), token) } {
            return Err(self.refused());
        }
        let this = self.header();
        this.account.outlive_parent();
        this.attended(attention::SHARED);
        // The parent may have asked just before.
        this.account.lower(signal::CLOSE);
        // SAFETY: this thread runs the heap.
        unsafe { safe_point::leave(state(), self.raw()) };
        safe_point::reach(state());
        Ok(())
    }
}

/// Hands over what this thread freed while it did not run the heap: to whoever asks for the heap's
/// end, that is freed, and waiting in a batch it would pin the heap's chunks.
pub(super) fn flush_own_frees() {
    let batches = &state().batches;
    if batches.is_pending() {
        batches.flush();
    }
}

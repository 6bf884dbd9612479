//! Where blocks were asked for, as a program sees it: what is live now, what outlived a heap, as
//! text and as stacks for a flame graph.

mod format;
mod symbols;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, Ordering};

use self::symbols::{Frame, Symbols};
use super::handle::{Heap, HeapError};
use super::scope::out_of_contexts;
use crate::heap::account::unrefused;
use crate::heap::callbacks::call_guarded;
use crate::heap::{
    Account, AccountId, CallSite, CallSites, ContextName, EscapeReport, HeapHeader, SiteLog,
    accounts, site_logs,
};

impl Heap {
    /// Where the blocks that are allocated in it were asked for, if it was
    /// [made to record that](crate::HeapBuilder::call_sites); otherwise none.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::Closed`]; [`HeapError::ThreadEnded`].
    /// Any thread may read [`LiveSites`] instead.
    pub fn call_sites(&self) -> Result<CallSites, HeapError> {
        // SAFETY: called as the runner.
        let log = self.as_runner(|header| unsafe { log_of(header) })?;
        Ok(copy_of(log))
    }
}

/// The log of a heap's sites.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn log_of(header: core::ptr::NonNull<HeapHeader>) -> Option<SiteLog> {
    // SAFETY: the caller's contract.
    unsafe { (header.as_ref().operations.sites)(header) }
}

/// What a log says, in the thread's own heap.
#[inline]
pub(super) fn copy_of(log: Option<SiteLog>) -> CallSites {
    match log {
        None => CallSites::default(),
        Some(log) => copy(log),
    }
}

/// Apart, so that closing a heap that records nothing has none of it.
#[cold]
#[inline(never)]
#[expect(clippy::needless_pass_by_value, reason = "its end is not the caller's code either")]
fn copy(log: SiteLog) -> CallSites {
    // A close cannot do without, whatever the limits.
    out_of_contexts(|| unrefused(|| CallSites::of(&log)))
}

/// What is told when a heap is closed and blocks outlive it.
type Told = fn(&Account, &EscapeReport);

static TOLD: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Calls `tell` from now on whenever a heap is closed, or reset, and blocks outlive it: also where
/// nobody asks for the report, as when a heap is dropped or a future's ends. One function for the
/// process; it replaces the last.
///
/// It is called with the thread's own heap in use, once the heap is closed. A panic in it is
/// caught. Of heaps that it closes itself it is told as well.
///
/// ```
/// heapswitch::on_escape(|account, report| {
///     eprintln!("{}: {} blocks escaped\n{}", account.name(), report.blocks, report.sites);
/// });
/// ```
pub fn on_escape(tell: fn(&Account, &EscapeReport)) {
    // Release pairs with the Acquire in `escaped`; a function's code is there anyway.
    TOLD.store(tell as *mut (), Ordering::Release);
}

/// Whether anybody wants to be told of escapees.
pub(super) fn is_told() -> bool {
    !TOLD.load(Ordering::Relaxed).is_null()
}

/// Tells of blocks that outlive a heap.
pub(super) fn escaped(account: &Account, report: &EscapeReport) {
    let told = TOLD.load(Ordering::Acquire);
    if told.is_null() {
        return;
    }
    // SAFETY: only functions of that type are stored, and nothing else but null.
    let tell = unsafe { core::mem::transmute::<*mut (), Told>(told) };
    out_of_contexts(|| call_guarded(|| tell(account, report)));
}

/// What is live in one context, by call site.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContextSites {
    /// The context's account.
    pub account: AccountId,
    /// Its name.
    pub name: ContextName,
    /// Where its blocks were asked for.
    pub sites: CallSites,
}

/// What is live now in every heap of the process that records call sites.
///
/// Any thread may ask, at any time, and stops nobody: counts of heaps that run meanwhile are as of
/// about now, and blocks freed by others count until their heap collects them.
///
/// ```
/// use heapswitch::{Heap, LiveSites, SiteSampling};
///
/// let heap = Heap::builder().name("query").call_sites(SiteSampling::All).build()?;
/// let rows = heap.run(|| vec![1_u64; 1000])?;
/// let stacks = LiveSites::now().to_folded();
/// # if !heapswitch::sys::IS_PASS_THROUGH && heapswitch::is_installed() {
/// assert!(stacks.lines().any(|line| line.starts_with("query")));
/// # }
/// # drop(rows);
/// # Ok::<(), heapswitch::HeapError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LiveSites {
    contexts: Vec<ContextSites>,
}

impl LiveSites {
    /// As of now.
    pub fn now() -> Self {
        out_of_contexts(|| {
            let names: Vec<_> = accounts().map(|one| (one.id(), one.name())).collect();
            let name_of = |account| {
                let found = names.iter().find(|(id, _)| *id == account);
                found.map_or(ContextName::EMPTY, |&(_, name)| name)
            };
            let logs = site_logs().filter(|log| !log.is_ended() && log.context() != 0);
            let contexts = logs.map(|log| {
                let account = AccountId::from_number(log.context());
                ContextSites { account, name: name_of(account), sites: CallSites::of(&log) }
            });
            let mut contexts: Vec<_> = contexts.filter(|one| !one.sites.is_empty()).collect();
            contexts.sort_by_key(|one| core::cmp::Reverse(one.sites.bytes()));
            Self { contexts }
        })
    }

    /// The contexts that have recorded blocks, those with most bytes first.
    pub fn contexts(&self) -> &[ContextSites] {
        &self.contexts
    }

    /// The stacks in the form that flame graphs are made of: a line each, `context;outermost;...;
    /// innermost bytes`, without the standard library's functions and this one's. Contexts of one
    /// name are drawn together.
    pub fn to_folded(&self) -> String {
        out_of_contexts(|| {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = self.write_folded(&mut text);
            text
        })
    }

    /// As [`to_folded`](Self::to_folded), into what is given.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_folded(&self, out: &mut impl Write) -> fmt::Result {
        let mut symbols = Symbols::new();
        for context in &self.contexts {
            let name = context.name.as_str();
            let name = if name.is_empty() { "context" } else { name };
            for site in &context.sites {
                write_stack(out, &mut symbols, name, site)?;
            }
        }
        Ok(())
    }
}

impl CallSites {
    /// As [`LiveSites::to_folded`], of these places, under a name.
    pub fn to_folded(&self, name: &str) -> String {
        out_of_contexts(|| {
            let (mut text, mut symbols) = (String::new(), Symbols::new());
            for site in self {
                // Writing to a string does not fail.
                let _ = write_stack(&mut text, &mut symbols, name, site);
            }
            text
        })
    }
}

fn write_stack(
    out: &mut impl Write,
    symbols: &mut Symbols,
    name: &str,
    site: &CallSite,
) -> fmt::Result {
    write_part(out, name)?;
    let frames = out_of_contexts(|| told_frames(symbols.frames_of(site)));
    for frame in frames.iter().rev() {
        out.write_char(';')?;
        write_part(out, &frame.function)?;
    }
    writeln!(out, " {}", site.bytes)
}

/// A part of a folded stack: what separates them is replaced.
fn write_part(out: &mut impl Write, part: &str) -> fmt::Result {
    part.chars().try_for_each(|character| match character {
        ';' => out.write_char(','),
        control if control.is_control() => out.write_char(' '),
        other => out.write_char(other),
    })
}

/// Which functions a reader wants to see: from who asked an allocating library to the start of the
/// thread, without those libraries; all where there are no others.
fn told_frames(frames: Vec<Frame>) -> Vec<Frame> {
    let end = frames.iter().position(Frame::is_start_of_thread).unwrap_or(frames.len());
    let within = frames.iter().take(end);
    let told: Vec<Frame> = within.filter(|frame| !frame.is_of_library()).cloned().collect();
    if told.is_empty() { frames } else { told }
}

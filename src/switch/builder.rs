//! How a heap is made: strategy, source, name, limits, and what it stands below.

use core::ptr::NonNull;

use super::configuration::{installed, settle, source_for};
use super::handle::{Heap, HeapError};
use super::home;
use super::in_use::CurrentAllocatorInUse;
use super::state::state;
use crate::allocator::RegionSource;
use crate::heap::account::signal;
use crate::heap::kind::{ContextChoice, ContextChoiceWithSites};
use crate::heap::{
    Account, ContextName, HeapHeader, HeapKind, LifetimeHint, LimitPolicy, Limits, SiteSampling,
    SiteSettings, cell,
};
use crate::units::CHUNK_BYTES;

/// How a heap is made.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct HeapBuilder<'a> {
    hint: Option<LifetimeHint>,
    source: Option<&'static dyn RegionSource>,
    name: &'a str,
    limits: LimitChoices,
    below: Below<'a>,
    is_unbatched: bool,
    recorded: Option<Recorded>,
}

/// That call sites are recorded, and how such a heap is made: a pointer, so that a program which
/// records nothing has no code for it.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    sampling: SiteSampling,
    create: MakeRecorded,
}

type MakeRecorded = fn(
    SiteSettings<LifetimeHint>,
    &'static dyn RegionSource,
    Account,
) -> Option<NonNull<HeapHeader>>;

/// What was said about limits; the rest is inherited.
#[derive(Clone, Copy, Debug, Default)]
struct LimitChoices {
    soft_bytes: Option<usize>,
    hard_bytes: Option<usize>,
    policy: Option<LimitPolicy>,
}

/// Which account is above the heap's, and whether the heap ends with the one above.
#[derive(Clone, Copy, Debug, Default)]
enum Below<'a> {
    #[default]
    Process,
    Account(&'a Account),
    Heap(&'a Heap),
    Current,
}

impl<'a> HeapBuilder<'a> {
    /// How long what is allocated in it lives, which chooses the strategy. Without it the strategy
    /// that the program's allocator was declared with, or the one for short lives.
    pub fn hint(self, hint: LifetimeHint) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// Where its chunks come from: a source whose [granule](crate::MemorySource::granule) is 64
    /// KiB. Only sources inside the region can back a heap; the type system refuses any other:
    ///
    /// ```compile_fail,E0277
    /// use heapswitch::{Heap, MemoryMapSource};
    ///
    /// static SOURCE: MemoryMapSource = MemoryMapSource::new();
    /// let heap = Heap::builder().source(&SOURCE).build();
    /// ```
    ///
    /// The macro's keys `coroutine_source` and `thread_source` name one for all contexts, or for
    /// all threads' heaps:
    ///
    /// ```
    /// use heapswitch::{ArenaMemorySource, ArenaSettings, Heap, RegionMapSource};
    ///
    /// static CHUNKS: ArenaMemorySource<RegionMapSource> =
    ///     ArenaMemorySource::new(RegionMapSource::CONTEXTS, ArenaSettings::DEFAULT);
    ///
    /// heapswitch::global_thread_and_coroutine_switchable_allocator! {
    ///     coroutine_source = CHUNKS,
    ///     thread_source = arena(maximum_bytes = 4 GiB),
    /// }
    ///
    /// # fn main() -> Result<(), heapswitch::HeapError> {
    /// let heap = Heap::new()?;
    /// let text = heap.run(|| String::from("in a chunk of the arena"))?;
    /// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
    /// assert!(heap.contains(text.as_ptr()) && CHUNKS.held_bytes() > 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// ```compile_fail,E0277
    /// static MAPS: heapswitch::MemoryMapSource = heapswitch::MemoryMapSource::new();
    ///
    /// heapswitch::global_thread_and_coroutine_switchable_allocator! { thread_source = MAPS }
    /// # fn main() {}
    /// ```
    pub fn source(self, source: &'static dyn RegionSource) -> Self {
        // Without memory for the handlers, a child of a threaded process may find its lock held.
        let _ = source.protect_fork();
        Self { source: Some(source), ..self }
    }

    /// Its account's name, at most 39 bytes of it: for reports and errors.
    pub fn name(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    /// Its hard limit in bytes, rounded up to whole chunks of 64 KiB. Without one, that which the
    /// account above gives [each](Account::with_limit_each). It is bound by the limits above in any
    /// case.
    ///
    /// It counts what its own heap takes. A block that was made outside, a buffer of a connection
    /// say, is charged to whoever made it, or to the thread's heap, also for what it grows by in
    /// the context. And a limit ends nobody who comes to no safe point: a task that neither awaits,
    /// nor calls [`checkpoint`](crate::checkpoint), nor returns goes on taking memory, as stable
    /// Rust cannot end running code. [`LimitPolicy::Fail`] gives it null, the
    /// [process's limit](crate::set_process_limit) gives all of them null, and its account shows
    /// it.
    pub fn limit(self, bytes: usize) -> Self {
        Self { limits: LimitChoices { hard_bytes: Some(bytes), ..self.limits }, ..self }
    }

    /// Its soft limit in bytes: above it [reclaim callbacks](Account::on_pressure) are called.
    pub fn soft_limit(self, bytes: usize) -> Self {
        Self { limits: LimitChoices { soft_bytes: Some(bytes), ..self.limits }, ..self }
    }

    /// What happens above its hard limit.
    pub fn policy(self, policy: LimitPolicy) -> Self {
        Self { limits: LimitChoices { policy: Some(policy), ..self.limits }, ..self }
    }

    /// Records where blocks are asked for: [`EscapeReport::sites`], [`Heap::call_sites`] and
    /// [`LiveSites`] tell it. For finding out what outlives a context or fills it: each recorded
    /// block costs microseconds and needs some 4 KiB of stack, and no allocation takes a
    /// fast path. Every strategy can be had so, as a strategy of its own ([`WithSites`]): here that
    /// of the hint, without one the one for short lives. A whole program records by the macro's key
    /// `call_sites`.
    ///
    /// ```
    /// use heapswitch::{Heap, HeapSwitch, SiteSampling};
    ///
    /// #[global_allocator]
    /// static GLOBAL: HeapSwitch = HeapSwitch;
    ///
    /// fn remember(kept: &mut Vec<String>) {
    ///     kept.push("outlives its request".to_owned());
    /// }
    ///
    /// # fn main() -> Result<(), heapswitch::HeapError> {
    /// let heap = Heap::builder().call_sites(SiteSampling::All).build()?;
    /// let mut kept = Vec::with_capacity(1);
    /// heap.run(|| remember(&mut kept))?;
    /// let report = heap.close();
    /// // 24 B in 1 block, from 1 call site:
    /// //   24 B in 1 block: service::remember (src/main.rs:7)
    /// //       service::main (src/main.rs:13)
    /// println!("{}", report.sites);
    /// # if heapswitch::sys::IS_PASS_THROUGH {
    /// #     return Ok(());
    /// # }
    /// assert_eq!(report.sites.blocks(), 1);
    /// // With the feature `symbols`, and without it addresses that `addr2line` takes.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`EscapeReport::sites`]: crate::EscapeReport::sites
    /// [`LiveSites`]: crate::LiveSites
    /// [`WithSites`]: crate::strategy::sites::WithSites
    pub fn call_sites(self, sampling: SiteSampling) -> Self {
        let recorded = Recorded { sampling, create: ContextChoiceWithSites::create };
        Self { recorded: Some(recorded), ..self }
    }

    /// Has what other threads, and other contexts, free of its blocks handed over at once, each
    /// by an atomic operation of its own. Otherwise up to 32 blocks of at most 4 KiB wait in the
    /// thread that freed them until it takes a slow path, leaves a context, or calls
    /// [`flush_foreign_frees`](crate::flush_foreign_frees). Waiting takes four fifths of the time
    /// of handing over at once, but a heap with a tight [limit](Self::limit) may need those blocks
    /// now, and before [`discard_unchecked`](Heap::discard_unchecked) every other thread has to
    /// flush.
    ///
    /// ```
    /// use heapswitch::{Heap, HeapSwitch};
    ///
    /// #[global_allocator]
    /// static GLOBAL: HeapSwitch = HeapSwitch;
    ///
    /// # fn main() -> Result<(), heapswitch::HeapError> {
    /// let heap = Heap::builder().unbatched().build()?;
    /// let answer = heap.run(|| vec![42; 1000])?;
    /// drop(answer); // outside of it, and yet the heap has it back already
    /// heap.run(|| ())?;
    /// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
    /// assert_eq!(heap.memory_usage()?.allocated_bytes, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn unbatched(self) -> Self {
        Self { is_unbatched: true, ..self }
    }

    /// An account that its memory is charged to as well, and whose limits bind it.
    pub fn charged_to(self, account: &'a Account) -> Self {
        Self { below: Below::Account(account), ..self }
    }

    /// The heap that it is a child of: its memory is charged to the parent's account as well, and
    /// it is closed with the parent. Entering and leaving a child take read-modify-writes, some 4
    /// ns more than of another heap; one that is only to be counted is
    /// [charged](Self::charged_to) instead.
    pub fn parent(self, parent: &'a Heap) -> Self {
        Self { below: Below::Heap(parent), ..self }
    }

    /// As [`parent`](Self::parent), of whatever heap is current when it is made; without one, it
    /// stands alone.
    pub fn parent_current(self) -> Self {
        Self { below: Below::Current, ..self }
    }

    /// Its account, and whether it ends with what is above.
    fn account(&self) -> Option<(Account, bool)> {
        let name = ContextName::new(self.name);
        let (account, is_child) = match self.below {
            Below::Process => (Account::make(None, name), false),
            Below::Account(above) => (Account::make(Some(above), name), false),
            Below::Heap(parent) => (Account::make(Some(&parent.header().account), name), true),
            Below::Current => match state().contexts.top().heap {
                // SAFETY: heaps that the state names are run by this thread.
                Some(heap) => (Account::make(Some(&unsafe { heap.as_ref() }.account), name), true),
                None => (Account::make(None, name), false),
            },
        };
        let account = account?;
        let inherited = account.limits();
        account.set_limits(Limits {
            soft_bytes: self.limits.soft_bytes.or(inherited.soft_bytes),
            hard_bytes: self.limits.hard_bytes.or(inherited.hard_bytes),
            policy: self.limits.policy.unwrap_or(inherited.policy),
        });
        Some((account, is_child))
    }

    /// The source, that of contexts which this thread makes unless another was chosen.
    fn checked_source(&self) -> Result<&'static dyn RegionSource, HeapError> {
        match self.source {
            // Longer ranges would be wasted, or taken for one chunk; shorter ones never come.
            Some(source) if source.granule() != CHUNK_BYTES => Err(HeapError::Granule),
            Some(source) => Ok(source),
            None => {
                let home = home::of_thread(state());
                Ok(source_for(CurrentAllocatorInUse::CoroutineLocal, home))
            }
        }
    }

    fn finish(
        self,
        create: impl FnOnce(&'static dyn RegionSource, Account) -> Option<NonNull<HeapHeader>>,
    ) -> Result<Heap, HeapError> {
        settle();
        let source = self.checked_source()?;
        let (account, is_child) = self.account().ok_or(HeapError::NoMemory)?;
        let header = create(source, account.clone()).ok_or(HeapError::NoMemory)?;
        if is_child {
            // SAFETY: the heap is new.
            unsafe { cell::share(header) };
        }
        if self.is_unbatched {
            // SAFETY: the heap is new.
            unsafe { cell::unbatch(header) };
        }
        // SAFETY: the heap is new, and this is its only handle.
        let heap = unsafe {
            cell::publish(header);
            Heap::from_raw(header)
        };
        // Looked at in order with the closer's mark, once the tree names the heap: who ends the
        // parent finds the heap there, or it is seen here, and the heap is closed.
        if is_child && account.parent().is_some_and(|above| above.raise(0) & signal::CLOSE != 0) {
            return Err(HeapError::Closed);
        }
        Ok(heap)
    }

    /// Makes the heap.
    ///
    /// # Errors
    /// [`HeapError::NoMemory`]; [`HeapError::Granule`]; [`HeapError::Closed`] if the parent has
    /// ended, also if it runs still and closes when it is left.
    pub fn build(self) -> Result<Heap, HeapError> {
        if let Some(Recorded { sampling, create }) = self.recorded {
            let strategy = self.hint.unwrap_or(LifetimeHint::Short);
            let settings = SiteSettings { strategy, sampling };
            return self.finish(|source, account| create(settings, source, account));
        }
        self.finish(|source, account| match (self.hint, installed()) {
            (Some(hint), Some(installed)) => (installed.make_hinted_heap)(hint, source, account),
            (None, Some(installed)) => (installed.make_coroutine_heap)(source, account),
            (hint, None) => {
                ContextChoice::create(hint.unwrap_or(LifetimeHint::Short), source, account)
            }
        })
    }

    /// Makes a heap of a given kind. [`call_sites`](Self::call_sites) has no say here.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_kind<K: HeapKind>(self, settings: K::Settings) -> Result<Heap, HeapError> {
        self.finish(|source, account| K::create(settings, source, account))
    }
}

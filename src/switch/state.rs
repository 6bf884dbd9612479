//! What each thread keeps: which heap is current, its own heap, its token, its stack of contexts.
//!
//! It lies in the thread's static TLS block under a symbol of its own, read by two instructions.
//! The standard `thread_local!` would do in an executable, but calls `__tls_get_addr` in a shared
//! library (measured 2.3 times slower), and lets the compiler keep the address across a stack
//! switch, after which a coroutine may run on another thread. The symbol carries the crate's
//! version, so that two versions in one program keep two states.

use core::cell::Cell;
use core::ptr::NonNull;

use super::life::Suspended;
use super::safe_point::Due;
use super::stack::ContextStack;
use crate::heap::batch::Batches;
use crate::heap::{HeapHeader, Inline};
use crate::numa::Node;
use crate::sync::Token;

/// How far the thread's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing is set up.
    Fresh = 0,
    /// Setting up or tearing down: whatever is allocated meanwhile comes from the global allocator.
    Busy = 1,
    /// Set up.
    Running = 2,
    /// Torn down: allocations go to the global allocator, frees are foreign and unbatched.
    Ended = 3,
}

/// A thread's state. All zero bytes are a valid value: a thread that never allocated.
///
/// # Invariants
/// - The top of `contexts` says what is current.
/// - `inline` is the heap in use, the thread's own or a context's, if it has a fast path; no
///   thread's own heap has bump's. It may be none in any case: the slow path decides then.
/// - `own_slab` is the thread's own heap if it has the slab's fast path.
/// - All of these are run by this thread.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ThreadState {
    /// Where allocations are served from inline.
    pub inline: Cell<Inline>,
    /// Where frees go inline.
    pub own_slab: Cell<Option<NonNull<HeapHeader>>>,
    /// How far the thread's life has come.
    pub phase: Cell<Phase>,
    /// Whether the thread was last seen away from its home.
    pub is_away: Cell<bool>,
    /// The NUMA node that its memory is on, where there are several.
    pub home: Cell<Option<Node>>,
    /// The thread's own heap, from its first allocation from there.
    pub thread_heap: Cell<Option<NonNull<HeapHeader>>>,
    /// The thread's token; none before it is set up.
    pub token: Cell<Token>,
    /// The contexts that were entered.
    pub contexts: ContextStack,
    /// Blocks of others' heaps that this thread freed.
    pub batches: Batches,
    /// What the thread has, while it forks.
    pub suspended: Suspended,
    /// What is to be done at the next safe point.
    pub due: Due,
    /// Which lane the thread has in stores and pools; 0 before it first uses one.
    pub lane: Cell<u32>,
    /// Whether the lane is this thread's alone, to be given back when it ends.
    pub is_lane_own: Cell<bool>,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(heapswitch_pass_through)))]
mod storage {
    use super::{HeapHeader, ThreadState};

    macro_rules! symbol {
        () => {
            concat!(
                "__heapswitch_state_",
                env!("CARGO_PKG_VERSION_MAJOR"),
                "_",
                env!("CARGO_PKG_VERSION_MINOR"),
                "_",
                env!("CARGO_PKG_VERSION_PATCH")
            )
        };
    }

    core::arch::global_asm!(
        concat!(".pushsection .tbss.", symbol!(), ",\"awT\",@nobits"),
        ".balign 64",
        concat!(".globl ", symbol!()),
        concat!(".hidden ", symbol!()),
        concat!(".type ", symbol!(), ",@object"),
        concat!(".size ", symbol!(), ",{bytes}"),
        concat!(symbol!(), ":"),
        ".skip {bytes}",
        ".popsection",
        bytes = const size_of::<ThreadState>(),
    );

    /// This thread's state. Not to be kept across anything that may switch stacks: a call to user
    /// code.
    #[inline(always)] // measured: two instructions; a call would double the fast path
    pub fn state<'a>() -> &'a ThreadState {
        let address: *const ThreadState;
        // SAFETY: reads the thread pointer and the symbol's offset from it. Not `pure`: after a
        // stack switch the same code may run on another thread. The linker makes the offset a
        // constant in executables.
        unsafe {
            core::arch::asm!(
                "mov {address}, qword ptr fs:[0]",
                concat!("add {address}, qword ptr [rip + ", symbol!(), "@GOTTPOFF]"),
                address = out(reg) address,
                options(nostack, readonly)
            );
            // The static TLS block lives as long as the thread, and zero bytes are a valid state.
            &*address
        }
    }

    /// The pointer that lies so many bytes behind the start of this thread's state: as if
    /// [`state`] were asked, but by one load less for what waits for it.
    ///
    /// # Safety
    /// There is a pointer.
    #[inline(always)] // measured: as `state`
    pub(super) unsafe fn pointer_at<const OFFSET: usize>() -> *mut HeapHeader {
        let pointer;
        // SAFETY: as in `state`, and the caller's contract.
        unsafe {
            core::arch::asm!(
                concat!("mov {pointer}, qword ptr [rip + ", symbol!(), "@GOTTPOFF]"),
                "mov {pointer}, qword ptr fs:[{pointer} + {offset}]",
                pointer = out(reg) pointer,
                offset = const OFFSET,
                options(nostack, readonly, preserves_flags)
            );
        }
        pointer
    }
}

#[cfg(all(target_arch = "aarch64", target_os = "linux", not(heapswitch_pass_through)))]
mod storage {
    //! For aarch64. Run under emulation only (`tests/aarch64/run`), never on such a machine: its
    //! weak memory order was not seen, and nothing was measured.
    use super::ThreadState;

    macro_rules! symbol {
        () => {
            concat!(
                "__heapswitch_state_",
                env!("CARGO_PKG_VERSION_MAJOR"),
                "_",
                env!("CARGO_PKG_VERSION_MINOR"),
                "_",
                env!("CARGO_PKG_VERSION_PATCH")
            )
        };
    }

    core::arch::global_asm!(
        concat!(".pushsection .tbss.", symbol!(), ",\"awT\",@nobits"),
        ".balign 64",
        concat!(".globl ", symbol!()),
        concat!(".hidden ", symbol!()),
        concat!(symbol!(), ":"),
        ".skip {bytes}",
        ".popsection",
        bytes = const size_of::<ThreadState>(),
    );

    /// This thread's state. Not to be kept across anything that may switch stacks: a call to user
    /// code.
    #[inline(always)] // as on x86-64; not measured here
    pub fn state<'a>() -> &'a ThreadState {
        let address: *const ThreadState;
        // SAFETY: reads the thread pointer and the symbol's offset from it; see x86-64.
        unsafe {
            core::arch::asm!(
                concat!("adrp {offset}, :gottprel:", symbol!()),
                concat!("ldr {offset}, [{offset}, :gottprel_lo12:", symbol!(), "]"),
                "mrs {address}, tpidr_el0",
                "add {address}, {address}, {offset}",
                offset = out(reg) _,
                address = out(reg) address,
                options(nostack, readonly)
            );
            &*address
        }
    }
}

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(heapswitch_pass_through)
)))]
mod storage {
    use super::ThreadState;

    /// This thread's state. Not to be kept across anything that may switch stacks: a call to user
    /// code.
    pub fn state<'a>() -> &'a ThreadState {
        std::thread_local! {
            static STATE: core::mem::ManuallyDrop<ThreadState> = const {
                core::mem::ManuallyDrop::new(ThreadState::new())
            };
        }
        STATE.with(|state| {
            // SAFETY: a thread-local without a destructor lives as long as its thread.
            unsafe { &*core::ptr::from_ref::<ThreadState>(state) }
        })
    }
}

pub use storage::state;

/// As [`ThreadState::inline`] of this thread's state.
#[inline]
pub fn inline() -> Inline {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(heapswitch_pass_through)))]
    // SAFETY: it is a pointer in a cell.
    return unsafe {
        Inline::of_word(storage::pointer_at::<{ core::mem::offset_of!(ThreadState, inline) }>())
    };
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(heapswitch_pass_through))))]
    state().inline.get()
}

/// As [`ThreadState::own_slab`] of this thread's state.
#[inline]
pub fn own_slab() -> Option<NonNull<HeapHeader>> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(heapswitch_pass_through)))]
    // SAFETY: it is a pointer in a cell, or null.
    return NonNull::new(unsafe {
        storage::pointer_at::<{ core::mem::offset_of!(ThreadState, own_slab) }>()
    });
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(heapswitch_pass_through))))]
    state().own_slab.get()
}

impl ThreadState {
    /// The state of a thread that never allocated; the same as all zero bytes.
    pub const fn new() -> Self {
        Self {
            inline: Cell::new(Inline::NONE),
            own_slab: Cell::new(None),
            phase: Cell::new(Phase::Fresh),
            is_away: Cell::new(false),
            home: Cell::new(None),
            thread_heap: Cell::new(None),
            token: Cell::new(Token::NOBODY),
            contexts: ContextStack::new(),
            batches: Batches::new(),
            suspended: Suspended::new(),
            due: Due::new(),
            lane: Cell::new(0),
            is_lane_own: Cell::new(false),
        }
    }
}

impl Default for ThreadState {
    fn default() -> Self {
        Self::new()
    }
}

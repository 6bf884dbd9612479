//! A heap compiled for its strategy: its header, the strategy and the table of its operations.
//!
//! | file | what it does |
//! |---|---|
//! | `runs` | takes runs of chunks and gives them back; makes extents of them; the spares |
//! | `blocks` | allocates, frees and resizes |
//! | `collect` | frees what others freed, or what waits in quarantine |
//! | `idle` | keeps or gives back what holds no block |
//! | `guard` | lets others than the runner at what a strategy has behind its front |
//! | `tidy` | puts a heap in order whose runner sleeps |
//! | `close` | closes; what outlives the heap |
//! | `inspect` | counts and verifies |
//!
//! The operations are functions of the header and not methods: the table that the header holds is
//! of one type for all strategies, and a heap that closes frees its own cell, which no `&self`
//! could outlive.

mod blocks;
mod close;
mod collect;
mod guard;
mod idle;
mod inspect;
mod runs;
mod tidy;

use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize};

use crossbeam_utils::CachePadded;

pub(super) use self::close::drop_remaining;
pub use self::close::free_orphan;
pub(super) use self::guard::Guard;
pub(super) use self::idle::retire_emptied;
pub use self::inspect::{count_behind_front, residence};
pub(super) use self::tidy::{Tidying, tidy};
use super::account::{AccountHandle, Refusal};
use super::call_sites::CallSites;
use super::callbacks::Callbacks;
use super::header::{FastPath, HeapHeader, Inline, Operations, attention};
use crate::allocator::RegionSource;
use crate::region::Metadata;
use crate::region::label::StrategyNumber;
use crate::strategy::Strategy;
use crate::strategy::slab::{self, Back, Front, Slab};
use crate::sync::{ForeignStack, Runner};
use crate::sys::lock::RawLock;
use crate::units::{CHUNK_BYTES, PAGE_BYTES};

/// The largest request in bytes that a strategy serves inside a heap; larger ones take a run of
/// chunks.
pub const MAX_STRATEGY_BYTES: usize = CHUNK_BYTES / 2;

/// The largest alignment that a strategy serves inside a heap.
pub const MAX_STRATEGY_ALIGN: usize = PAGE_BYTES;

/// `ChunkEntry::tag` of a run that a strategy cuts up.
const EXTENT: u8 = 1;
/// `ChunkEntry::tag` of a run that is one block.
const DIRECT: u8 = 2;
/// `ChunkEntry::tag` of a run of one chunk that waits to be either; `live` links to the next.
const SPARE: u8 = 3;

/// Whether a layout is served by a run of its own.
#[inline]
pub const fn is_direct(layout: Layout) -> bool {
    layout.size() > MAX_STRATEGY_BYTES || layout.align() > MAX_STRATEGY_ALIGN
}

/// Whether a heap of strategy `S` serves a layout by a run of its own.
#[inline]
const fn is_direct_in<S: Strategy>(layout: Layout) -> bool {
    S::HAS_NO_EXTENTS || is_direct(layout)
}

/// What was still allocated when a heap was closed. All of it stays valid until it is freed.
///
/// ```
/// use heapswitch::{Heap, HeapSwitch};
///
/// #[global_allocator]
/// static GLOBAL: HeapSwitch = HeapSwitch;
///
/// # fn main() -> Result<(), heapswitch::HeapError> {
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let heap = Heap::new()?;
/// let kept = heap.run(|| Box::new([7_u64; 4]))?;
/// let report = heap.close();
/// assert_eq!((report.blocks, report.bytes), (1, 32));
/// assert!(report.to_string().starts_with("escaped blocks: 1, of 32 bytes, which keep "));
/// assert_eq!(kept[0], 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EscapeReport {
    /// Blocks that were still allocated.
    pub blocks: usize,
    /// Bytes of those blocks, as long as they were returned, with every strategy: exactly the sum
    /// of their lengths. What was asked for is at most that, and no strategy keeps it. A length is
    /// the size rounded up to 8 bytes in a bump heap, to 16 in a free list, to 32 in trees and
    /// stripes (there to 512 above 4 KiB), to whole blocks in a bit set, to a size class in a slab,
    /// to a power of two among buddies; above 32 KiB, and in a memory map always, to whole chunks.
    /// Lengths by themselves, each with where it was asked for, are known only where that is
    /// recorded: [`sites`](Self::sites).
    pub bytes: usize,
    /// Bytes in the chunks that those blocks keep: what stays charged to the account.
    pub kept_bytes: usize,
    /// Bytes that went back to the source.
    pub returned_bytes: usize,
    /// Heaps below it that were closed with it.
    pub closed_children: usize,
    /// Heaps below it that run, and close when they are left.
    pub deferred_children: usize,
    /// Callbacks that panicked. The others were called all the same.
    pub panicked_callbacks: usize,
    /// Where the blocks that are still allocated were asked for, if the heap was made to record
    /// that; otherwise none. Of the heap itself, not of those below it: what outlives them,
    /// [`on_escape`](crate::on_escape) is told.
    pub sites: CallSites,
}

impl fmt::Display for EscapeReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, bytes, kept_bytes, returned_bytes, .. } = self;
        match blocks {
            0 => formatter.write_str("nothing escaped")?,
            _ => write!(
                formatter,
                "escaped blocks: {blocks}, of {bytes} bytes, which keep {kept_bytes} bytes"
            )?,
        }
        write!(formatter, "; {returned_bytes} bytes went back")?;
        let (closed, deferred) = (self.closed_children, self.deferred_children);
        if closed + deferred != 0 {
            write!(formatter, "; of the heaps below, {closed} were closed and {deferred} run")?;
        }
        Ok(())
    }
}

/// Header and strategy.
#[repr(C)]
pub struct HeapCell<S: Strategy> {
    header: HeapHeader,
    strategy: UnsafeCell<S>,
    settings: S::Settings,
}

type Header = NonNull<HeapHeader>;

/// The operations of heaps of one strategy.
struct OperationsOf<S>(core::marker::PhantomData<S>);

impl<S: Strategy + 'static> OperationsOf<S> {
    const TABLE: Operations = Operations {
        name: S::NAME,
        cell_bytes: size_of::<HeapCell<S>>(),
        allocate: guard::allocate::<S>,
        free: guard::free::<S>,
        resize: blocks::resize::<S>,
        block_length: blocks::block_length::<S>,
        collect: guard::collect::<S>,
        release_unused: guard::release_unused::<S>,
        reset: idle::reset::<S>,
        forget_blocks: idle::forget_blocks::<S>,
        close: close::close::<S>,
        usage: guard::usage::<S>,
        verify: guard::verify::<S>,
        sites: inspect::sites::<S>,
        recreate: recreate::<S>,
    };
}

/// What heaps of a strategy can do.
pub fn operations<S: Strategy + 'static>() -> &'static Operations {
    &OperationsOf::<S>::TABLE
}

/// Makes a heap. `None` where there is no memory for its header.
pub fn create<S: Strategy + 'static>(
    settings: S::Settings,
    fast_path: FastPath,
    source: &'static dyn RegionSource,
    account: AccountHandle,
) -> Option<Header> {
    create_with::<S>(settings, fast_path, source, account)
}

/// A heap as this one was when it was new, in its place in the account.
///
/// # Safety
/// The heap is valid and of strategy `S`.
unsafe fn recreate<S: Strategy + 'static>(header: Header) -> Option<Header> {
    // SAFETY: the caller's contract; none of these change.
    let (this, settings) =
        unsafe { (header_of(header), header.cast::<HeapCell<S>>().as_ref().settings) };
    let header = create_with::<S>(settings, this.fast_path, this.source, this.account.clone())?;
    if this.is_shared() {
        // SAFETY: the heap is new and nobody else's.
        unsafe { share(header) };
    }
    if this.is_unbatched {
        // SAFETY: as above.
        unsafe { unbatch(header) };
    }
    // SAFETY: the heap is new.
    unsafe { publish(header) };
    Some(header)
}

/// Has the account name its heap, to be counted by anyone, and closed with its parent.
///
/// # Safety
/// The heap is not closed.
pub unsafe fn publish(header: Header) {
    // SAFETY: the caller's contract.
    let this = unsafe { header.as_ref() };
    this.account.set_heap(header, this.is_shared());
}

/// Makes a heap end with its parent.
///
/// # Safety
/// The heap is new, and the caller's alone.
pub unsafe fn share(header: Header) {
    // SAFETY: the caller's contract.
    let this = unsafe { &mut *header.as_ptr() };
    this.runner = Runner::new_shared();
    this.attend(attention::SHARED);
}

/// Has each foreign free of a heap's blocks handed over at once.
///
/// # Safety
/// The heap is new, and the caller's alone.
pub unsafe fn unbatch(header: Header) {
    // SAFETY: the caller's contract.
    unsafe { &mut *header.as_ptr() }.is_unbatched = true;
}

fn create_with<S: Strategy + 'static>(
    settings: S::Settings,
    fast_path: FastPath,
    source: &'static dyn RegionSource,
    account: AccountHandle,
) -> Option<Header> {
    // All that is read is written below; a slab's magazines are written as they are filled.
    let memory = Metadata::take_unwritten(size_of::<HeapCell<S>>())?;
    account.belongs_to_heap();
    let cell = memory.cast::<HeapCell<S>>();
    let inline = Inline::of(cell.cast(), fast_path);
    let header = HeapHeader {
        runner: Runner::new(),
        fast_path,
        is_unbatched: false,
        attention: AtomicU32::new(0),
        inline,
        operations: &OperationsOf::<S>::TABLE,
        source,
        first_run: Cell::new(0),
        first_spare: Cell::new(0),
        spares: Cell::new(0),
        held_bytes: Cell::new(0),
        peak_bytes: Cell::new(0),
        allocated_bytes: Cell::new(0),
        direct_blocks: Cell::new(0),
        guard: RawLock::new(),
        guarded_steps: Cell::new(0),
        seen_steps: Cell::new(0),
        is_tidy: Cell::new(false),
        slow_steps: Cell::new(0),
        foreign: CachePadded::new(ForeignStack::new()),
        remaining: AtomicUsize::new(0),
        account,
        home: Cell::new(None),
        refusal: Cell::new(Refusal::None),
        may_overdraw: Cell::new(false),
        uncounted_steps: Cell::new(0),
        strategy_number: StrategyNumber::of(&OperationsOf::<S>::TABLE.name),
        callbacks: Callbacks::new(),
        next_in_list: Cell::new(None),
        next_due: Cell::new(None),
        census: super::census::Entry::new(),
        #[cfg(heapswitch_check)]
        unverified_steps: Cell::new(0),
        #[cfg(heapswitch_asan)]
        quarantine: super::quarantine::Quarantine::default(),
    };
    // SAFETY: metadata blocks are powers of two, aligned to their size up to a page: the cell,
    // aligned to 128 at most, fits, and is the caller's alone.
    unsafe {
        let place = cell.as_ptr();
        (&raw mut (*place).header).write(header);
        S::write_new(UnsafeCell::raw_get(&raw const (*place).strategy), settings);
        (&raw mut (*place).settings).write(settings);
    }
    Some(cell.cast())
}

/// The strategy of a heap.
///
/// # Safety
/// The header is the start of a `HeapCell<S>`; the caller runs the heap, holds its lock if the
/// strategy has a front ([`Guard`]), and holds no other reference to the strategy. Or `S` is the
/// back of the heap's strategy, and the caller holds the lock.
#[inline]
pub unsafe fn strategy_of<'a, S: Strategy>(header: Header) -> &'a mut S {
    // SAFETY: by the contract the cell is of that type and the reference the only one.
    unsafe { &mut *strategy_pointer(header) }
}

/// A pointer to the strategy of a heap, of which the caller may use less than the whole.
///
/// # Safety
/// The header is the start of a `HeapCell<S>`.
#[inline]
unsafe fn strategy_pointer<S: Strategy>(header: Header) -> *mut S {
    let cell = header.cast::<HeapCell<S>>().as_ptr();
    // SAFETY: by the contract the cell is of that type. No reference to the whole is made: others
    // may be using the rest of it.
    unsafe { UnsafeCell::raw_get(&raw const (*cell).strategy) }
}

/// The magazines of a slab heap.
///
/// # Safety
/// The caller runs the heap, which is of the slab strategy, and holds no other reference to them.
#[inline]
pub unsafe fn front_of<'a>(header: Header) -> &'a mut Front {
    // SAFETY: the caller's contract.
    unsafe { slab::front_of(strategy_pointer::<Slab>(header)) }
}

// Whoever uses the back of a slab heap takes its cell for one of the back alone.
const _: () = assert!(offset_of!(HeapCell<Slab>, strategy) == offset_of!(HeapCell<Back>, strategy));

// Metadata blocks are powers of two: a slab heap's should be no larger than this one.
const _: () = assert!(size_of::<HeapCell<Slab>>() <= 128 << 10);

/// # Safety
/// The heap is valid as long as the reference is used.
#[inline]
unsafe fn header_of<'a>(header: Header) -> &'a HeapHeader {
    // SAFETY: the caller's contract.
    unsafe { header.as_ref() }
}

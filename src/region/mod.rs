//! The region: one range of addresses, reserved once, that every chunk comes from; and the tables
//! beside it, which name an address's owner in O(1).
//!
//! ```text
//!      table, grows down    base                               base + bytes    classes, owners
//!   ┌─────────┬───┬───┬───┐ ┌───┬───┬───┬───┬──────────────┬───────────┐ ┌─────────┬───┬───┬───┐
//!   │ not yet │ 2 │ 1 │ 0 │ │ 0 │ 1 │ 2 │...│ next segment │ no access │ │ not yet │ 2 │ 1 │ 0 │
//!   └─────────┴───┴───┴───┘ └───┴───┴───┴───┴──────────────┴───────────┘ └─────────┴───┴───┴───┘
//!     128 B an entry         64 KiB a chunk, 512 chunks a segment          9 B a chunk
//! ```
//!
//! `pointer - base < bytes` says whether an address is ours; the entry of chunk `i` lies `i + 1`
//! entries below `base`. A free measures from the last byte instead, and reads the chunk's
//! [owner](owners) alone, or its class too. Either reads words of one cache line, and then the
//! table. Metadata stays out of line: huge pages stay whole, and an overflow in user memory cannot
//! reach it, for a guard comes first.
//!
//! Segments are committed in order of address, each for one [`SegmentKind`], and never change their
//! kind. **No page of the region is ever unmapped**: a hole could be filled by a foreign mapping,
//! whose addresses would then be taken for ours. Where the kernel charges what is committed
//! (overcommit 2), whole free segments become a reservation again, which is mapped over them.
//!
//! Chunk 0 is never handed out, so offset 0 can mean "none" in compressed links.

mod bins;
#[cfg(heapswitch_check)]
mod block_bits;
pub mod census;
pub mod class;
mod entry;
mod growth;
mod kinds;
pub mod label;
pub(crate) mod links;
pub mod map;
mod metadata;
pub mod owners;
mod recent;
mod run;
mod runs;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

#[cfg(heapswitch_check)]
pub use block_bits::BlockBits;
pub use entry::{ChunkEntry, ENTRY_BYTES, RecordSpace};
pub use kinds::{
    HugePages, KindSettings, MAX_KINDS, SegmentKind, refused_advice, refused_placements,
    register_kind, register_kind_apart, settings_of,
};
use kinds::{add_figures, kind_locks, lock_of, note_taker};
pub use metadata::{Metadata, metadata_bytes_held};
use recent::Processor;
pub use run::Run;
use runs::Purged;

use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::{self, lock::Lock, memory};
use crate::units::{ADDRESS_END, CHUNK_SHIFT, SEGMENT_BYTES, SEGMENT_CHUNKS};

/// The largest region, in bytes: 1 TiB, a 128th of what x86-64 gives a process.
pub const MAX_REGION_BYTES: usize = 1 << 40;

/// The smallest region that is worth having, in bytes: two segments. Under a limit of 1 GiB of
/// address space a quarter of what is left is still above this. Without any region each thread
/// would make the C library reserve an arena of 64 MiB, and soon no stack could be mapped.
pub const MIN_REGION_BYTES: usize = 64 << 20;

const MAX_SEGMENTS: usize = MAX_REGION_BYTES / SEGMENT_BYTES;

/// Of a segment that was not yet committed.
const UNCOMMITTED: u8 = 0;

/// What every free reads, alone in its cache line.
#[repr(align(64))]
struct Bounds {
    /// The region's last byte, behind which the [owners] lie.
    last: AtomicPtr<u8>,
    bytes: AtomicUsize,
    /// The entry of the last chunk, which lies first.
    table: AtomicPtr<ChunkEntry>,
    base: AtomicPtr<u8>,
    /// Up to where segments are committed, from the base.
    committed: AtomicUsize,
}

/// The base before there is a region: so high that no address lies above it by less than a region's
/// length, nor below it. So a thread that reads this base, or last byte, and already the new length
/// takes nothing for ours.
const NO_BASE: *mut u8 = core::ptr::without_provenance_mut(1 << 63);

static BOUNDS: Bounds = Bounds {
    last: AtomicPtr::new(NO_BASE),
    bytes: AtomicUsize::new(0),
    table: AtomicPtr::new(NO_BASE.cast()),
    base: AtomicPtr::new(NO_BASE),
    committed: AtomicUsize::new(0),
};

/// The kind of each segment plus one, or `UNCOMMITTED`.
static SEGMENTS: [AtomicU8; MAX_SEGMENTS] = [const { AtomicU8::new(UNCOMMITTED) }; MAX_SEGMENTS];

/// Where the next segment is committed.
struct Frontier {
    next_segment: usize,
}

static FRONTIER: Lock<Frontier> = Lock::new(Frontier { next_segment: 0 });

/// Whether reserving was tried; changed under the frontier's lock.
static WAS_TRIED: AtomicBool = AtomicBool::new(false);

/// Whether the kernel charges commitments in the region against a limit. That is settled when the
/// region is reserved: what the kernel left out then it never charges.
static IS_COMMIT_CHARGED: AtomicBool = AtomicBool::new(false);

fn is_commit_charged() -> bool {
    IS_COMMIT_CHARGED.load(Ordering::Relaxed)
}

/// The most that may be reserved, in bytes; lowered by settings before the first use.
static WANTED_BYTES: AtomicUsize = AtomicUsize::new(MAX_REGION_BYTES);

/// Takes every lock of the region around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), sys::SystemError> {
    static ENTRIES: [ForkEntry; kinds::MAX_KINDS + 3] =
        [const { ForkEntry::new() }; kinds::MAX_KINDS + 3];
    // A lock that is taken while another is held comes after that one.
    let inner = [FRONTIER.raw(), kinds::registry_lock(), metadata::metadata_lock()];
    let mut locks = kind_locks().map(Lock::raw).chain(inner);
    ENTRIES.iter().zip(&mut locks).try_for_each(|(entry, lock)| entry.register(lock, Rank::Region))
}

/// Asks for a region of at most `bytes` (rounded down to a power of two, from 64 MiB to 1 TiB).
/// Without effect once the region is reserved.
pub fn limit_bytes(bytes: usize) {
    let bytes = bytes.clamp(MIN_REGION_BYTES, MAX_REGION_BYTES);
    WANTED_BYTES.store(1 << bytes.ilog2(), Ordering::Relaxed);
}

/// Reserves the region unless that was tried before. Whether there is one.
pub fn ensure_reserved() -> bool {
    if BOUNDS.bytes.load(Ordering::Relaxed) != 0 {
        return true;
    }
    // Acquire pairs with the Release below: where nothing could be reserved, every request comes
    // here, and none may wait for another.
    if WAS_TRIED.load(Ordering::Acquire) {
        return BOUNDS.bytes.load(Ordering::Relaxed) != 0;
    }
    let _frontier = FRONTIER.lock();
    let is_reserved = WAS_TRIED.load(Ordering::Relaxed) || reserve();
    WAS_TRIED.store(true, Ordering::Release);
    is_reserved && BOUNDS.bytes.load(Ordering::Relaxed) != 0
}

/// Reserves the region, as large as can be had. Under the frontier's lock.
fn reserve() -> bool {
    let left = sys::address_space_limit().saturating_sub(sys::address_space_used());
    let mut bytes = WANTED_BYTES.load(Ordering::Relaxed);
    IS_COMMIT_CHARGED.store(sys::is_commit_charged(), Ordering::Relaxed);
    while bytes >= MIN_REGION_BYTES {
        // Where the address space is limited, what others map must still fit: threads' stacks above
        // all, 8 MiB and a guard each.
        let is_affordable = left == usize::MAX || bytes <= left / 4;
        if is_affordable && let Some(base) = reserve_at_boundary(bytes) {
            // SAFETY: the reservation goes on behind the region, and has the table before it.
            let (last, table) = unsafe {
                let table = crate::pointers::backward(base, table_bytes(bytes));
                (crate::pointers::forward(base, bytes - 1), table)
            };
            BOUNDS.last.store(last.as_ptr(), Ordering::Relaxed);
            BOUNDS.table.store(table.as_ptr().cast(), Ordering::Relaxed);
            BOUNDS.base.store(base.as_ptr(), Ordering::Relaxed);
            // Link-time optimisation would make a variable of each word of what nobody has the
            // address of, each in a line that it shares with others.
            core::hint::black_box(&BOUNDS);
            // Release: who reads the size sees the base. Readers pair by address dependence only
            // where they were handed a pointer into the region, which orders them by itself.
            BOUNDS.bytes.store(bytes, Ordering::Release);
            return true;
        }
        bytes /= 2;
    }
    false
}

/// Reserves table, region and owners so that the region starts at a segment's boundary.
fn reserve_at_boundary(bytes: usize) -> Option<NonNull<u8>> {
    let table_bytes = table_bytes(bytes);
    let total = table_bytes + bytes + owners::reserved_bytes(bytes) + SEGMENT_BYTES;
    let start = memory::reserve(total).ok()?;
    // Strategies keep addresses in as many bits. Linux gives no others to who does not ask.
    if start.addr().get() >= ADDRESS_END - total {
        return None;
    }
    // SAFETY: the reservation is `total` bytes long, at least the table's.
    let after_table = unsafe { crate::pointers::forward(start, table_bytes) };
    let padding = crate::pointers::padding(after_table, SEGMENT_BYTES);
    // SAFETY: the padding is below SEGMENT_BYTES, which the total includes.
    Some(unsafe { crate::pointers::forward(after_table, padding) })
}

const fn table_bytes(region_bytes: usize) -> usize {
    (region_bytes >> CHUNK_SHIFT) * ENTRY_BYTES
}

/// The region's length in bytes; 0 before it is reserved, or where it cannot be.
#[inline]
pub fn bytes() -> usize {
    BOUNDS.bytes.load(Ordering::Relaxed)
}

/// Where the region is and how far its chunks have entries, read once for many look-ups.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    base: NonNull<u8>,
    bytes: usize,
}

/// What is committed now.
#[inline]
pub fn committed() -> Committed {
    // Acquire pairs with the Release in `commit_segments`: the table is then accessible.
    Committed { bytes: BOUNDS.committed.load(Ordering::Acquire), base: base() }
}

impl Committed {
    /// The address at an offset of the region, in bytes, and the entry of its chunk; for any
    /// number at all.
    #[inline]
    pub fn find(self, offset: usize) -> Option<(NonNull<u8>, &'static ChunkEntry)> {
        if offset >= self.bytes {
            return None;
        }
        let distance = ((offset >> CHUNK_SHIFT) + 1) * ENTRY_BYTES;
        // SAFETY: the offset lies in a committed segment, and so does its entry in the table.
        Some(unsafe {
            let entry = crate::pointers::backward(self.base, distance).cast::<ChunkEntry>();
            (crate::pointers::forward(self.base, offset), entry.as_ref())
        })
    }

    /// Has the processor fetch what lies at an offset, in bytes; for any number at all.
    #[inline]
    pub fn prefetch(self, offset: usize) {
        crate::pointers::prefetch(self.base, offset);
    }
}

/// The region's first byte; not to be used before it is reserved.
#[inline]
pub fn base() -> NonNull<u8> {
    let base = BOUNDS.base.load(Ordering::Relaxed);
    // SAFETY: neither `NO_BASE` nor a mapping's start is null.
    unsafe { NonNull::new_unchecked(base) }
}

/// Whether an address lies in the region.
#[inline]
pub fn contains(address: *const u8) -> bool {
    offset_of(address).is_some()
}

/// The distance of an address from the region's base in bytes, if it lies in the region.
#[inline]
pub fn offset_of(address: *const u8) -> Option<usize> {
    // Relaxed: whoever holds a pointer into the region got it after the region was made. Any other
    // address is above both bases by more than any length.
    let base = BOUNDS.base.load(Ordering::Relaxed).addr();
    let offset = address.addr().wrapping_sub(base);
    (offset < BOUNDS.bytes.load(Ordering::Relaxed)).then_some(offset)
}

/// The address at `offset` of the region.
///
/// # Safety
/// The region is reserved and `offset` is below its length.
#[inline]
pub unsafe fn at(offset: usize) -> NonNull<u8> {
    // SAFETY: the base is set and the offset inside the reservation.
    unsafe { crate::pointers::forward(base(), offset) }
}

/// The entry of the chunk at `offset` of the region.
///
/// # Safety
/// The region is reserved, `offset` is below its length and lies in a committed segment.
#[inline]
pub unsafe fn entry_at(offset: usize) -> &'static ChunkEntry {
    let distance = ((offset >> CHUNK_SHIFT) + 1) * ENTRY_BYTES;
    // SAFETY: the table of a committed segment is committed; entries are valid when zeroed, live
    // for ever, and all their fields are atomics or cells.
    unsafe {
        let base = NonNull::new_unchecked(BOUNDS.base.load(Ordering::Relaxed));
        crate::pointers::backward(base, distance).cast::<ChunkEntry>().as_ref()
    }
}

/// The entry of the chunk that a block lies in. As [`offset_of`] and [`entry_at`], with one load of
/// the base.
///
/// # Safety
/// The block lies in a committed segment of the region.
#[inline]
pub unsafe fn entry_of_block(block: NonNull<u8>) -> &'static ChunkEntry {
    // Relaxed: as in `offset_of`.
    let base = BOUNDS.base.load(Ordering::Relaxed);
    let offset = block.addr().get().wrapping_sub(base.addr());
    let distance = ((offset >> CHUNK_SHIFT) + 1) * ENTRY_BYTES;
    // SAFETY: as in `entry_at`, for there is a block in the region.
    unsafe { crate::pointers::backward(NonNull::new_unchecked(base), distance).cast().as_ref() }
}

/// The entry of the chunk that `address` lies in, for any address at all.
pub fn entry_of(address: *const u8) -> Option<&'static ChunkEntry> {
    let offset = offset_of(address)?;
    let segment = SEGMENTS.get(offset / SEGMENT_BYTES)?;
    // Acquire pairs with the Release in `commit_segments`: the table is then accessible.
    if segment.load(Ordering::Acquire) == UNCOMMITTED {
        return None;
    }
    // SAFETY: the address lies in a committed segment.
    Some(unsafe { entry_at(offset) })
}

/// The kind of the segment that chunk `index` lies in.
fn kind_of_chunk(index: usize) -> Option<SegmentKind> {
    // Acquire pairs with the Release in `commit_segments`.
    let kind = SEGMENTS.get(index / SEGMENT_CHUNKS)?.load(Ordering::Acquire);
    kind.checked_sub(1).map(SegmentKind::from_index)
}

/// Commits `count` segments in a row for `kind`; gives the index of their first chunk.
fn commit_segments(kind: SegmentKind, count: usize) -> Option<usize> {
    let mut frontier = FRONTIER.lock();
    let first = frontier.next_segment;
    let end = first.checked_add(count)?;
    if end > bytes() / SEGMENT_BYTES {
        return None;
    }
    let (data_bytes, table_bytes) = (count * SEGMENT_BYTES, count * SEGMENT_CHUNKS * ENTRY_BYTES);
    // SAFETY: the segments lie in the region, as just checked, and the tables' parts for them in
    // the reservation around it; nobody uses any before the store below.
    unsafe {
        let start = at(first * SEGMENT_BYTES);
        let table = crate::pointers::backward(base(), end * SEGMENT_CHUNKS * ENTRY_BYTES);
        memory::commit(table, table_bytes).ok()?;
        owners::commit(first, count).ok()?;
        memory::commit(start, data_bytes).ok()?;
        kind.prepare(start, data_bytes);
        sys::poison::seek_pointers_in(start, data_bytes);
    }
    frontier.next_segment = end;
    for segment in SEGMENTS.get(first..end)? {
        // Release: whoever sees the kind may use the table.
        segment.store(kind.index() + 1, Ordering::Release);
    }
    // Release: as above.
    BOUNDS.committed.store(end * SEGMENT_BYTES, Ordering::Release);
    Some(first * SEGMENT_CHUNKS)
}

/// Commits segments again that were given back, from chunk `first` on. Whether the system let it.
///
/// # Safety
/// The chunks are whole segments of that kind, given back by `decommit`, that nobody uses.
unsafe fn commit_again(kind: SegmentKind, first: usize, chunks: usize) -> bool {
    let bytes = chunks << CHUNK_SHIFT;
    // SAFETY: the caller's contract.
    unsafe {
        let start = at(first << CHUNK_SHIFT);
        let is_committed = memory::commit(start, bytes).is_ok();
        if is_committed {
            kind.prepare(start, bytes);
        }
        is_committed
    }
}

/// Takes a run of `chunks` chunks whose start is aligned to `align_chunks` chunks, a power of two.
/// `None` where the region is full, the system refuses, or the run would be longer than the
/// machine's memory.
pub fn take_run(kind: SegmentKind, chunks: usize, align_chunks: usize) -> Option<Run> {
    if !ensure_reserved() || !is_plausible(chunks.checked_add(align_chunks)?) {
        return None;
    }
    let here = Processor::for_run_of(chunks);
    let taken = lock_of(kind).lock().take(kind, chunks, align_chunks, here);
    let run = match taken {
        Some(run) => run,
        // What other kinds hold of the commit limit may be what is missing.
        None if is_commit_charged() && purge_all().charge_bytes != 0 => {
            lock_of(kind).lock().take(kind, chunks, align_chunks, here)?
        }
        None => return None,
    };
    note_taker(kind);
    sys::poison::unpoison(run.start(), run.bytes());
    Some(run)
}

/// Whether the machine could hold a run. The kernel refuses mappings that it obviously could not,
/// unless told to overcommit always; of reserved memory it takes anything, and each chunk costs an
/// entry of the table at once. What is refused here the global allocator maps, or not.
fn is_plausible(chunks: usize) -> bool {
    chunks <= sys::physical_bytes() >> CHUNK_SHIFT
}

/// Gives a run back.
///
/// # Safety
/// The run was taken, nothing uses its memory or entries any more, and this is the only time.
pub unsafe fn return_run(run: Run) {
    let Some(kind) = kind_of_chunk(run.first_chunk()) else { return };
    sys::poison::poison(run.start(), run.bytes());
    let here = Processor::for_run_of(run.chunks());
    // SAFETY: the caller's contract.
    unsafe { lock_of(kind).lock().give_back(run, here) };
}

/// Makes a run longer where it stands, by chunks that follow it. The new run, not zeroed.
///
/// # Safety
/// The run was taken and not given back. On success the old run counts as given back.
pub unsafe fn grow_run(run: Run, chunks: usize) -> Option<Run> {
    if !is_plausible(chunks) {
        return None;
    }
    let kind = kind_of_chunk(run.first_chunk())?;
    // SAFETY: the caller's contract.
    let run = unsafe { lock_of(kind).lock().grow(run, chunks) }?;
    sys::poison::unpoison(run.start(), run.bytes());
    Some(run)
}

/// Gives the end of a run back, so that `chunks` are left where they stand: at least one, and fewer
/// than it has. The new run, not zeroed.
///
/// # Safety
/// The run was taken and not given back, and nothing uses the memory or entries of its end any
/// more. On success the old run counts as given back.
pub unsafe fn shrink_run(run: Run, chunks: usize) -> Option<Run> {
    let kind = kind_of_chunk(run.first_chunk())?;
    let (kept, end) = run.split(chunks)?;
    sys::poison::poison(end.start(), end.bytes());
    // SAFETY: the caller's contract.
    unsafe { lock_of(kind).lock().give_back_end(end) };
    Some(kept)
}

/// The committed segments of a kind, in order: neighbours as one range.
pub fn segments_of(kind: SegmentKind) -> impl Iterator<Item = MemorySpan> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let is_of_kind = |segment: &usize| kind_of_chunk(segment * SEGMENT_CHUNKS) == Some(kind);
        // Acquire pairs with the Release in `commit_segments`.
        let end = BOUNDS.committed.load(Ordering::Acquire) / SEGMENT_BYTES;
        let first = (next..end).find(is_of_kind)?;
        next = (first..end).find(|segment| !is_of_kind(segment)).unwrap_or(end);
        // SAFETY: the segment is committed, so the region is reserved and the segment in it.
        let start = unsafe { at(first * SEGMENT_BYTES) };
        Some(MemorySpan { start, bytes: (next - first) * SEGMENT_BYTES })
    })
}

/// Asks for huge pages in all of a kind's memory, if it does anywhere, from now on.
pub fn ask_for_huge_pages(kind: SegmentKind) {
    lock_of(kind).lock().growth().call_grown();
}

/// A part of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySpan {
    /// Its first byte.
    pub start: NonNull<u8>,
    /// Its length in bytes.
    pub bytes: usize,
}

/// How long an idle free run keeps its pages, in milliseconds, at least.
static PERIOD_MILLISECONDS: AtomicU64 = AtomicU64::new(DEFAULT_PERIOD_MILLISECONDS);

/// The default of that: long enough that what is used every second stays.
pub const DEFAULT_PERIOD_MILLISECONDS: u64 = 1000;

/// The longest period, in milliseconds: an hour.
pub const MAX_PERIOD_MILLISECONDS: u64 = 3_600_000;

/// How long an idle free run keeps its pages, in milliseconds, at least.
#[inline]
pub fn period_milliseconds() -> u64 {
    // Relaxed: a number, valid in itself.
    PERIOD_MILLISECONDS.load(Ordering::Relaxed)
}

/// Sets it, to an hour at most.
pub fn set_period_milliseconds(milliseconds: u64) {
    PERIOD_MILLISECONDS.store(milliseconds.min(MAX_PERIOD_MILLISECONDS), Ordering::Relaxed);
}

/// Gives the pages back of all kinds' runs that lay free for a period.
pub fn decay(now_milliseconds: u64) {
    for lock in kind_locks() {
        // Whoever holds it takes or gives back, and so looks at the clock.
        if let Some(mut runs) = lock.try_lock() {
            runs.decay(now_milliseconds);
        }
    }
}

/// Gives all memory of free runs back to the kernel; the bytes.
pub fn purge() -> usize {
    purge_all().page_bytes
}

fn purge_all() -> Purged {
    kind_locks().map(|lock| lock.lock().purge_all()).fold(Purged::default(), |sum, purged| Purged {
        page_bytes: sum.page_bytes + purged.page_bytes,
        charge_bytes: sum.charge_bytes + purged.charge_bytes,
    })
}

/// Figures of the region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionUsage {
    /// Bytes of address space reserved.
    pub reserved_bytes: usize,
    /// Bytes in committed segments.
    pub committed_bytes: usize,
    /// Bytes in runs that heaps hold.
    pub taken_bytes: usize,
    /// The most that was, of contexts' and threads' memory each: their sum.
    pub peak_bytes: usize,
    /// Bytes in free runs that were used and whose pages were not given back to the kernel yet:
    /// whole chunks, of which only what was touched is in memory.
    pub dirty_bytes: usize,
    /// Runs taken since the start.
    pub runs_taken: u64,
    /// Runs given back since the start.
    pub runs_returned: u64,
    /// Runs taken, since the start, by a thread that ran on another NUMA node than the one that the
    /// run's memory was wanted on: a heap that moved with its context or its thread.
    pub away_runs: u64,
    /// Segments whose NUMA placement the kernel refused, or replaced by an older one.
    pub refused_placements: u64,
    /// Times that the kernel refused advice for a segment: on huge pages, or on core dumps.
    pub refused_advice: u64,
}

/// What the region holds now. Takes each kind's lock in turn.
pub fn usage() -> RegionUsage {
    let mut usage = RegionUsage { reserved_bytes: bytes(), ..RegionUsage::default() };
    for lock in kind_locks() {
        lock.lock().add_to(&mut usage);
    }
    add_figures(&mut usage);
    usage
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests;

//! Ranges that are parts of a file, and keep their contents in it.
//!
//! ```text
//!   address space   │ file, mapped and shared    │ reserved, no access           │ maximum
//!   granules        │ taken │ free │ taken      │
//!   file            offset 0 ...                 ▲ length: grows as ranges are taken
//! ```
//! The address space for the maximum is reserved once, so no range ever moves, and an address less
//! [`base`](FileMemorySource::base) is an offset in the file. Which granules are taken is kept in
//! memory, not in the file.
//!
//! # Opening a file that has contents
//! All of it counts as one taken range, [`contents`](FileMemorySource::contents), so nothing is
//! handed out over it. Its owner may give it back whole or granule by granule. Its length is
//! rounded up to a granule with zeros, and its holes get disk space unless the settings say sparse;
//! where it cannot be opened it is as long as before, but holes that were filled stay so.
//!
//! # Limits
//! - Addresses differ from one opening to the next: keep offsets in the file, not pointers.
//! - It is no log: after a crash of the *system* the file holds any mixture of old and new pages
//!   since the last [`flush`](FileMemorySource::flush). After a crash of the process alone it holds
//!   everything.
//! - The file is locked (`flock`) against other sources, not against whoever else writes to it:
//!   that changes what lies in the ranges, values and pointers alike, so opening is unsafe. If
//!   somebody makes the file shorter, touching what is gone raises `SIGBUS`. Disk
//!   space is allocated ahead, so a full disk is an `AllocError` and no `SIGBUS`, unless the
//!   settings say sparse or the file system cannot.
//! - After `fork` both processes share the memory and the lock: only one may use the source.
//! - Dropping the source unmaps the file: no range may be used after that, as with any memory that
//!   an allocator owns.
//! - What is new of the file is mapped twice for a moment, and so needs its addresses twice: all of
//!   a file that is opened. Where the system refuses the second mapping, which it has no reason
//!   for, the file never grows past that place again.
//! - A range taken anew may hold what was there before; only what is new in the file is zero.

mod bits;
mod error;
mod growth;
mod open;
#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests;

use core::alloc::Layout;
use core::ptr::NonNull;
use std::fs::File;

pub use error::FileSourceError;

use crate::allocator::{AllocError, MemoryRange, MemorySource};
use crate::pointers;
use crate::sys;
use crate::sys::lock::Lock;
use crate::sys::memory;
use crate::units::{CHUNK_BYTES, round_up};
use bits::{Run, Step};

/// The settings of a [`FileMemorySource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The most bytes that the file may have. So much address space is reserved at once, and
    /// 1/500,000 of it for the granules' bits.
    pub maximum_bytes: usize,
    /// The unit of ranges in bytes, a power of two of at least a page.
    pub granule: usize,
    /// Whether disk space is only taken when a page is written, and given back with its range. A
    /// full disk is then a `SIGBUS`.
    pub is_sparse: bool,
}

impl Default for FileSettings {
    /// At most 1 GiB, granules of 64 KiB, not sparse.
    fn default() -> Self {
        Self { maximum_bytes: 1 << 30, granule: CHUNK_BYTES, is_sparse: false }
    }
}

/// A source over a file; see the [module](self) for its limits.
///
/// ```
/// use core::alloc::Layout;
/// use heapswitch::allocator::MemorySource;
/// use heapswitch::source::{FileMemorySource, FileSettings};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let path = std::env::temp_dir().join(format!("heapswitch-example-{}", std::process::id()));
/// // SAFETY: nobody else knows the file.
/// let source = unsafe { FileMemorySource::open(&path, FileSettings::default()) }?;
/// let range = source.take(Layout::new::<[u8; 6]>()).unwrap();
/// let offset = source.offset_of(range.start.as_ptr()).unwrap();
/// // SAFETY: taken above, and longer than what is written.
/// unsafe { range.start.cast().write(*b"stays!") };
/// source.flush(range)?;
/// drop(source);
/// assert_eq!(&std::fs::read(&path).unwrap()[offset..][..6], b"stays!");
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), heapswitch::source::FileSourceError>(())
/// ```
///
/// # Invariants
/// - `reservation` is `reserved_bytes` long and the source's alone, but for what `State::lost`
///   names; `base..base + maximum` lies in it.
/// - The first `State::granules` granules from `base` are the file from its start; no more is
///   mapped.
/// - A granule's bit is set exactly if it is in a taken range.
#[derive(Debug)]
pub struct FileMemorySource {
    file: File,
    settings: FileSettings,
    reservation: NonNull<u8>,
    reserved_bytes: usize,
    base: NonNull<u8>,
    contents_bytes: usize,
    state: Lock<State>,
}

#[derive(Debug)]
struct State {
    /// A bit a granule of the maximum, in a mapping of its own.
    words: NonNull<[u64]>,
    /// The file's length, as far as it is mapped.
    granules: usize,
    /// Granules below this may have contents in the file: more than `granules` where the system
    /// refused to shorten it.
    used_once: usize,
    /// Granules in taken ranges.
    taken: usize,
    /// Granules among which are all whose addresses a refused mapping cost the source; all behind
    /// the file's end.
    lost: Option<Run>,
    last_error: Option<FileSourceError>,
}

// SAFETY: the bits are the source's own mapping, and the reservation is reached under the lock or
// by the owners of ranges.
unsafe impl Send for FileMemorySource {}
// SAFETY: as above.
unsafe impl Sync for FileMemorySource {}

impl State {
    fn words(&mut self) -> &mut [u64] {
        // SAFETY: the mapping is this state's alone, zeroed at first, and lives as long.
        unsafe { self.words.as_mut() }
    }
}

impl FileMemorySource {
    /// What the file had when it was opened, rounded up to granules; `None` if it was empty. Taken:
    /// it is the caller's to give back. Asked again, it is the same range.
    pub fn contents(&self) -> Option<MemoryRange> {
        let (start, length) = (self.base, self.contents_bytes);
        (length > 0).then_some(MemoryRange { start, length, is_zeroed: false })
    }

    /// Where the file's first byte is.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The file's length in bytes.
    pub fn file_bytes(&self) -> usize {
        self.state.lock().granules * self.settings.granule
    }

    /// Where in the file the byte at `address` is; `None` if it is not in the file.
    pub fn offset_of(&self, address: *const u8) -> Option<usize> {
        let offset = address.addr().wrapping_sub(self.base.addr().get());
        (offset < self.file_bytes()).then_some(offset)
    }

    /// Where the file's byte at `offset` is in memory; `None` past the file's end.
    pub fn address_of(&self, offset: usize) -> Option<NonNull<u8>> {
        // SAFETY: the offset is below the mapped length.
        (offset < self.file_bytes()).then(|| unsafe { pointers::forward(self.base, offset) })
    }

    /// Why the last `take` or `grow` that failed did so, where the system was the reason.
    pub fn last_error(&self) -> Option<FileSourceError> {
        self.state.lock().last_error
    }

    /// Writes a taken range to the disk, and waits for it.
    ///
    /// # Errors
    /// The system's, or the range is not in the file.
    pub fn flush(&self, range: MemoryRange) -> Result<(), FileSourceError> {
        let mapped = self.file_bytes();
        let offset = pointers::distance(self.base, range.start);
        let end = offset.checked_add(range.length).and_then(|end| round_up(end, sys::page_bytes()));
        let end = end.filter(|end| *end <= mapped && offset <= mapped);
        let end = end.ok_or(FileSourceError::NotInFile)?;
        let start = offset - offset % sys::page_bytes();
        // SAFETY: the pages lie in the reservation. If the range is none that is taken they may be
        // unmapped from the file meanwhile, which is an error and no harm.
        unsafe { sys::file::flush(pointers::forward(self.base, start), end - start) }
            .map_err(|error| FileSourceError::Flush { bytes: range.length, error })
    }

    /// Makes the file as short as its last taken range allows; how many bytes shorter.
    ///
    /// # Errors
    /// The system refused to unmap or to shorten the file, which is as long as before. The source
    /// is as usable as before.
    pub fn release_unused(&self) -> Result<usize, FileSourceError> {
        #[cfg(heapswitch_check)]
        self.verify();
        let mut state = self.state.lock();
        let granules = state.granules;
        let used = bits::used_end(state.words(), granules);
        if used == granules {
            return Ok(0);
        }
        let granule = self.settings.granule;
        let (bytes, unused) = (used * granule, (granules - used) * granule);
        // SAFETY: no granule from `used` on is taken, and all of them are mapped from the file.
        unsafe { memory::decommit(pointers::forward(self.base, bytes), unused) }
            .map_err(|error| FileSourceError::Map { bytes, error })?;
        state.granules = used;
        state.used_once = granules.max(state.used_once);
        memory::set_file_length(sys::file::descriptor(&self.file), bytes)
            .map_err(|error| FileSourceError::Grow { bytes, error })?;
        state.used_once = used;
        Ok(unused)
    }

    /// Checks that the granules that are taken are as many as was handed out, all in the file, and
    /// the file as long as they need; aborts if not. O(granules).
    pub fn verify(&self) {
        if let Some(broken) = self.broken() {
            sys::abort_with(&["a file source is corrupted: ", broken]);
        }
    }

    /// What is broken.
    fn broken(&self) -> Option<&'static str> {
        let mut state = self.state.lock();
        let (taken, granules, used_once) = (state.taken, state.granules, state.used_once);
        let words = state.words();
        let is_counted = bits::count(words) == taken;
        let is_in_file = bits::used_end(words, words.len() * 64) <= granules;
        let is_bounded = granules.max(used_once) <= self.maximum_granules();
        let equations = [
            ("more or less is marked as taken than was handed out", is_counted),
            ("what is taken lies behind the file's end", is_in_file),
            ("the file is longer than it may be", is_bounded),
        ];
        equations.into_iter().find(|(_, holds)| !holds).map(|(what, _)| what)
    }

    fn maximum_granules(&self) -> usize {
        self.settings.maximum_bytes / self.settings.granule
    }

    fn granules_for(&self, bytes: usize) -> Result<usize, AllocError> {
        let bytes = round_up(bytes.max(1), self.settings.granule).ok_or(AllocError)?;
        Ok(bytes / self.settings.granule)
    }

    /// Where runs may start whose address is a multiple of `alignment`.
    fn step(&self, alignment: usize) -> Step {
        let granule = self.settings.granule;
        let every = (alignment / granule).max(1);
        // The base is aligned to a granule, so the padding is whole granules.
        let offset = pointers::padding(self.base, every * granule) / granule;
        Step { every, offset }
    }

    fn run_of(&self, range: MemoryRange) -> Run {
        let granule = self.settings.granule;
        let first = pointers::distance(self.base, range.start) / granule;
        Run { first, length: range.length / granule }
    }
}

// SAFETY: a range is a run of granules whose bits were clear and are set until it comes back,
// mapped and inside the reservation, which does not move. The methods neither allocate nor unwind.
unsafe impl MemorySource for FileMemorySource {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let length = self.granules_for(request.size())?;
        let step = self.step(request.align());
        let mut state = self.state.lock();
        let new_from = state.granules.max(state.used_once);
        let most = self.most_granules(&state);
        let run = bits::find(state.words(), most, length, step);
        let run = run.ok_or(AllocError)?;
        self.reach(&mut state, run.end())?;
        bits::mark(state.words(), run, true);
        state.taken += length;
        let granule = self.settings.granule;
        // SAFETY: the run lies below the maximum, in the reservation.
        let start = unsafe { pointers::forward(self.base, run.first * granule) };
        Ok(MemoryRange { start, length: length * granule, is_zeroed: run.first >= new_from })
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        let run = self.run_of(range);
        let mut state = self.state.lock();
        bits::mark(state.words(), run, false);
        state.taken = state.taken.wrapping_sub(run.length);
        if self.settings.is_sparse {
            // Where the file system cannot, the disk space stays taken.
            // SAFETY: nothing uses the range, and the lock keeps others from taking it.
            let _ = unsafe { sys::file::remove(range.start, range.length) };
        }
    }

    /// Bytes past the old length are what was there before, or zero where the file is new.
    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let run = self.run_of(range);
        let length = self.granules_for(length)?;
        let more = length.checked_sub(run.length).ok_or(AllocError)?;
        let new = Run { first: run.end(), length: more };
        let mut state = self.state.lock();
        let most = self.most_granules(&state);
        if !bits::is_clear(state.words(), new, most) {
            return Err(AllocError);
        }
        self.reach(&mut state, new.end())?;
        bits::mark(state.words(), new, true);
        state.taken += more;
        Ok(MemoryRange { length: length * self.settings.granule, is_zeroed: false, ..range })
    }

    fn granule(&self) -> usize {
        self.settings.granule
    }
}

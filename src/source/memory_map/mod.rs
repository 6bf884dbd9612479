//! A mapping a range.
//!
//! Costs one `mmap` to take and one `munmap` to give back, some microseconds each, and one of the
//! process's mappings (65,530 by default): for large ranges, or below an
//! [arena](super::ArenaMemorySource). These mappings lie outside the region, so they back no heap
//! that may become current.
//!
//! # The order of the steps
//! ```text
//!   map ▶ trim to the alignment ▶ placement ▶ huge pages ▶ core dumps ▶ name ▶ lock ▶ prefault
//!       ▶ collapse
//! ```
//! Pages must not come before the placement and the advice on huge pages: what is there stays as it
//! is. So prefaulting is a late step, and no flag of the first; what it brought can be collapsed.
//!
//! Explicit huge pages that are bound to nodes are placed and prefaulted at once, as a part of the
//! first step. The kernel reserves of the pages of all nodes: where the bound ones' pools are empty
//! and another's is not, the mapping would be made, and end the process at its first touch.

mod refusals;
mod settings;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

pub use refusals::{Refusal, Step};
pub use settings::{HugePages, MemoryMapSettings, MemoryMapSettingsError};

use crate::allocator::{AllocError, MemoryRange, MemorySource};
use crate::numa::{Outcome, Placement, Policy};
use crate::pointers;
use crate::sys::memory::{self, Advice, MapFlags};
use crate::sys::{SystemError, page_bytes};
use crate::units::round_up;
use refusals::Refusals;

/// Maps each range for itself, and unmaps it when it is given back.
#[derive(Debug)]
pub struct MemoryMapSource {
    settings: MemoryMapSettings,
    refusals: Refusals,
    mappings: AtomicUsize,
    mapped_bytes: AtomicUsize,
}

impl MemoryMapSource {
    /// With the settings' defaults.
    pub const fn new() -> Self {
        Self::from_checked(MemoryMapSettings::new())
    }

    /// With these settings.
    ///
    /// # Errors
    /// A setting that no mapping can have.
    pub const fn with_settings(
        settings: MemoryMapSettings,
    ) -> Result<Self, MemoryMapSettingsError> {
        match settings.check() {
            Ok(()) => Ok(Self::from_checked(settings)),
            Err(error) => Err(error),
        }
    }

    const fn from_checked(settings: MemoryMapSettings) -> Self {
        Self {
            settings,
            refusals: Refusals::new(),
            mappings: AtomicUsize::new(0),
            mapped_bytes: AtomicUsize::new(0),
        }
    }

    /// Its settings.
    pub const fn settings(&self) -> &MemoryMapSettings {
        &self.settings
    }

    /// What the system refused of it so far; nothing where every range is as it was asked.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> + '_ {
        self.refusals.iter()
    }

    /// How many ranges are taken, each a mapping, or were and could not be unmapped.
    pub fn mapping_count(&self) -> usize {
        self.mappings.load(Ordering::Relaxed)
    }

    /// The length of all taken ranges in bytes, and of what the system refused to unmap: at its
    /// limit on mappings (`vm.max_map_count`), see [`Step::Unmap`].
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes.load(Ordering::Relaxed)
    }

    /// The length of the range that serves a request of `bytes`.
    pub(crate) fn length_for(&self, bytes: usize) -> Result<usize, AllocError> {
        let length = round_up(bytes.max(1), self.granule()).ok_or(AllocError)?;
        if length > isize::MAX as usize { Err(AllocError) } else { Ok(length) }
    }

    /// Resizes a range to `length`, a multiple of the granule, where it stands or, if it
    /// `may_move`, elsewhere at a page's alignment. Bytes that are new are zero.
    ///
    /// # Errors
    /// The system refused; the range is unchanged.
    ///
    /// # Safety
    /// As [`MemorySource::grow`]; on success nothing uses the old range where it moved, or what was
    /// cut off.
    pub(crate) unsafe fn resize(
        &self,
        range: MemoryRange,
        length: usize,
        may_move: bool,
    ) -> Result<MemoryRange, AllocError> {
        // SAFETY: a taken range is a mapping of this source, outside the region, and the caller's.
        let start = unsafe { memory::remap(range.start, range.length, length, may_move) }
            .map_err(|_| AllocError)?;
        if let Some(grown @ 1..) = length.checked_sub(range.length) {
            self.mapped_bytes.fetch_add(grown, Ordering::Relaxed);
            // SAFETY: the range is `length` long now, and `length` is more than it was.
            self.prefault(unsafe { pointers::forward(start, range.length) }, grown);
        } else {
            self.mapped_bytes.fetch_sub(range.length - length, Ordering::Relaxed);
        }
        Ok(MemoryRange { start, length, is_zeroed: false })
    }

    /// Maps `length` bytes at a multiple of `alignment`.
    fn map(&self, length: usize, alignment: usize) -> Result<(NonNull<u8>, bool), SystemError> {
        let flags = MapFlags { is_unreserved: self.settings.is_unreserved, ..MapFlags::default() };
        let mut are_pages_as_asked = true;
        if let HugePages::Explicit { shift } = self.settings.huge_pages {
            match self.map_explicit(length, alignment, shift) {
                Ok(start) => return Ok((start, true)),
                Err(error) => self.refusals.count(Step::HugePages, error),
            }
            are_pages_as_asked = false;
        }
        let start = self
            .map_aligned(length, alignment, page_bytes(), flags)
            .inspect_err(|error| self.refusals.count(Step::Map, *error))?;
        if !are_pages_as_asked {
            // The next best; where that is refused too there is nothing more to say.
            // SAFETY: the mapping is this source's alone.
            let _ = unsafe { memory::apply_advice(start, length, Advice::HugePages) };
        }
        Ok((start, are_pages_as_asked))
    }

    /// Maps explicit huge pages, all there already where only some nodes will do: the system
    /// reserves what all nodes have together.
    fn map_explicit(
        &self,
        length: usize,
        alignment: usize,
        shift: u32,
    ) -> Result<NonNull<u8>, SystemError> {
        let flags = MapFlags { huge_page_shift: Some(shift), ..MapFlags::default() };
        let start = self.map_aligned(length, alignment, 1 << shift, flags)?;
        let placement = &self.settings.placement;
        let is_bound = matches!(placement.policy, Policy::Bind(_))
            && placement.apply(start, length) == Outcome::AsAsked;
        if is_bound {
            // SAFETY: whole pages of a mapping that nobody knows yet.
            let populated = unsafe { memory::apply_advice(start, length, Advice::Prefault) };
            if let Err(error) = populated {
                // SAFETY: as above.
                unsafe { self.unmap_unknown(start, length) };
                return Err(error);
            }
        }
        Ok(start)
    }

    /// Applies the settings to a fresh mapping; whether the system took all of them.
    fn apply_settings(&self, start: NonNull<u8>, length: usize) -> bool {
        let settings = &self.settings;
        let advise = |step, advice| {
            // SAFETY: the mapping is this source's alone.
            self.note(step, unsafe { memory::apply_advice(start, length, advice) })
        };
        let mut is_as_asked = match settings.placement.apply(start, length) {
            Outcome::AsAsked => true,
            Outcome::Instead { error, .. } | Outcome::Refused { error } => {
                self.note(Step::Placement, Err(error))
            }
        };
        is_as_asked &= match settings.huge_pages {
            HugePages::Never => advise(Step::HugePages, Advice::NoHugePages),
            HugePages::Transparent => advise(Step::HugePages, Advice::HugePages),
            HugePages::AsSystem | HugePages::Explicit { .. } => true,
        };
        if settings.is_kept_out_of_core_dumps {
            is_as_asked &= advise(Step::CoreDump, Advice::NoCoreDump);
        }
        if let Some(name) = settings.name {
            // SAFETY: the mapping is anonymous and this source's alone.
            let named = unsafe { memory::name_mapping(start, length, name) };
            is_as_asked &= self.note(Step::Name, named);
        }
        if settings.is_locked {
            // SAFETY: the range is mapped.
            let locked = unsafe { memory::lock_in_memory(start, length) };
            is_as_asked &= self.note(Step::Lock, locked);
        }
        is_as_asked &= self.prefault(start, length);
        if settings.is_collapsed {
            is_as_asked &= advise(Step::Collapse, Advice::Collapse);
        }
        is_as_asked
    }

    /// Prefaults where that is set; whether the system did all that was asked.
    fn prefault(&self, start: NonNull<u8>, length: usize) -> bool {
        if !self.settings.is_prefaulted {
            return true;
        }
        // SAFETY: the range is whole pages of a mapping of this source.
        self.note(Step::Prefault, unsafe { memory::apply_advice(start, length, Advice::Prefault) })
    }

    /// Maps `length` bytes at a multiple of `alignment`, on pages of `page` bytes.
    fn map_aligned(
        &self,
        length: usize,
        alignment: usize,
        page: usize,
        flags: MapFlags,
    ) -> Result<NonNull<u8>, SystemError> {
        let surplus = alignment.saturating_sub(page);
        let Some(mapped) = length.checked_add(surplus) else { return Err(SystemError::NO_MEMORY) };
        let start = memory::map_anonymous(mapped, flags)?;
        if surplus == 0 {
            return Ok(start);
        }
        let front = pointers::padding(start, alignment);
        // SAFETY: `front` is a multiple of the page and at most `surplus`, so both ends lie in the
        // mapping, which nobody uses yet.
        unsafe {
            let aligned = pointers::forward(start, front);
            let end = pointers::forward(aligned, length);
            self.unmap_unknown(start, front);
            self.unmap_unknown(end, surplus - front);
            Ok(aligned)
        }
    }

    /// Unmaps what is not counted; what is refused is from now on.
    ///
    /// # Safety
    /// As [`memory::unmap`]; nothing to unmap is harmless.
    unsafe fn unmap_unknown(&self, start: NonNull<u8>, length: usize) {
        // SAFETY: the caller's contract.
        if length > 0 && !self.note(Step::Unmap, unsafe { memory::unmap(start, length) }) {
            self.mapped_bytes.fetch_add(length, Ordering::Relaxed);
        }
    }

    fn note(&self, step: Step, result: Result<(), SystemError>) -> bool {
        result.inspect_err(|error| self.refusals.count(step, *error)).is_ok()
    }
}

impl Default for MemoryMapSource {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: each range is a mapping of its own until `give_back` unmaps it; the kernel zeroes it, and
// the source's own place does not matter. No method allocates or unwinds.
unsafe impl MemorySource for MemoryMapSource {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let length = self.length_for(request.size())?;
        let alignment = request.align().max(self.settings.alignment);
        let (start, are_pages_as_asked) = self.map(length, alignment).map_err(|_| AllocError)?;
        let is_as_asked = self.apply_settings(start, length) & are_pages_as_asked;
        if self.settings.is_strict && !is_as_asked {
            // SAFETY: nobody knows the mapping yet.
            unsafe { self.unmap_unknown(start, length) };
            return Err(AllocError);
        }
        self.mappings.fetch_add(1, Ordering::Relaxed);
        self.mapped_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(MemoryRange { start, length, is_zeroed: true })
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller gives a taken range, and nothing uses it any more.
        if self.note(Step::Unmap, unsafe { memory::unmap(range.start, range.length) }) {
            self.mappings.fetch_sub(1, Ordering::Relaxed);
            self.mapped_bytes.fetch_sub(range.length, Ordering::Relaxed);
        }
    }

    /// Bytes past the old length are zero.
    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let length = self.length_for(length)?;
        if length < range.length {
            return Err(AllocError);
        }
        // SAFETY: the caller's contract; it does not move, and nothing is cut off.
        unsafe { self.resize(range, length, false) }
    }

    fn granule(&self) -> usize {
        self.settings.granule.max(self.settings.huge_pages.page_bytes()).max(page_bytes())
    }

    fn placement(&self) -> Placement {
        self.settings.placement
    }
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests;

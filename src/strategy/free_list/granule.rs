//! An extent's memory by granules of 16 bytes, and what lies in a hole's first and last one.
//!
//! ```text
//!   first granule    │ length   next   previous       │
//!   last granule     │                           back │
//! ```
//!
//! Both have the hole's length, so that a block that is freed finds where the holes beside it begin
//! and end. A hole of one granule has all four. What a search reads lies where the block will be
//! that is cut there, which its user writes next: one line less to fetch than at the hole's end.
//!
//! Places in an extent, and lengths of holes, are counted in **words** of four bytes, four a
//! granule: a processor multiplies by four, not by sixteen, where it reads memory. Links lead to
//! first granules, and back to the word that leads here; in the extent's first granules are the
//! heads of the lists. So whoever is taken out of a list need not know whether it is the first.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::pointers;

/// log2 of [`GRANULE`].
const GRANULE_SHIFT: u32 = 4;

/// What blocks are multiples of, and aligned to.
pub(super) const GRANULE: usize = 1 << GRANULE_SHIFT;

/// The words of a granule.
pub(super) const WORDS_OF_GRANULE: usize = GRANULE / size_of::<u32>();

/// What lies in a granule of a hole; lengths are in words.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Granule {
    /// In a hole's first granule: its length.
    pub(super) length: Cell<u32>,
    /// In a hole's first granule, for the index: which hole comes next.
    pub(super) next: Cell<u32>,
    /// In a hole's first granule, for the index: the word that leads here.
    pub(super) previous: Cell<u32>,
    /// In a hole's last granule: its length.
    pub(super) back: Cell<u32>,
}
const _: () = assert!(size_of::<Granule>() == GRANULE);

/// The granules of a block of `bytes`.
#[inline]
pub(super) const fn granules_for(bytes: usize) -> usize {
    // A layout's size is at most isize::MAX, so the sum does not overflow.
    (bytes + (GRANULE - 1)) >> GRANULE_SHIFT
}

/// The number of the word that says which hole comes next to the one that begins at a place.
#[inline]
pub(super) const fn link_of(first: usize) -> usize {
    first + core::mem::offset_of!(Granule, next) / size_of::<u32>()
}

/// The memory of an extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground(NonNull<Granule>);

impl Ground {
    /// # Safety
    /// `start` leads to an extent whose holes are the caller's, as long as this is used.
    pub(super) const unsafe fn new(start: NonNull<u8>) -> Self {
        Self(start.cast())
    }

    /// Where a word starts.
    ///
    /// # Safety
    /// It is one of the extent's, or its end.
    #[inline]
    pub(super) unsafe fn address(self, word: usize) -> NonNull<u8> {
        // SAFETY: the caller's contract.
        unsafe { pointers::element(self.0.cast::<u32>(), word) }.cast()
    }

    /// The word that an address lies in.
    #[inline]
    pub(super) fn word_at(self, address: NonNull<u8>) -> usize {
        pointers::distance(self.0.cast(), address) / size_of::<u32>()
    }

    /// The granule that begins with a word as the first or last one of a hole.
    ///
    /// # Safety
    /// It lies in a hole, or in granules that become one, or in front of all that blocks may have.
    #[inline]
    pub(super) unsafe fn granule<'a>(self, word: usize) -> &'a Granule {
        // SAFETY: the granule is the strategy's alone, and all in it are cells.
        unsafe { self.address(word).cast().as_ref() }
    }

    /// A word of four bytes.
    ///
    /// # Safety
    /// As [`granule`](Self::granule).
    #[inline]
    pub(super) unsafe fn word<'a>(self, index: usize) -> &'a Cell<u32> {
        // SAFETY: as above.
        unsafe { pointers::element(self.0.cast(), index).as_ref() }
    }

    /// A word of eight bytes.
    ///
    /// # Safety
    /// As [`granule`](Self::granule); the extent is aligned to 8.
    #[inline]
    pub(super) unsafe fn long_word<'a>(self, index: usize) -> &'a Cell<u64> {
        // SAFETY: as above.
        unsafe { pointers::element(self.0.cast(), index).as_ref() }
    }

    /// A byte.
    ///
    /// # Safety
    /// As [`granule`](Self::granule).
    #[inline]
    pub(super) unsafe fn byte<'a>(self, index: usize) -> &'a Cell<u8> {
        // SAFETY: as above.
        unsafe { pointers::element(self.0.cast(), index).as_ref() }
    }

    /// Which of eight words of four bytes, from `index` on, are not zero: a bit each.
    ///
    /// # Safety
    /// As [`granule`](Self::granule), of all of them.
    #[inline]
    pub(super) unsafe fn set_of_eight(self, index: usize) -> u32 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's contract; every such processor has these instructions.
        let zeros = unsafe {
            use core::arch::x86_64::{
                __m128i, _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
                _mm_packs_epi32, _mm_setzero_si128,
            };
            let words = pointers::element(self.0.cast::<u32>(), index).cast::<__m128i>();
            let [low, high] = [0, 1].map(|half| {
                let words = _mm_loadu_si128(pointers::element(words, half).as_ptr());
                _mm_cmpeq_epi32(words, _mm_setzero_si128())
            });
            let halves = _mm_packs_epi32(low, high);
            _mm_movemask_epi8(_mm_packs_epi16(halves, _mm_setzero_si128())) as u32
        };
        #[cfg(not(target_arch = "x86_64"))]
        let zeros = (0..8).fold(0_u32, |zeros, at| {
            // SAFETY: the caller's contract.
            let is_zero = unsafe { self.word(index + at) }.get() == 0;
            zeros | u32::from(is_zero) << at
        });
        zeros ^ 0xff
    }

    /// Writes a hole's length into its first granule and its last.
    ///
    /// # Safety
    /// The granules lie in a hole, or in granules that become one.
    #[inline]
    pub(super) unsafe fn write_length(self, first: usize, words: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            self.granule(first).length.set(words as u32);
            self.granule(first + words - WORDS_OF_GRANULE).back.set(words as u32);
        }
    }
}

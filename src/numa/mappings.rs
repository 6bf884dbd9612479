//! Which sizes of pages back mappings, as `/proc/self/smaps` tells: read without allocating.

use core::ops::Range;
use core::ptr::NonNull;

use super::topology::{Bytes, Root};
use crate::sys::SystemError;

/// What backs one or several mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backing {
    /// The largest page that a mapping is made of, in bytes (`KernelPageSize`): 4096, or the size
    /// of explicit huge pages.
    pub page_bytes: usize,
    /// Bytes that are resident.
    pub resident_bytes: usize,
    /// Bytes of them in transparent huge pages.
    pub transparent_huge_bytes: usize,
    /// Bytes of them in explicit huge pages.
    pub explicit_huge_bytes: usize,
    /// How many mappings.
    pub mappings: usize,
}

impl Backing {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            page_bytes: self.page_bytes.max(other.page_bytes),
            resident_bytes: self.resident_bytes + other.resident_bytes,
            transparent_huge_bytes: self.transparent_huge_bytes + other.transparent_huge_bytes,
            explicit_huge_bytes: self.explicit_huge_bytes + other.explicit_huge_bytes,
            mappings: self.mappings + other.mappings,
        }
    }
}

/// What backs the mappings that overlap a range, each counted as a whole.
///
/// # Errors
/// The system's, where `/proc` is not mounted.
pub fn backing_of(start: NonNull<u8>, bytes: usize) -> Result<Backing, SystemError> {
    let first = start.addr().get();
    let end = first.saturating_add(bytes);
    backing_where(|mapping| mapping.start < end && first < mapping.end)
}

/// What backs the mappings for whose addresses `is_wanted` holds.
pub(super) fn backing_where(
    mut is_wanted: impl FnMut(Range<usize>) -> bool,
) -> Result<Backing, SystemError> {
    let root = Root::new("").ok_or(SystemError::NO_ENTRY)?;
    let smaps = root.open(&"/proc/self/smaps")?;
    smaps.read(|smaps| {
        let mut backing = Backing::default();
        let mut counts = false;
        while let Some(line) = Line::read(smaps) {
            match line {
                Line::Mapping(range) => {
                    counts = is_wanted(range);
                    backing.mappings += usize::from(counts);
                }
                Line::Figure(figure, kibibytes) if counts => {
                    let bytes = usize::try_from(kibibytes << 10).unwrap_or(usize::MAX);
                    figure.enter_in(&mut backing, bytes);
                }
                Line::Figure(..) | Line::Other => {}
            }
        }
        backing
    })
}

#[derive(Clone, Copy)]
enum Figure {
    PageSize,
    Resident,
    Transparent,
    Explicit,
}

impl Figure {
    const ALL: [(&'static [u8], Self); 5] = [
        (b"KernelPageSize", Self::PageSize),
        (b"Rss", Self::Resident),
        (b"AnonHugePages", Self::Transparent),
        (b"Private_Hugetlb", Self::Explicit),
        (b"Shared_Hugetlb", Self::Explicit),
    ];

    fn enter_in(self, backing: &mut Backing, bytes: usize) {
        match self {
            Self::PageSize => backing.page_bytes = backing.page_bytes.max(bytes),
            Self::Resident => backing.resident_bytes += bytes,
            Self::Transparent => backing.transparent_huge_bytes += bytes,
            // Not part of Rss.
            Self::Explicit => {
                backing.explicit_huge_bytes += bytes;
                backing.resident_bytes += bytes;
            }
        }
    }
}

/// A line of smaps: `7f01000-7f02000 rw-p ...` or `Rss:   4 kB`.
enum Line {
    Mapping(Range<usize>),
    Figure(Figure, u64),
    Other,
}

impl Line {
    /// `None` at the end.
    fn read(smaps: &mut Bytes) -> Option<Self> {
        let mut word = [0_u8; 20];
        let mut length = 0;
        let mut end = None;
        for byte in smaps.by_ref() {
            if matches!(byte, b':' | b'-' | b'\n' | b' ') {
                end = Some(byte);
                break;
            }
            if let Some(slot) = word.get_mut(length) {
                *slot = byte;
                length += 1;
            }
        }
        let word = word.get(..length)?;
        let line = match end? {
            b'-' => match (hexadecimal(word.iter().copied()), hexadecimal(smaps.by_ref())) {
                (Some(start), Some(end)) => Self::Mapping(start..end),
                _ => Self::Other,
            },
            b':' => {
                let figure = Figure::ALL.into_iter().find(|(name, _)| *name == word);
                match figure.and_then(|(_, figure)| Some((figure, smaps.number()?))) {
                    Some((figure, kibibytes)) => Self::Figure(figure, kibibytes),
                    None => Self::Other,
                }
            }
            b'\n' => return Some(Self::Other),
            _ => Self::Other,
        };
        let _ = smaps.line().last();
        Some(line)
    }
}

/// A number up to the first byte that is none of its digits.
fn hexadecimal(bytes: impl Iterator<Item = u8>) -> Option<usize> {
    let mut number = None;
    for byte in bytes {
        let Some(digit) = char::from(byte).to_digit(16) else { break };
        number = Some(number.unwrap_or(0_usize).checked_mul(16)?.checked_add(digit as usize)?);
    }
    number
}

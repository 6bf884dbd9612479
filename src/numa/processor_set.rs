//! Sets of processors, in the kernel's list syntax.

use core::fmt;
use core::str::FromStr;

use super::numbers::{Numbers, ParseListError};
use crate::sys::thread::{Affinity, PROCESSOR_BITS};

const WORDS: usize = PROCESSOR_BITS / 64;

/// A set of processors, of 1 KiB. Printed and parsed as the kernel and `taskset -c` do, `0-3,8`.
///
/// ```
/// use heapswitch::numa::ProcessorSet;
///
/// let set: ProcessorSet = "0-2,8".parse()?;
/// assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 8]);
/// # Ok::<(), heapswitch::numa::ParseListError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessorSet {
    numbers: Numbers<WORDS>,
}

impl ProcessorSet {
    /// One more than the highest number: 8192, the most processors that any kernel of x86-64 is
    /// built for.
    pub const LIMIT: usize = PROCESSOR_BITS;

    /// No processor.
    pub const EMPTY: Self = Self { numbers: Numbers::EMPTY };

    /// This set and `processor`; the same set from [`LIMIT`](Self::LIMIT) up.
    #[must_use]
    pub const fn with(self, processor: usize) -> Self {
        if processor < Self::LIMIT { Self { numbers: self.numbers.with(processor) } } else { self }
    }

    /// The processors that are in both sets.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        Self { numbers: self.numbers.and(&other.numbers) }
    }

    /// Whether `processor` is in it.
    pub const fn contains(&self, processor: usize) -> bool {
        self.numbers.contains(processor)
    }

    /// How many processors are in it.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no processor is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Its processors, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.numbers.iter()
    }

    /// As what a thread can be confined to.
    pub fn affinity(&self) -> Affinity {
        Affinity::from_words(self.numbers.words)
    }

    /// Reads a list from its bytes.
    pub(super) fn parse(bytes: &mut dyn Iterator<Item = u8>) -> Result<Self, ParseListError> {
        Ok(Self { numbers: Numbers::parse(bytes)? })
    }
}

impl From<Affinity> for ProcessorSet {
    fn from(affinity: Affinity) -> Self {
        Self { numbers: Numbers { words: *affinity.as_words() } }
    }
}

impl Default for ProcessorSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl FromIterator<usize> for ProcessorSet {
    fn from_iter<I: IntoIterator<Item = usize>>(processors: I) -> Self {
        processors.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for ProcessorSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.numbers.fmt(formatter)
    }
}

impl fmt::Debug for ProcessorSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ProcessorSet({self})")
    }
}

impl FromStr for ProcessorSet {
    type Err = ParseListError;

    /// Reads `0-3,8`; white space around the list is ignored, and an empty list is the empty set.
    fn from_str(list: &str) -> Result<Self, ParseListError> {
        Self::parse(&mut list.bytes())
    }
}

//! Sets of small numbers, in the list syntax of the kernel: `0-3,8`. What node and processor sets
//! are made of.
//!
//! A list is read byte by byte, so that it may come from a file of any length through a small
//! buffer.

use core::fmt;

/// A set of numbers below `64 * WORDS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Numbers<const WORDS: usize> {
    /// One bit a number, the lowest in the lowest bit of the first word.
    pub(super) words: [u64; WORDS],
}

/// A list of numbers that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseListError {
    /// Something between two commas is neither a number nor two with a hyphen.
    NotANumber {
        /// Its place in the list, from 0.
        item: usize,
    },
    /// A number is larger than any of its kind: a node's 1024 or more, a processor's 8192 or more.
    TooLarge {
        /// Its place in the list, from 0.
        item: usize,
    },
    /// A range ends before it starts.
    Descending {
        /// Its place in the list, from 0.
        item: usize,
    },
}

impl fmt::Display for ParseListError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (item, problem) = match self {
            Self::NotANumber { item } => (item, "is not a number or a range"),
            Self::TooLarge { item } => (item, "is larger than any node or processor can be"),
            Self::Descending { item } => (item, "ends before it starts"),
        };
        write!(
            formatter,
            "cannot read a list of numbers: item {item} {problem}; write it like \"0-3,8\""
        )
    }
}

impl core::error::Error for ParseListError {}

impl<const WORDS: usize> Numbers<WORDS> {
    pub(super) const EMPTY: Self = Self { words: [0; WORDS] };
    pub(super) const LIMIT: usize = 64 * WORDS;

    /// The number must be below the limit.
    pub(super) const fn with(mut self, number: usize) -> Self {
        self.words[number / 64] |= 1 << (number % 64);
        self
    }

    /// The number must be below the limit.
    pub(super) const fn without(mut self, number: usize) -> Self {
        self.words[number / 64] &= !(1 << (number % 64));
        self
    }

    pub(super) const fn contains(&self, number: usize) -> bool {
        number < Self::LIMIT && self.words[number / 64] & (1 << (number % 64)) != 0
    }

    pub(super) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn and(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            core::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(64 * index + bit)
            })
        })
    }

    /// The first number at or after `from` whose membership is `is_member`, or the limit.
    fn next(&self, from: usize, is_member: bool) -> usize {
        (from..Self::LIMIT)
            .find(|&number| self.contains(number) == is_member)
            .unwrap_or(Self::LIMIT)
    }

    /// Reads a list; white space around it is ignored, and an empty list is the empty set.
    pub(super) fn parse(bytes: impl Iterator<Item = u8>) -> Result<Self, ParseListError> {
        let mut parser = Parser { set: Self::EMPTY, item: 0, first: None, number: None };
        let mut bytes = bytes.skip_while(u8::is_ascii_whitespace).peekable();
        if bytes.peek().is_none() {
            return Ok(Self::EMPTY);
        }
        while let Some(byte) = bytes.next() {
            if byte.is_ascii_whitespace() {
                if bytes.any(|byte| !byte.is_ascii_whitespace()) {
                    return Err(ParseListError::NotANumber { item: parser.item });
                }
                break;
            }
            parser.push(byte)?;
        }
        parser.end_item()?;
        Ok(parser.set)
    }
}

/// A list half read.
struct Parser<const WORDS: usize> {
    set: Numbers<WORDS>,
    item: usize,
    /// The start of the range that the item is, after its hyphen.
    first: Option<usize>,
    number: Option<usize>,
}

impl<const WORDS: usize> Parser<WORDS> {
    fn push(&mut self, byte: u8) -> Result<(), ParseListError> {
        match (byte, self.first, self.number) {
            (b'0'..=b'9', _, number) => {
                let digit = usize::from(byte - b'0');
                let number = number.unwrap_or(0).saturating_mul(10).saturating_add(digit);
                self.number = Some(number);
            }
            (b'-', None, Some(number)) => {
                self.first = Some(number);
                self.number = None;
            }
            (b',', ..) => {
                self.end_item()?;
                self.item += 1;
            }
            _ => return Err(ParseListError::NotANumber { item: self.item }),
        }
        Ok(())
    }

    fn end_item(&mut self) -> Result<(), ParseListError> {
        let item = self.item;
        let Some(last) = self.number.take() else {
            return Err(ParseListError::NotANumber { item });
        };
        let first = self.first.take().unwrap_or(last);
        if first.max(last) >= Numbers::<WORDS>::LIMIT {
            return Err(ParseListError::TooLarge { item });
        }
        if last < first {
            return Err(ParseListError::Descending { item });
        }
        self.set = (first..=last).fold(self.set, Numbers::with);
        Ok(())
    }
}

impl<const WORDS: usize> fmt::Display for Numbers<WORDS> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut start = self.next(0, true);
        let mut comma = "";
        while start < Self::LIMIT {
            let end = self.next(start, false);
            write!(formatter, "{comma}{start}")?;
            if end - start > 1 {
                write!(formatter, "-{}", end - 1)?;
            }
            comma = ",";
            start = self.next(end, true);
        }
        Ok(())
    }
}

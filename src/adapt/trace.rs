//! Traces: what a program allocated and freed, in order, as a [`Recorder`](super::Recorder) writes
//! it.
//!
//! ```text
//!   "hstrace1"  then events, each
//!   byte         bits 0..1: 0 allocate, 1 free, 2 reallocate, 3 allocate zeroed
//!                bits 2..7: log2 of the alignment, of an allocation
//!   allocate     size, address            reallocate   size, old address, new address
//!   free         address
//! ```
//!
//! Sizes are numbers of 7 bits a byte, the lowest first, with the top bit set in all but the last
//! byte. Addresses are the differences to the address before, as such numbers with the sign in bit
//! 0; they only tell blocks apart. An event takes some five bytes.
//!
//! A recorder writes events in an order in which no two live blocks have one address.
#![forbid(unsafe_code)]

use core::alloc::Layout;
use std::collections::HashMap;

/// What a trace begins with.
pub const MAGIC: [u8; 8] = *b"hstrace1";

/// The most bytes of an event.
pub(super) const MAX_EVENT_BYTES: usize = 1 + 3 * 10;

const ALLOCATE: u8 = 0;
const FREE: u8 = 1;
const REALLOCATE: u8 = 2;
const ALLOCATE_ZEROED: u8 = 3;

/// What a program did, with blocks known by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Allocate { address: usize, layout: Layout, is_zeroed: bool },
    Free { address: usize },
    Reallocate { old_address: usize, new_address: usize, size: usize },
}

/// What a program did, with blocks known by slot: a number below [`Trace::slots`] that only one
/// live block has at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// A block was allocated.
    Allocate {
        /// Which slot it is in from now on.
        slot: usize,
        /// What was asked for.
        layout: Layout,
        /// Whether it was to be zeroed.
        is_zeroed: bool,
    },
    /// The block in the slot was freed.
    Free {
        /// Which one.
        slot: usize,
    },
    /// The block in the slot was resized; its alignment stays.
    Reallocate {
        /// Which one.
        slot: usize,
        /// The new size.
        size: usize,
    },
}

/// Why bytes are no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceError {
    /// They do not begin as a trace does.
    NoTrace,
    /// The event that begins at this byte is cut off, nonsense, or makes a block where one is.
    Event {
        /// From the start of the trace.
        byte: usize,
    },
}

impl core::fmt::Display for TraceError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoTrace => formatter.write_str("this is no trace: it does not begin as one"),
            Self::Event { byte } => {
                write!(formatter, "the trace is damaged: byte {byte} begins no whole event")
            }
        }
    }
}

impl core::error::Error for TraceError {}

/// Writes events.
#[derive(Debug)]
pub(super) struct Encoder {
    last_address: usize,
}

/// An event's bytes, and how many.
pub(super) struct Encoded {
    bytes: [u8; MAX_EVENT_BYTES],
    length: usize,
}

impl Encoded {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }
}

impl Encoder {
    pub(super) const fn new() -> Self {
        Self { last_address: 0 }
    }

    pub(super) fn encode(&mut self, event: Event) -> Encoded {
        let mut encoded = Encoded { bytes: [0; MAX_EVENT_BYTES], length: 0 };
        match event {
            Event::Allocate { address, layout, is_zeroed } => {
                let kind = if is_zeroed { ALLOCATE_ZEROED } else { ALLOCATE };
                encoded.push(kind | (layout.align().trailing_zeros() as u8) << 2);
                encoded.number(layout.size() as u64);
                self.address(&mut encoded, address);
            }
            Event::Free { address } => {
                encoded.push(FREE);
                self.address(&mut encoded, address);
            }
            Event::Reallocate { old_address, new_address, size } => {
                encoded.push(REALLOCATE);
                encoded.number(size as u64);
                self.address(&mut encoded, old_address);
                self.address(&mut encoded, new_address);
            }
        }
        encoded
    }

    fn address(&mut self, encoded: &mut Encoded, address: usize) {
        let difference = address.wrapping_sub(self.last_address) as i64;
        encoded.number((difference << 1 ^ difference >> 63) as u64);
        self.last_address = address;
    }
}

/// Reads events.
struct Decoder<'a> {
    rest: &'a [u8],
    last_address: usize,
}

impl Decoder<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn address(&mut self) -> Option<usize> {
        let number = self.number()?;
        let difference = (number >> 1) as i64 ^ -((number & 1) as i64);
        self.last_address = self.last_address.wrapping_add(difference as usize);
        Some(self.last_address)
    }

    fn event(&mut self) -> Option<Event> {
        let head = self.byte()?;
        match head & 3 {
            FREE => Some(Event::Free { address: self.address()? }),
            REALLOCATE => Some(Event::Reallocate {
                size: self.size()?,
                old_address: self.address()?,
                new_address: self.address()?,
            }),
            kind => {
                let align = 1_usize.checked_shl(u32::from(head >> 2))?;
                let layout = Layout::from_size_align(self.size()?, align).ok()?;
                let is_zeroed = kind == ALLOCATE_ZEROED;
                Some(Event::Allocate { address: self.address()?, layout, is_zeroed })
            }
        }
    }
}

/// A whole trace.
///
/// ```
/// use heapswitch::adapt::trace::{Trace, TraceEvent};
///
/// let recorded = b"hstrace1\x0c\x20\x80\x01\x01\x00"; // 32 bytes aligned to 8, freed
/// let trace = Trace::read(recorded)?;
/// assert_eq!(trace.events.len(), 2);
/// assert_eq!(trace.events[1], TraceEvent::Free { slot: 0 });
/// # Ok::<(), heapswitch::adapt::trace::TraceError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In order.
    pub events: Vec<TraceEvent>,
    /// As many blocks as live at once at most: all slots are below.
    pub slots: usize,
}

/// Which slots live blocks are in.
#[derive(Default)]
struct Slots {
    by_address: HashMap<usize, usize>,
    free: Vec<usize>,
    count: usize,
}

impl Slots {
    /// A slot for a new block; none if a live one has that address.
    fn take(&mut self, address: usize) -> Option<usize> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        });
        self.by_address.insert(address, slot).is_none().then_some(slot)
    }
}

impl Trace {
    /// Reads a trace. What was allocated before the recording began, and is freed or resized in
    /// it, is left out.
    ///
    /// # Errors
    /// The bytes are no trace, or damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, TraceError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(TraceError::NoTrace)?;
        let mut decoder = Decoder { rest, last_address: 0 };
        let (mut slots, mut events) = (Slots::default(), Vec::new());
        while !decoder.rest.is_empty() {
            let byte = bytes.len() - decoder.rest.len();
            match decoder.event().ok_or(TraceError::Event { byte })? {
                Event::Allocate { address, layout, is_zeroed } => {
                    let slot = slots.take(address).ok_or(TraceError::Event { byte })?;
                    events.push(TraceEvent::Allocate { slot, layout, is_zeroed });
                }
                Event::Free { address } => {
                    if let Some(slot) = slots.by_address.remove(&address) {
                        slots.free.push(slot);
                        events.push(TraceEvent::Free { slot });
                    }
                }
                Event::Reallocate { old_address, new_address, size } => {
                    if let Some(slot) = slots.by_address.remove(&old_address) {
                        if slots.by_address.insert(new_address, slot).is_some() {
                            return Err(TraceError::Event { byte });
                        }
                        events.push(TraceEvent::Reallocate { slot, size });
                    }
                }
            }
        }
        Ok(Self { events, slots: slots.count })
    }

    /// The trace as bytes, with slots in the place of addresses, which makes it a third shorter.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut encoder = Encoder::new();
        for &event in &self.events {
            let event = match event {
                TraceEvent::Allocate { slot, layout, is_zeroed } => {
                    Event::Allocate { address: slot, layout, is_zeroed }
                }
                TraceEvent::Free { slot } => Event::Free { address: slot },
                TraceEvent::Reallocate { slot, size } => {
                    Event::Reallocate { old_address: slot, new_address: slot, size }
                }
            };
            bytes.extend_from_slice(encoder.encode(event).as_slice());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut encoder = Encoder::new();
        let mut bytes = MAGIC.to_vec();
        let high = usize::MAX - 8;
        for event in [
            Event::Free { address: 77 },
            Event::Allocate { address: high, layout: layout(0, 1), is_zeroed: true },
            Event::Allocate { address: 0x1000, layout: layout(1 << 40, 1 << 30), is_zeroed: false },
            Event::Reallocate { old_address: high, new_address: 64, size: 300 },
            Event::Free { address: 0x1000 },
            Event::Allocate { address: 0x1000, layout: layout(127, 8), is_zeroed: false },
            Event::Reallocate { old_address: 5, new_address: 6, size: 300 },
        ] {
            bytes.extend_from_slice(encoder.encode(event).as_slice());
        }
        let trace = Trace::read(&bytes).unwrap();
        let expected = [
            TraceEvent::Allocate { slot: 0, layout: layout(0, 1), is_zeroed: true },
            TraceEvent::Allocate { slot: 1, layout: layout(1 << 40, 1 << 30), is_zeroed: false },
            TraceEvent::Reallocate { slot: 0, size: 300 },
            TraceEvent::Free { slot: 1 },
            TraceEvent::Allocate { slot: 1, layout: layout(127, 8), is_zeroed: false },
        ];
        assert_eq!(trace, Trace { events: expected.to_vec(), slots: 2 });
        assert_eq!(Trace::read(&trace.to_bytes()), Ok(trace));
    }

    #[test]
    fn what_is_no_trace_is_an_error() {
        assert_eq!(Trace::read(b"hstrace2"), Err(TraceError::NoTrace));
        assert_eq!(Trace::read(b"hstrace1\x01"), Err(TraceError::Event { byte: 8 }));
        assert_eq!(Trace::read(b"hstrace1\x01\x02\xfc\x01"), Err(TraceError::Event { byte: 10 }));
        let twice = b"hstrace1\x00\x20\x02\x00\x20\x00";
        assert_eq!(Trace::read(twice), Err(TraceError::Event { byte: 11 }));
        let endless = [b"hstrace1\x01".as_slice(), &[0xff; 12]].concat();
        assert_eq!(Trace::read(&endless), Err(TraceError::Event { byte: 8 }));
    }
}

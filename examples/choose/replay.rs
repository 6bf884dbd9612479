//! Replays a trace over a strategy.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use heapswitch::adapt::trace::{Trace, TraceEvent};
use heapswitch::allocator::LocalAllocator;

use crate::memory::Memory;
use crate::options::Options;
use crate::strategies::{self, NAMES, Visitor};

/// Where a block was, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// From the start of the memory.
    pub(crate) offset: usize,
    /// What was asked for.
    pub(crate) asked: usize,
    /// The block's length.
    pub(crate) bytes: usize,
    /// The events that made it and ended it.
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// What a strategy did with a trace.
pub(crate) struct Replayed {
    pub(crate) name: &'static str,
    /// The shortest of the rounds: what else the machine does only adds to it.
    pub(crate) time: Duration,
    /// What was taken of the memory where there is plenty.
    pub(crate) peak_bytes: usize,
    /// The least memory in which nothing is refused; none where something always is.
    pub(crate) least_bytes: Option<usize>,
    /// By how much the blocks were longer than asked for, when most was asked for.
    pub(crate) rounded_bytes: usize,
    pub(crate) refused: usize,
    pub(crate) placed: Vec<Placed>,
}

/// The most bytes that were asked for and live at once.
pub(crate) fn peak_of_requests(trace: &Trace) -> usize {
    let mut sizes = vec![0; trace.slots];
    let (mut live, mut peak) = (0, 0);
    for &event in &trace.events {
        let (slot, size) = match event {
            TraceEvent::Allocate { slot, layout, .. } => (slot, layout.size()),
            TraceEvent::Reallocate { slot, size } => (slot, size),
            TraceEvent::Free { slot } => (slot, 0),
        };
        live = live + size - std::mem::replace(&mut sizes[slot], size);
        peak = peak.max(live);
    }
    peak
}

/// A block of the program's, if the strategy did not refuse it.
type Slot = Option<(NonNull<u8>, Layout)>;

fn written(block: NonNull<[u8]>, layout: Layout) -> Slot {
    let start = block.cast::<u8>();
    if layout.size() != 0 {
        // SAFETY: the block was just allocated, and is a byte long at least.
        unsafe { start.write(1) };
    }
    Some((start, layout))
}

/// Does what the event says; whether it was not refused.
#[inline]
fn step(allocator: &impl LocalAllocator, slots: &mut [Slot], event: TraceEvent) -> bool {
    match event {
        TraceEvent::Allocate { slot, layout, is_zeroed } => {
            let block = if is_zeroed {
                allocator.allocate_zeroed(layout)
            } else {
                allocator.allocate(layout)
            };
            slots[slot] = block.ok().and_then(|block| written(block, layout));
            slots[slot].is_some()
        }
        TraceEvent::Free { slot } => {
            if let Some((block, layout)) = slots[slot].take() {
                // SAFETY: the block is allocated with that layout.
                unsafe { allocator.deallocate(block, layout) };
            }
            true
        }
        TraceEvent::Reallocate { slot, size } => {
            // What was refused stays so.
            let Some((block, old)) = slots[slot] else { return true };
            let Ok(new) = Layout::from_size_align(size, old.align()) else { return false };
            // SAFETY: the block is allocated with the old layout; the sizes are in that order.
            let moved = unsafe {
                if size >= old.size() {
                    allocator.grow(block, old, new)
                } else {
                    allocator.shrink(block, old, new)
                }
            };
            moved.ok().inspect(|&moved| slots[slot] = written(moved, new)).is_some()
        }
    }
}

fn free_all(allocator: &impl LocalAllocator, slots: &mut [Slot]) {
    for (block, layout) in slots.iter_mut().filter_map(Option::take) {
        // SAFETY: the block is allocated with that layout.
        unsafe { allocator.deallocate(block, layout) };
    }
}

/// Times a replay.
struct Timed<'a> {
    trace: &'a Trace,
    slots: Vec<Slot>,
}

impl Visitor for Timed<'_> {
    type Result = Duration;

    fn visit(&mut self, _: usize, allocator: &impl LocalAllocator) -> Duration {
        let start = Instant::now();
        for &event in &self.trace.events {
            step(allocator, &mut self.slots, event);
        }
        let taken = start.elapsed();
        free_all(allocator, &mut self.slots);
        taken
    }
}

/// Counts what is refused.
struct Counted<'a>(&'a Trace);

impl Visitor for Counted<'_> {
    type Result = usize;

    fn visit(&mut self, _: usize, allocator: &impl LocalAllocator) -> usize {
        let mut slots = vec![None; self.0.slots];
        let refused = self.0.events.iter().filter(|&&event| !step(allocator, &mut slots, event));
        let refused = refused.count();
        free_all(allocator, &mut slots);
        refused
    }
}

/// The least memory in which the strategy refuses nothing, to a KiB, found by halving: what it
/// refuses in some memory it is taken to refuse in any less.
fn least_bytes(name: &str, trace: &Trace, memory: &mut Memory) -> Option<usize> {
    const STEP: usize = 1 << 10;
    let mut serves = |steps: usize| {
        strategies::visit(name, (&mut *memory, steps * STEP), &mut Counted(trace)) == 0
    };
    let mut too_little = peak_of_requests(trace) / STEP;
    let mut enough = (too_little + 1).next_power_of_two();
    while !serves(enough) {
        enough *= 2;
        if enough > 1 << 18 {
            return None;
        }
    }
    while enough - too_little > 1 {
        let middle = usize::midpoint(too_little, enough);
        if serves(middle) {
            enough = middle;
        } else {
            too_little = middle;
        }
    }
    Some(enough * STEP)
}

/// Notes where each block is.
struct Watched<'a> {
    trace: &'a Trace,
}

/// What was watched: see [`Replayed`].
struct Seen {
    peak_bytes: usize,
    rounded_bytes: usize,
    refused: usize,
    placed: Vec<Placed>,
}

impl Visitor for Watched<'_> {
    type Result = Seen;

    fn visit(&mut self, start: usize, allocator: &impl LocalAllocator) -> Self::Result {
        let mut slots = vec![None; self.trace.slots];
        let mut since: Vec<Option<Placed>> = vec![None; self.trace.slots];
        let (mut placed, mut refused) = (vec![], 0);
        let (mut asked, mut in_blocks, mut most_asked, mut rounded_bytes) = (0, 0, 0, 0);
        for (index, &event) in self.trace.events.iter().enumerate() {
            refused += usize::from(!step(allocator, &mut slots, event));
            let (TraceEvent::Allocate { slot, .. }
            | TraceEvent::Free { slot }
            | TraceEvent::Reallocate { slot, .. }) = event;
            let now = slots[slot].filter(|(_, layout)| layout.size() != 0);
            let now = now.map(|(block, layout)| Placed {
                offset: block.addr().get() - start,
                asked: layout.size(),
                bytes: allocator.block_length(layout).unwrap_or(layout.size()),
                from: index,
                to: self.trace.events.len(),
            });
            let before = std::mem::replace(&mut since[slot], now);
            asked = asked + now.map_or(0, |now| now.asked) - before.map_or(0, |it| it.asked);
            in_blocks =
                in_blocks + now.map_or(0, |now| now.bytes) - before.map_or(0, |it| it.bytes);
            if asked > most_asked {
                (most_asked, rounded_bytes) = (asked, in_blocks - asked);
            }
            placed.extend(before.map(|before| Placed { to: index, ..before }));
        }
        placed.extend(since.into_iter().flatten());
        let peak_bytes = allocator.memory_usage().peak_committed_bytes;
        free_all(allocator, &mut slots);
        Seen { peak_bytes, rounded_bytes, refused, placed }
    }
}

/// Replays the trace over each strategy: first watched, then timed in turn.
pub(crate) fn all(trace: &Trace, options: &Options) -> Vec<Replayed> {
    let mut memory = Memory::new(options.memory_bytes);
    let mut results: Vec<Replayed> = NAMES
        .iter()
        .map(|&name| {
            let all = memory.bytes();
            let watched = strategies::visit(name, (&mut memory, all), &mut Watched { trace });
            let Seen { peak_bytes, rounded_bytes, refused, placed } = watched;
            let least_bytes = (refused == 0).then(|| least_bytes(name, trace, &mut memory));
            let (time, least_bytes) = (Duration::ZERO, least_bytes.flatten());
            Replayed { name, time, peak_bytes, least_bytes, rounded_bytes, refused, placed }
        })
        .collect();
    let mut timed = Timed { trace, slots: vec![None; trace.slots] };
    for round in 0..options.rounds {
        // In turning order, so that what else the machine does hits all alike.
        for turn in 0..NAMES.len() {
            let index = (turn + round) % NAMES.len();
            let all = memory.bytes();
            let time = strategies::visit(NAMES[index], (&mut memory, all), &mut timed);
            let result = &mut results[index];
            result.time = if round == 0 { time } else { result.time.min(time) };
        }
    }
    results
}

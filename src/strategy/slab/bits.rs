//! Which blocks of an extent are free: a bit each, out of line.
//!
//! Neither taking blocks nor putting them back touches their memory, so a block that left the
//! caches stays out until the program wants it, and a program that writes to freed memory corrupts
//! nothing here. Blocks are taken in order of address, whatever the order in which they came back.
//!
//! The extent's first word remembers the first word of bits that may not be empty.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::class::{CLASSES, block_bytes};
use super::partial::{HEAD, carved, class_of_extent, count_carved, count_taken, free, freed_twice};
use crate::pointers;
use crate::strategy::Extent;
use crate::units::CHUNK_BYTES;

/// The most blocks that an extent holds: one of 8-byte blocks uses its first half, so that the bits
/// of a chunk are 512 bytes and not 1024.
const MAX_BLOCKS: usize = CHUNK_BYTES / 16;

/// The bytes of bits that an extent has.
pub(super) const BITS_BYTES: usize = MAX_BLOCKS / 8;

/// By class: 2^32 divided by the block's length, rounded up. An offset below 64 KiB times this,
/// shifted right by 32, is the offset divided by the length: the error is below
/// 2^16 * length / 2^32 of the quotient's last place, and lengths are at most 2^15.
static RECIPROCALS: [u32; CLASSES] = {
    let mut reciprocals = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        reciprocals[class] =
            (1_u64 << 32).div_ceil(super::class::computed_bytes(class) as u64) as u32;
        class += 1;
    }
    reciprocals
};

#[inline]
pub(super) fn reciprocal_of(class: usize) -> u64 {
    RECIPROCALS.get(class).map_or(0, |&reciprocal| u64::from(reciprocal))
}

/// Which block of its extent lies at `offset`.
#[inline]
pub(super) fn index_at(offset: usize, class: usize) -> usize {
    ((offset as u64 * reciprocal_of(class)) >> 32) as usize
}

/// The bytes of an extent for each block: more than the block, where its bits would be too many.
pub(super) fn least_bytes(class: usize) -> usize {
    block_bytes(class).max(CHUNK_BYTES / MAX_BLOCKS)
}

/// The blocks of a class that an extent of a chunk holds.
pub(super) fn blocks_in(extent: &Extent, class: usize) -> usize {
    (extent.length() / block_bytes(class).max(1)).min(MAX_BLOCKS)
}

pub(super) fn has_uncarved(extent: &Extent, class: usize) -> bool {
    carved(extent) < blocks_in(extent, class)
}

pub(super) fn words(extent: &Extent) -> &[Cell<u64>; BITS_BYTES / 8] {
    // SAFETY: the owner gave the extent that much metadata, zeroed, aligned to 16, for this
    // strategy alone, which one thread runs at a time.
    unsafe { extent.metadata().cast().as_ref() }
}

/// Whether the extent has its block of this number back.
pub(super) fn is_free(extent: &Extent, index: usize) -> bool {
    words(extent).get(index / 64).is_some_and(|word| word.get() >> (index % 64) & 1 == 1)
}

/// The fewest neighbours that are marked together, and how many others are marked one by one before
/// neighbours are looked for again.
const SHORTEST_ROW: usize = 3;
const SINGLES: usize = 16;

/// How many blocks of a row are compared one by one, and then at once.
const ROW_STEP: usize = 8;

/// Where in its extent a block lies: a heap's extents are chunks, and aligned as such.
#[inline]
fn offset_of(block: NonNull<u8>) -> usize {
    block.addr().get() % CHUNK_BYTES
}

/// Whether two blocks lie in one extent.
#[inline]
pub(super) fn are_of_one_extent(one: NonNull<u8>, other: NonNull<u8>) -> bool {
    one.addr().get() / CHUNK_BYTES == other.addr().get() / CHUNK_BYTES
}

/// Marks a block of the extent as free, where `reciprocal` is that of its class. The caller counts
/// it.
#[inline]
pub(super) fn put_back(extent: &Extent, block: NonNull<u8>, reciprocal: u64) {
    let index = ((offset_of(block) as u64 * reciprocal) >> 32) as usize;
    let words = words(extent);
    // The mask changes no index of a block; it spares the test of the array's bound.
    let at = (index / 64) % words.len();
    let (before, bit) = (words[at].get(), 1 << (index % 64));
    if before & bit != 0 {
        freed_twice();
    }
    words[at].set(before | bit);
    let head = &extent.words[HEAD];
    if at < head.get() {
        head.set(at);
    }
}

/// Marks those of the leading blocks that lie in the extent, as the first does; how many those are.
/// The caller counts them.
///
/// Blocks that were handed out one after the other often come back so, or in the opposite order:
/// such a row is found by comparing addresses, and marked a word at a time. That is a third of
/// what each block takes on its own; to look for it at each block would add a third to that.
#[inline(never)]
pub(super) fn put_back_all(extent: &Extent, blocks: &[NonNull<u8>], class: usize) -> usize {
    let mut rest = blocks;
    while let Some(&first) = rest.first() {
        if !extent.contains(first) {
            break;
        }
        let row = row_of(rest, block_bytes(class));
        let marked = if row.length >= SHORTEST_ROW {
            mark_row(extent, first, row, class)
        } else {
            mark_singles(extent, rest.get(..SINGLES).unwrap_or(rest), class)
        };
        rest = rest.get(marked..).unwrap_or(&[]);
    }
    blocks.len() - rest.len()
}

/// Marks the leading blocks that lie in the extent, of which the first does; how many those are.
#[inline]
fn mark_singles(extent: &Extent, blocks: &[NonNull<u8>], class: usize) -> usize {
    let (words, reciprocal, start) = (words(extent), reciprocal_of(class), extent.start());
    let mut first_word = extent.words[HEAD].get();
    let mut count = 0;
    // Neighbours often share a word: it stays in a register until another is needed.
    let mut at = first_word % words.len();
    let mut bits = words[at].get();
    for &block in blocks {
        let offset = pointers::distance(start, block);
        if offset >= CHUNK_BYTES {
            break;
        }
        let index = ((offset as u64 * reciprocal) >> 32) as usize;
        let word = (index / 64) % words.len();
        if word != at {
            words[at].set(bits);
            at = word;
            bits = words[at].get();
            first_word = first_word.min(at);
        }
        let before = bits;
        bits |= 1 << (index % 64);
        if bits == before {
            freed_twice();
        }
        count += 1;
    }
    words[at].set(bits);
    extent.words[HEAD].set(first_word);
    count
}

/// Blocks that lie one after the other.
#[derive(Clone, Copy)]
struct Row {
    length: usize,
    is_rising: bool,
}

/// The row that the blocks begin with.
#[inline]
fn row_of(blocks: &[NonNull<u8>], bytes: usize) -> Row {
    let &[first, second, ..] = blocks else { return Row { length: 1, is_rising: true } };
    let step = second.addr().get().wrapping_sub(first.addr().get());
    let is_rising = step == bytes;
    if !is_rising && step != bytes.wrapping_neg() {
        return Row { length: 1, is_rising: true };
    }
    let at = |place: usize| first.addr().get().wrapping_add(place.wrapping_mul(step));
    let is_next =
        |place: usize| blocks.get(place).is_some_and(|block| block.addr().get() == at(place));
    let mut length = 2;
    while length < ROW_STEP && is_next(length) {
        length += 1;
    }
    // One that is so long is often much longer: the rest is looked at in groups, which is half the
    // instructions, for the compiler does two at once.
    while length >= ROW_STEP
        && let Some(group) = blocks.get(length..).and_then(<[_]>::first_chunk::<ROW_STEP>)
    {
        let mut expected = at(length);
        let mut differences = 0;
        for block in group {
            differences |= block.addr().get() ^ expected;
            expected = expected.wrapping_add(step);
        }
        if differences != 0 {
            break;
        }
        length += ROW_STEP;
    }
    if length >= ROW_STEP {
        while is_next(length) {
            length += 1;
        }
    }
    Row { length, is_rising }
}

/// Marks a row as far as it lies in the extent, as its first block does; how many blocks those are.
#[inline]
fn mark_row(extent: &Extent, first: NonNull<u8>, row: Row, class: usize) -> usize {
    let index = index_at(offset_of(first), class);
    let (lowest, length) = if row.is_rising {
        // The next chunk's first block may lie right behind this one's last.
        (index, row.length.min(blocks_in(extent, class).saturating_sub(index)).max(1))
    } else {
        let length = row.length.min(index + 1);
        (index + 1 - length, length)
    };
    if lowest + length > carved(extent) {
        freed_twice();
    }
    mark(words(extent), lowest, length);
    extent.words[HEAD].set(extent.words[HEAD].get().min(lowest / 64));
    length
}

/// Marks so many blocks from `lowest` on.
#[inline]
fn mark(words: &[Cell<u64>; BITS_BYTES / 8], lowest: usize, length: usize) {
    let (mut index, end) = (lowest, lowest + length);
    while index < end {
        // The mask changes no index of a block; it spares the test of the array's bound.
        let word = &words[(index / 64) % words.len()];
        let marked = (end - index).min(64 - index % 64);
        let bits = (u64::MAX >> (64 - marked)) << (index % 64);
        if word.get() & bits != 0 {
            freed_twice();
        }
        word.set(word.get() | bits);
        index += marked;
    }
}

/// Takes free blocks, those at the lowest addresses first, into the slots from the last one down;
/// how many.
pub(super) fn take(extent: &Extent, class: usize, slots: &mut [MaybeUninit<NonNull<u8>>]) -> usize {
    let taken = free(extent).min(slots.len());
    let bytes = block_bytes(class);
    let words = words(extent);
    let mut at = extent.words[HEAD].get() % words.len();
    let mut bits = words[at].get();
    let unfilled = slots.len() - taken;
    let mut rest = &mut slots[unfilled..];
    while !rest.is_empty() {
        while bits == 0 {
            words[at].set(0);
            at += 1;
            match words.get(at) {
                Some(word) => bits = word.get(),
                None => freed_twice(),
            }
        }
        // SAFETY: the word has blocks that were carved from the extent.
        let first = unsafe { pointers::forward(extent.start(), at * 64 * bytes) };
        // SAFETY: only blocks that were carved from the extent are marked.
        let block = |index: u32| unsafe { pointers::forward(first, index as usize * bytes) };
        let lowest = bits & bits.wrapping_neg();
        if bits.wrapping_add(lowest) & bits == 0 {
            // One row, as where nothing of the word is in use.
            let index = bits.trailing_zeros();
            let length = (64 - (bits.leading_zeros() + index) as usize).min(rest.len());
            let before = rest.len() - length;
            let (others, row) = core::mem::take(&mut rest).split_at_mut(before);
            // SAFETY: only blocks that were carved from the extent are marked.
            unsafe { fill_row(row, block(index), bytes) };
            rest = others;
            bits &= !(u64::MAX >> (64 - length) << index);
        } else {
            while bits != 0
                && let Some((slot, others)) = core::mem::take(&mut rest).split_last_mut()
            {
                slot.write(block(bits.trailing_zeros()));
                bits &= bits - 1;
                rest = others;
            }
        }
    }
    words[at].set(bits);
    extent.words[HEAD].set(at);
    count_taken(extent, taken);
    taken
}

/// Fills slots, from the last one down, with blocks that lie one after the other, from `lowest` on.
/// The compiler does it two at a time.
///
/// # Safety
/// So many blocks of so many bytes lie from `lowest` on in an extent.
#[inline]
unsafe fn fill_row(slots: &mut [MaybeUninit<NonNull<u8>>], lowest: NonNull<u8>, bytes: usize) {
    for (index, slot) in slots.iter_mut().rev().enumerate() {
        // SAFETY: by the contract that is a block of the extent.
        slot.write(unsafe { pointers::forward(lowest, index * bytes) });
    }
}

/// Takes blocks that were never handed out, as [`take`] does: extents are carved in order of
/// address, so that pages are touched only when they are needed.
pub(super) fn carve(
    extent: &Extent,
    class: usize,
    slots: &mut [MaybeUninit<NonNull<u8>>],
) -> usize {
    let (first, bytes) = (carved(extent), block_bytes(class));
    let blocks = (blocks_in(extent, class) - first).min(slots.len());
    count_carved(extent, blocks);
    let unfilled = slots.len() - blocks;
    // SAFETY: the blocks lie in the extent, as just computed.
    unsafe {
        let lowest = pointers::forward(extent.start(), first * bytes);
        fill_row(&mut slots[unfilled..], lowest, bytes);
    }
    blocks
}

/// Whether the bits are as many as the extent counts, and none is set that cannot be.
pub(super) fn are_right(extent: &Extent) -> bool {
    let (mut set, mut last) = (0, 0);
    for (at, word) in words(extent).iter().enumerate() {
        set += word.get().count_ones() as usize;
        if word.get() != 0 {
            last = at * 64 + 64 - word.get().leading_zeros() as usize;
            if at < extent.words[HEAD].get() {
                return false;
            }
        }
    }
    set == free(extent)
        && last <= carved(extent)
        && carved(extent) <= blocks_in(extent, class_of_extent(extent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reciprocal_divides_exactly() {
        for class in 0..CLASSES {
            for offset in 0..CHUNK_BYTES {
                assert_eq!(index_at(offset, class), offset / block_bytes(class));
            }
        }
    }

    #[test]
    fn a_row_ends_where_a_block_is_not_the_next() {
        const BYTES: usize = 48;
        let memory = [0_u8; 100 * BYTES];
        let start = NonNull::from(&memory).cast::<u8>();
        // SAFETY: there are 100 blocks.
        let at = |place: usize| unsafe { pointers::forward(start, place * BYTES) };
        for length in 2..5 * ROW_STEP {
            for behind in 0..2 * ROW_STEP {
                let places = (0..length).chain(length + 1..length + 1 + behind);
                let mut blocks: Vec<NonNull<u8>> = places.map(at).collect();
                let row = row_of(&blocks, BYTES);
                assert_eq!((row.length, row.is_rising), (length, true), "before {behind}");
                blocks[..length].reverse();
                let row = row_of(&blocks, BYTES);
                assert_eq!((row.length, row.is_rising), (length, false), "before {behind}");
            }
        }
    }

    #[test]
    fn slots_are_filled_from_the_last_one_down() {
        let memory = [0_u64; 100];
        let lowest = NonNull::from(&memory).cast::<u8>();
        for length in 0..100 {
            let mut slots = vec![MaybeUninit::uninit(); length];
            // SAFETY: 100 blocks of 8 bytes.
            unsafe { fill_row(&mut slots, lowest, 8) };
            for (index, slot) in slots.iter().rev().enumerate() {
                // SAFETY: it was just filled.
                let filled = unsafe { slot.assume_init() };
                assert_eq!(filled.addr().get(), lowest.addr().get() + 8 * index);
            }
        }
    }
}

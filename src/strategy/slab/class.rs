//! Size classes: 8 to 64 bytes in steps of 8, then four for each doubling up to 32 KiB.
//!
//! Above 64 bytes less than a fifth of a block is more than was asked for, on average of all sizes
//! a twelfth: a block is less than a quarter longer than the request, on average an eleventh. A
//! class is found by one load from a byte table up to 1 KiB, so that random sizes cost no
//! mispredicted branch.
#![forbid(unsafe_code)]

use core::alloc::Layout;

/// How many classes there are.
pub const CLASSES: usize = 44;

/// The largest block, in bytes.
pub const MAX_BLOCK_BYTES: usize = 32 << 10;

/// The largest size that is looked up in the table, in bytes.
const TABLE_BYTES: usize = 1024;

/// Classes in steps of 8 bytes.
const LINEAR: usize = 8;

/// The class by size in steps of 8 bytes; padded to a power of two, so that a mask keeps an index
/// inside.
///
/// A constant and no `static`: a program's crate sees its contents then, and where the size is
/// constant, so is the class, also without link-time optimisation.
const TABLE: &[u8; TABLE_BYTES / 4] = &{
    let mut table = [0; TABLE_BYTES / 4];
    let mut index = 1;
    while index <= TABLE_BYTES / 8 {
        table[index] = computed_class(index * 8) as u8;
        index += 1;
    }
    table
};

const BLOCK_BYTES: [u16; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let bytes = computed_bytes(class);
        // 32 KiB does not fit in 16 bits signed, but does unsigned.
        sizes[class] = bytes as u16;
        class += 1;
    }
    sizes
};

/// The class of a size of 1 to `MAX_BLOCK_BYTES`.
pub(crate) const fn computed_class(size: usize) -> usize {
    if size <= LINEAR * 8 {
        return size.div_ceil(8) - 1;
    }
    let exponent = (size - 1).ilog2() as usize;
    LINEAR + (exponent - 6) * 4 + (((size - 1) >> (exponent - 2)) & 3)
}

pub(super) const fn computed_bytes(class: usize) -> usize {
    if class < LINEAR {
        return (class + 1) * 8;
    }
    let (doubling, quarter) = ((class - LINEAR) / 4, (class - LINEAR) % 4);
    (16 << doubling) * (5 + quarter)
}

/// The length in bytes of the blocks of a class; 0 for a class that does not exist.
#[inline]
pub const fn block_bytes(class: usize) -> usize {
    if class < CLASSES { BLOCK_BYTES[class] as usize } else { 0 }
}

/// Whether [`small_class_of`] serves a layout: two comparisons, none where the layout is constant.
#[inline]
pub const fn is_small(layout: Layout) -> bool {
    layout.size() <= TABLE_BYTES && layout.align() <= 16
}

/// The class of a small layout, without a branch. Below [`CLASSES`].
///
/// Blocks lie at multiples of their length from a chunk's start, so a class gives the largest power
/// of two that divides its length as alignment: 8 always, 16 once the size is rounded up to 16.
#[inline]
pub fn small_class_of(layout: Layout) -> usize {
    debug_assert!(is_small(layout));
    let size = (layout.size() + layout.align() - 1) & !(layout.align() - 1);
    // The mask changes no index that a small layout has; it spares the test of the table's bound.
    let index = ((size + 7) >> 3) & (TABLE.len() - 1);
    TABLE[index] as usize
}

/// The class that serves a layout; `None` above `MAX_BLOCK_BYTES`. Below [`CLASSES`].
///
/// Beyond an alignment of 16 the next power of two serves.
#[inline]
pub fn class_of(layout: Layout) -> Option<usize> {
    if is_small(layout) {
        return Some(small_class_of(layout));
    }
    let size = match layout.align() {
        ..=16 => layout.size(),
        align => layout.size().max(align).next_power_of_two(),
    };
    (size <= MAX_BLOCK_BYTES).then(|| computed_class(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for size in 1..=MAX_BLOCK_BYTES {
            let class = class_of(Layout::from_size_align(size, 1).unwrap()).unwrap();
            assert!(class < CLASSES);
            assert!(block_bytes(class) >= size);
            assert!(class == 0 || block_bytes(class - 1) < size);
            if size > 64 {
                assert!((block_bytes(class) - size) * 5 < block_bytes(class));
            }
        }
        assert_eq!(block_bytes(CLASSES - 1), MAX_BLOCK_BYTES);
        assert_eq!(class_of(Layout::from_size_align(MAX_BLOCK_BYTES + 1, 1).unwrap()), None);
    }

    #[test]
    fn lengths_fit_and_divide_by_alignments() {
        for shift in 0..=12 {
            let align = 1_usize << shift;
            for size in 1..=MAX_BLOCK_BYTES {
                let layout = Layout::from_size_align(size, align).unwrap();
                let bytes = block_bytes(class_of(layout).unwrap());
                assert_eq!(bytes % align, 0);
                let longest = Layout::from_size_align(bytes, align).unwrap();
                assert_eq!(block_bytes(class_of(longest).unwrap()), bytes);
            }
        }
    }
}

//! `Bump`: a cursor that goes forward.
//!
//! The cheapest way to allocate, for objects that die together. Only the last block grows, shrinks
//! and is freed in place; the space of any other comes back when its whole extent is empty.
//!
//! ```text
//!   extent   │ page 0            │ page 1            │ page 2            │
//!            │▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓         │                   │
//!                                │              ▲    ▲
//!                                │◀── window ───│───▶│
//!                                            cursor limit
//! ```
//!
//! Inside a heap (`COUNTED`) it counts blocks by page, so that a closed heap keeps only the pages
//! in which something survived. The count of the page under the cursor is a register's worth beside
//! the cursor; it is added to the page's at the page's end, which is the only reason why the window
//! ends there. A block that lies in several pages counts in each; small ones never do.
//!
//! Costs: allocating is a load, an add, a compare and two stores; freeing a decrement. Not for:
//! long-lived heaps whose blocks die at different times; one survivor keeps its extent.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers::{self, block};
use crate::units::{MIN_BLOCK_BYTES, PAGE_BYTES, PAGE_SHIFT, round_up};

/// A cursor on a memory source, for use through the allocator trait. What is freed comes back when
/// it was the last block, or when its whole range is empty.
pub type BumpAllocator<M> = SourcedAllocator<Bump<false>, M>;

/// Counts kept by page: 16, a chunk's.
const PAGES: usize = crate::units::CHUNK_BYTES / PAGE_BYTES;

/// In a counted extent, blocks of at most so many bytes lie in one page, so that a free need not
/// ask. It costs at most an eighth of a page, and half of a block on average.
pub const SMALL_BYTES: usize = 512;

/// Which of an extent's words holds how often blocks were counted in more than one page.
const REPEATS: usize = 4;

/// A cursor that goes forward.
///
/// # Invariants
/// - `cursor <= limit`, both in the current extent or both null; the cursor is a multiple of 8.
/// - No block lies at or above the cursor in the current extent.
/// - Counted: no block of at most [`SMALL_BYTES`] lies in two pages.
/// - Counted: `limit` is a multiple of 4096, and `count` more blocks (fewer, if negative) lie in
///   the page below `limit` than that page's count says.
/// - Where the extent was zeroed, every byte from `clean_from` and from the cursor on is zero.
#[derive(Debug)]
pub struct Bump<const COUNTED: bool> {
    cursor: *mut u8,
    limit: *mut u8,
    count: isize,
    extent: *const Extent,
    clean_from: *mut u8,
    emptied: Option<NonNull<u8>>,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl<const COUNTED: bool> Send for Bump<COUNTED> {}

/// The length of a block of `size` bytes.
#[inline]
const fn length_of(size: usize) -> usize {
    // Layouts are at most isize::MAX long, so this cannot overflow.
    (size + (MIN_BLOCK_BYTES - 1)) & !(MIN_BLOCK_BYTES - 1)
}

/// Whether a block at such an address, or offset in its extent, lies in one page.
#[inline]
const fn lies_in_one_page(start: usize, length: usize) -> bool {
    (start & (PAGE_BYTES - 1)) + length <= PAGE_BYTES
}

/// The count of the extent's page that `offset` lies in, or an address that differs by whole
/// extents.
#[inline]
fn page_count(extent: &Extent, offset: usize) -> &Cell<i16> {
    let index = (offset >> PAGE_SHIFT) & (PAGES - 1);
    // SAFETY: the first four words are 32 bytes, 16 counts; cells of plain numbers may be viewed as
    // smaller ones.
    let counts: &[Cell<i16>; PAGES] = unsafe { &*extent.words.as_ptr().cast() };
    &counts[index]
}

fn add(cell: &Cell<i16>, change: i16) {
    cell.set(cell.get().wrapping_add(change));
}

impl<const COUNTED: bool> Bump<COUNTED> {
    /// Cuts a block from the window; `None` where it does not fit. The fast path.
    #[inline]
    pub fn allocate_in_window(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let address = self.cursor.addr();
        let start = if layout.align() <= MIN_BLOCK_BYTES {
            // By the invariant the cursor is aligned already.
            address
        } else {
            (address + (layout.align() - 1)) & !(layout.align() - 1)
        };
        let end = start.wrapping_add(length_of(layout.size()));
        if end > self.limit.addr() {
            return None;
        }
        let block = self.cursor.wrapping_add(start - address);
        self.cursor = self.cursor.wrapping_add(end - address);
        if COUNTED {
            self.count += 1;
        }
        // SAFETY: `end` is above zero, so a limit that is not below it is not null, and the window
        // that it ends, in which the block lies, is part of an extent.
        Some(unsafe { NonNull::new_unchecked(block) })
    }

    /// Whether a block ends at the cursor.
    #[inline]
    pub fn ends_at_cursor(&self, block: NonNull<u8>, layout: Layout) -> bool {
        block.addr().get() + length_of(layout.size()) == self.cursor.addr()
    }

    /// Frees the block that ends at the cursor by moving that back. False, and nothing is done,
    /// where the window stands a page further.
    #[inline]
    pub fn take_back(&mut self, block: NonNull<u8>) -> bool {
        if block.addr().get() < self.limit.addr().wrapping_sub(PAGE_BYTES) {
            return false;
        }
        self.clean_from = later(self.clean_from, self.cursor);
        self.cursor = block.as_ptr();
        self.count -= 1;
        true
    }

    /// Frees a small block that does not end at the cursor; whether a page of the extent now counts
    /// none. The fast path.
    ///
    /// # Safety
    /// As [`Strategy::deallocate`]; the block is of at most [`SMALL_BYTES`].
    #[inline]
    pub unsafe fn free_small(&mut self, extent: &Extent, block: NonNull<u8>) -> bool {
        // A counted extent is a chunk, aligned: the address tells the page as the offset does.
        let count = page_count(extent, block.addr().get());
        add(count, -1);
        count.get() == 0
    }

    /// Frees a block; whether a page of the extent now counts none.
    ///
    /// # Safety
    /// As [`Strategy::deallocate`].
    pub unsafe fn free_counted(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        layout: Layout,
    ) -> bool {
        let (start, length) = (block.addr().get(), length_of(layout.size()));
        if self.ends_at_cursor(block, layout) && self.take_back(block) {
            return false;
        }
        if lies_in_one_page(start, length) {
            // SAFETY: the caller's contract; what matters of a small block is that it lies in one
            // page.
            return unsafe { self.free_small(extent, block) };
        }
        let offset = pointers::distance(extent.start(), block);
        uncover(extent, offset, offset, offset + length)
    }

    /// Whether an extent, a page of which counts none, holds no block; it is then the next that
    /// [`Strategy::next_emptied`] gives.
    pub fn is_extent_empty(&mut self, extent: &Extent) -> bool {
        let is_empty = self.live_blocks(extent) == 0;
        if is_empty {
            self.emptied = Some(extent.start());
        }
        is_empty
    }

    fn is_current(&self, extent: &Extent) -> bool {
        core::ptr::eq(self.extent, extent)
    }

    fn current(&self) -> Option<&Extent> {
        // SAFETY: the record is valid until `remove_extent`, which clears the pointer.
        unsafe { self.extent.as_ref() }
    }

    /// Adds the window's count to its page's.
    fn put_back_count(&mut self) {
        if let Some(extent) = self.current() {
            let page_offset = self.limit.addr() - 1 - extent.start().addr().get();
            add(page_count(extent, page_offset), self.count as i16);
        }
        self.count = 0;
    }

    /// Where the window ends for a cursor at `offset` whose last byte used is `offset - 1`.
    fn limit_offset(extent: &Extent, offset: usize) -> usize {
        if COUNTED {
            // The page of the last byte used: the next one is entered by whoever needs it.
            let end = round_up(offset.max(1), PAGE_BYTES).unwrap_or(extent.length());
            end.min(extent.length())
        } else {
            extent.length()
        }
    }

    fn set_cursor(&mut self, extent: &Extent, offset: usize) {
        let start = extent.start().as_ptr();
        self.cursor = start.wrapping_add(offset);
        self.limit = start.wrapping_add(Self::limit_offset(extent, offset));
    }

    /// Cuts a block from the extent's next page, or pages, which the window then ends in; `None`
    /// where it does not fit the extent, and where blocks are not counted.
    #[cold]
    #[inline(never)]
    pub fn allocate_past_window(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !COUNTED {
            return None;
        }
        self.put_back_count();
        // SAFETY: the record is valid until `remove_extent`, which clears the pointer.
        let extent: &Extent = unsafe { self.extent.as_ref() }?;
        if is_empty(extent) {
            self.clean_from = later(self.clean_from, self.cursor);
            self.set_cursor(extent, 0);
        }
        let base = extent.start().addr().get();
        let length = length_of(layout.size());
        let mut start = round_up(self.cursor.addr(), layout.align())? - base;
        if would_be_small_in_two_pages(start, length) {
            start = round_up(start, PAGE_BYTES.max(layout.align()))?;
        }
        let end = start.checked_add(length)?;
        if end > extent.length() {
            return None;
        }
        cover(extent, start, start, end);
        self.set_cursor(extent, end);
        NonNull::new(extent.start().as_ptr().wrapping_add(start))
    }

    /// Whether the block `start..start + length` is the last one of the current extent.
    fn is_last(&self, extent: &Extent, start: NonNull<u8>, length: usize) -> bool {
        self.is_current(extent) && start.addr().get() + length == self.cursor.addr()
    }
}

/// Whether no block may be so, see [`SMALL_BYTES`].
const fn would_be_small_in_two_pages(start: usize, length: usize) -> bool {
    length <= SMALL_BYTES && !lies_in_one_page(start, length)
}

fn later(first: *mut u8, second: *mut u8) -> *mut u8 {
    if first.addr() > second.addr() { first } else { second }
}

/// Whether every page of the extent counts none.
fn is_empty(extent: &Extent) -> bool {
    extent.words.iter().take(REPEATS).all(|word| word.get() == 0)
}

/// Counts a block that starts at `start` in the pages of `from..end` (`from` is `start` for a new
/// one).
fn cover(extent: &Extent, start: usize, from: usize, end: usize) {
    let (first, last) = (from >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT);
    for page in first..=last {
        add(page_count(extent, page << PAGE_SHIFT), 1);
    }
    let repeats = last - first + usize::from(first != start >> PAGE_SHIFT);
    extent.words[REPEATS].set(extent.words[REPEATS].get() + repeats);
}

/// Counts a block that starts at `start` off the pages of `from..end`. Whether one counts none now.
#[cold]
#[inline(never)]
fn uncover(extent: &Extent, start: usize, from: usize, end: usize) -> bool {
    let (first, last) = (from >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT);
    let mut is_any_empty = false;
    for page in first..=last {
        let count = page_count(extent, page << PAGE_SHIFT);
        add(count, -1);
        is_any_empty |= count.get() == 0;
    }
    let repeats = last - first + usize::from(first != start >> PAGE_SHIFT);
    extent.words[REPEATS].set(extent.words[REPEATS].get() - repeats);
    is_any_empty
}

// SAFETY: blocks lie between the extent's start and the cursor, which only goes back over a freed
// last block or over an extent without blocks; lengths are rounded to 8 by a monotonic function
// that maps its values to themselves; only `words` are written beside the blocks.
unsafe impl<const COUNTED: bool> Strategy for Bump<COUNTED> {
    type Settings = ();

    const NAME: &'static str = "bump";
    const COUNTS_BLOCKS: bool = COUNTED;
    const EXTENT_ALIGN: usize = if COUNTED { crate::units::CHUNK_BYTES } else { 16 };

    const DEFAULT: Self = Self {
        cursor: core::ptr::null_mut(),
        limit: core::ptr::null_mut(),
        count: 0,
        extent: core::ptr::null(),
        clean_from: core::ptr::null_mut(),
        emptied: None,
    };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let padding = if layout.align() > Self::EXTENT_ALIGN { layout.align() } else { 0 };
        self.block_length(layout).ok()?.checked_add(padding)
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match length_of(layout.size()) {
            // No block is longer than a layout can say: the length has to fit one itself.
            length if length <= isize::MAX.unsigned_abs() => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let start = match self.allocate_in_window(layout) {
            Some(start) => start,
            None => self.allocate_past_window(layout)?,
        };
        Some(block(start, length_of(layout.size())))
    }

    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let block = self.allocate(layout)?;
        let start = block.cast::<u8>();
        let is_zero = self.current().is_some_and(Extent::is_zeroed)
            && start.addr().get() >= self.clean_from.addr();
        if !is_zero {
            // SAFETY: the block was just allocated.
            unsafe { start.write_bytes(0, block.len()) };
        }
        Some(block)
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        if COUNTED {
            // SAFETY: the caller's contract.
            unsafe { self.free_counted(extent, block, layout) };
        } else if self.is_last(extent, block, length_of(layout.size())) {
            self.clean_from = later(self.clean_from, self.cursor);
            self.cursor = block.as_ptr();
        }
    }

    #[inline]
    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        // SAFETY: the caller's contract.
        let is_page_empty = unsafe { self.free_counted(extent, block, layout) };
        is_page_empty && self.is_extent_empty(extent)
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.emptied.take()
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        if !COUNTED {
            return 0;
        }
        if self.is_current(extent) {
            self.put_back_count();
        }
        let pages = (0..PAGES).map(|page| i64::from(page_count(extent, page << PAGE_SHIFT).get()));
        let blocks = pages.sum::<i64>() - extent.words[REPEATS].get() as i64;
        u32::try_from(blocks).unwrap_or(0)
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        if self.is_current(extent) {
            self.cursor.addr() - extent.start().addr().get()
        } else {
            extent.length()
        }
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (old_length, length) = (length_of(old.size()), length_of(new.size()));
        if !self.is_last(extent, block, old_length) {
            return None;
        }
        let start = pointers::distance(extent.start(), block);
        let (old_end, end) = (start + old_length, start.checked_add(length)?);
        if end > extent.length() || (COUNTED && would_be_small_in_two_pages(start, length)) {
            return None;
        }
        if COUNTED {
            // The window may stand a page further, where a block was freed.
            self.put_back_count();
        }
        if COUNTED && end > Self::limit_offset(extent, old_end) {
            cover(extent, start, round_up(old_end, PAGE_BYTES)?, end);
        }
        self.set_cursor(extent, end);
        Some(length)
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (old_length, length) = (length_of(old.size()), length_of(new.size()));
        let start = pointers::distance(extent.start(), block);
        let (end, old_end) = (start + length, start + old_length);
        if COUNTED && would_be_small_in_two_pages(start, length) {
            return None;
        }
        let leaves_pages = (end - 1) >> PAGE_SHIFT != (old_end - 1) >> PAGE_SHIFT;
        if COUNTED && leaves_pages {
            uncover(extent, start, round_up(end, PAGE_BYTES)?, old_end);
        } else if self.is_last(extent, block, old_length) {
            if COUNTED {
                // The window may stand a page further, where a block was freed: what is counted
                // there stays there.
                self.put_back_count();
            }
            self.clean_from = later(self.clean_from, self.cursor);
            self.set_cursor(extent, end);
        }
        Some(length)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        if COUNTED {
            self.put_back_count();
        }
        self.extent = extent;
        self.set_cursor(extent, 0);
        self.clean_from = self.cursor;
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        if self.is_current(extent) {
            *self = Self::new(());
        }
        for word in &extent.words {
            word.set(0);
        }
    }

    fn rewind(&mut self, extent: &Extent) -> bool {
        if !COUNTED || !self.is_current(extent) {
            return false;
        }
        self.put_back_count();
        let is_empty = is_empty(extent);
        if is_empty {
            self.clean_from = later(self.clean_from, self.cursor);
            self.set_cursor(extent, 0);
        }
        is_empty
    }

    unsafe fn became_empty(&mut self, extent: &Extent) {
        if !COUNTED && self.is_current(extent) {
            self.clean_from = later(self.clean_from, self.cursor);
            self.set_cursor(extent, 0);
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        if !COUNTED {
            return;
        }
        for page in 0..extent.length() >> PAGE_SHIFT {
            let offset = page << PAGE_SHIFT;
            let is_window = self.is_current(extent)
                && self.limit.addr() == extent.start().addr().get() + offset + PAGE_BYTES;
            let uncounted = if is_window { self.count } else { 0 };
            if isize::from(page_count(extent, offset).get()) + uncounted == 0 {
                // SAFETY: the page lies in the extent.
                let start = unsafe { pointers::forward(extent.start(), offset) };
                visit(block(start, PAGE_BYTES));
            }
        }
    }

    fn verify(&self) {
        let is_ordered = self.cursor.addr() <= self.limit.addr();
        let is_aligned = self.cursor.addr().is_multiple_of(MIN_BLOCK_BYTES);
        let is_inside = self.current().is_none_or(|extent| {
            let start = extent.start().addr().get();
            self.cursor.addr() >= start && self.limit.addr() <= start + extent.length()
        });
        let is_in_one_page =
            !COUNTED || self.limit.addr().wrapping_sub(self.cursor.addr()) <= PAGE_BYTES;
        if !(is_ordered && is_aligned && is_inside && is_in_one_page) {
            crate::sys::abort_with(&["the bump strategy is corrupted: its cursor is astray"]);
        }
    }
}

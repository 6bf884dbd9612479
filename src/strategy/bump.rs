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
//! Inside a heap (`COUNTED`) it counts by page, blocks and their bytes (`pages`), so that a closed
//! heap keeps only the pages in which something survived. Of the page under the cursor, blocks are
//! counted in the cursor's own word, and bytes are what the cursor went over; both are added to the
//! page's number at its end, which is the only reason why the window ends there. Small blocks lie
//! in one page, so that a free subtracts once.
//!
//! Costs: allocating is a load, an add, a compare and a store; freeing a subtraction. Not for:
//! long-lived heaps whose blocks die at different times; one survivor keeps its extent.

mod cursor;
mod pages;
#[cfg(test)]
mod tests;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::cursor::{Cursor, Limit};
use self::pages::{blocks_in, bytes_in, number_of};
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers::{self, block};
use crate::units::{MIN_BLOCK_BYTES, PAGE_BYTES, PAGE_SHIFT, round_up};

/// A cursor on a memory source, for use through the allocator trait. What is freed comes back when
/// it was the last block, or when its whole range is empty.
pub type BumpAllocator<M> = SourcedAllocator<Bump<false>, M>;

/// In a counted extent, blocks of at most so many bytes lie in one page, so that a free need not
/// ask. It costs less than a block at a page's end, and half of one on average.
pub const SMALL_BYTES: usize = 1024;

/// A cursor that goes forward.
///
/// # Invariants
/// - The cursor is within the limit, both in the current extent, or it is at 0 and there is no
///   limit; it is a multiple of 8.
/// - No block lies at or above the cursor in the current extent.
/// - Counted: no block of at most [`SMALL_BYTES`] lies in two pages.
/// - Counted: the limit is a multiple of 4096. In the page below it lie as many more blocks as the
///   cursor counts than that page's number says, and as many more bytes of blocks as the cursor
///   stands above `counted_to`, less `padding_bytes`.
/// - Where the extent was zeroed, every byte from `clean_from` and from the cursor on is zero.
#[derive(Debug)]
pub struct Bump<const COUNTED: bool> {
    cursor: Cursor<COUNTED>,
    limit: Limit<COUNTED>,
    padding_bytes: usize,
    counted_to: usize,
    extent: *const Extent,
    clean_from: usize,
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

/// Whether no block may be so, see [`SMALL_BYTES`].
const fn would_be_small_in_two_pages(start: usize, length: usize) -> bool {
    length <= SMALL_BYTES && !lies_in_one_page(start, length)
}

impl<const COUNTED: bool> Bump<COUNTED> {
    /// Cuts a block from the window; `None` where it does not fit. The fast path.
    #[inline]
    pub fn allocate_in_window(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if COUNTED && (layout.size() > PAGE_BYTES || layout.align() > PAGE_BYTES) {
            return None; // It does not fit, and the sums below must not overflow.
        }
        debug_assert!(layout.size() != 0, "a block without bytes would be counted for ever");
        let address = self.cursor.address();
        let padding = if layout.align() <= MIN_BLOCK_BYTES {
            0 // By the invariant the cursor is aligned already.
        } else {
            address.wrapping_neg() & (layout.align() - 1)
        };
        let before = self.cursor;
        let cursor = before.after_block(padding + length_of(layout.size()));
        if !cursor.is_within(self.limit) {
            return None;
        }
        self.cursor = cursor;
        if COUNTED && layout.align() > MIN_BLOCK_BYTES {
            self.padding_bytes += padding;
        }
        // SAFETY: what is within a limit lies in the extent, which is not at address 0, and whose
        // provenance was exposed when it was added.
        Some(unsafe { pointers::forward(before.pointer(), padding) })
    }

    /// Whether a block ends at the cursor.
    #[inline]
    pub fn ends_at_cursor(&self, block: NonNull<u8>, layout: Layout) -> bool {
        block.addr().get() + length_of(layout.size()) == self.cursor.address()
    }

    /// Frees the block that ends at the cursor by moving that back. False, and nothing is done,
    /// where the window stands a page further.
    #[inline]
    pub fn take_back(&mut self, block: NonNull<u8>, layout: Layout) -> bool {
        let limit = self.limit.address();
        if block.addr().get() < limit.wrapping_sub(PAGE_BYTES) {
            return false;
        }
        if self.clean_from < limit {
            // What lies between cursor and limit may be clean: that is not told apart.
            self.clean_from = limit;
        }
        self.cursor = self.cursor.before_block(length_of(layout.size()));
        true
    }

    /// Goes back to the start of its extent, if that holds no block: where the one that was just
    /// [taken back](Self::take_back) was its last.
    #[inline]
    pub fn rewind_where_idle(&mut self, extent: &Extent, taken_back: NonNull<u8>) {
        let place = taken_back.addr().get();
        // Where each block is taken back no other was freed in its page: nothing to do, as at the
        // extent's start.
        if taken_back != extent.start() && pages::page(extent, place).get() != 0 {
            self.rewind_where_page_is_idle(extent, place);
        }
    }

    #[cold]
    #[inline(never)]
    fn rewind_where_page_is_idle(&mut self, extent: &Extent, place: usize) {
        if self.number_with_window(extent, place) == 0 {
            self.rewind(extent);
        }
    }

    /// Frees a small block that does not end at the cursor; whether a page of the extent now counts
    /// none. The fast path.
    ///
    /// # Safety
    /// As [`Strategy::deallocate`]; the block is of at most [`SMALL_BYTES`].
    #[inline]
    pub unsafe fn free_small(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        layout: Layout,
    ) -> bool {
        let page = pages::page(extent, block.addr().get());
        let number = page.get().wrapping_sub(number_of(1, length_of(layout.size())));
        page.set(number);
        number == 0
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
        if self.ends_at_cursor(block, layout) && self.take_back(block, layout) {
            return false;
        }
        pages::add(extent, start, number_of(1, 0).wrapping_neg());
        pages::subtract_bytes(extent, start, start + length)
    }

    /// Whether an extent, a page of which counts none, holds no block; it is then the next that
    /// [`Strategy::next_emptied`] gives.
    pub fn is_extent_empty(&mut self, extent: &Extent) -> bool {
        self.put_back_where_current(extent);
        let is_empty = pages::is_empty(extent);
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

    /// What lies in the page below the limit beside what its number says.
    fn uncounted(&self) -> u32 {
        let passed = self.cursor.address().wrapping_sub(self.counted_to);
        number_of(self.cursor.count(), passed.wrapping_sub(self.padding_bytes))
    }

    /// The number of the extent's page that a place lies in, exact also where the window is.
    fn number_with_window(&self, extent: &Extent, place: usize) -> u32 {
        let number = pages::page(extent, place).get();
        let is_window = self.is_current(extent)
            && core::ptr::eq(
                pages::page(extent, place),
                pages::page(extent, self.limit.address().wrapping_sub(1)),
            );
        if is_window { number.wrapping_add(self.uncounted()) } else { number }
    }

    /// Adds what the window counted to its page's number; that.
    fn put_back_count(&mut self) -> u32 {
        let number = self
            .current()
            .map_or(0, |extent| pages::add(extent, self.limit.address() - 1, self.uncounted()));
        self.count_from(self.cursor.address());
        number
    }

    fn put_back_where_current(&mut self, extent: &Extent) {
        if self.is_current(extent) {
            self.put_back_count();
        }
    }

    fn count_from(&mut self, address: usize) {
        self.cursor = Cursor::at(address);
        self.counted_to = address;
        self.padding_bytes = 0;
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
        let start = extent.start().addr().get();
        self.count_from(start + offset);
        self.limit = Limit::at(start + Self::limit_offset(extent, offset));
    }

    /// Remembers that blocks were below the cursor, which is about to go back.
    fn note_clean(&mut self) {
        self.clean_from = self.clean_from.max(self.cursor.address());
    }

    /// Cuts a small block, for which the window has no room, from the start of the extent's next
    /// page, which the window then is. `None`, and nothing is done, where there is no such page, or
    /// no block in the window's: [`allocate_past_window`](Self::allocate_past_window) knows more.
    ///
    /// Nothing of it waits for the cursor, which is what a row of allocations waits for.
    #[inline]
    pub fn allocate_in_next_page(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        debug_assert!(COUNTED && layout.size() <= SMALL_BYTES && layout.align() <= PAGE_BYTES);
        // SAFETY: the record is valid until `remove_extent`, which clears the pointer.
        let extent: &Extent = unsafe { self.extent.as_ref() }?;
        let next = self.limit.address();
        let number = pages::page(extent, next - 1).get().wrapping_add(self.uncounted());
        if number == 0 || next >= extent.start().addr().get() + extent.length() {
            return None;
        }
        pages::page(extent, next - 1).set(number);
        pages::add(extent, next, number_of(1, length_of(layout.size())));
        self.count_from(next + length_of(layout.size()));
        self.limit = Limit::at(next + PAGE_BYTES);
        // SAFETY: the page lies in the extent, which was exposed when it was added.
        Some(unsafe { pointers::of_exposed::<0>(next as u64) })
    }

    /// Cuts a block from the extent's next page, or pages, which the window then ends in; `None`
    /// where it does not fit the extent, and where blocks are not counted.
    #[cold]
    #[inline(never)]
    pub fn allocate_past_window(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if !COUNTED {
            return None;
        }
        let number = self.put_back_count();
        // SAFETY: the record is valid until `remove_extent`, which clears the pointer.
        let extent: &Extent = unsafe { self.extent.as_ref() }?;
        if number == 0 && pages::is_empty(extent) {
            self.note_clean();
            self.set_cursor(extent, 0);
        }
        let (base, length) = (extent.start().addr().get(), length_of(layout.size()));
        let mut start = round_up(self.cursor.address(), layout.align())? - base;
        if would_be_small_in_two_pages(start, length) {
            start = round_up(start, PAGE_BYTES.max(layout.align()))?;
        }
        let end = start.checked_add(length)?;
        if end > extent.length() {
            return None;
        }
        pages::add(extent, start, number_of(1, 0));
        pages::add_bytes(extent, start, end);
        self.set_cursor(extent, end);
        // SAFETY: the block lies in the extent, which was exposed when it was added.
        Some(unsafe { pointers::of_exposed::<0>((base + start) as u64) })
    }

    /// Whether the block `start..start + length` is the last one of the current extent.
    fn is_last(&self, extent: &Extent, start: NonNull<u8>, length: usize) -> bool {
        self.is_current(extent) && start.addr().get() + length == self.cursor.address()
    }
}

// SAFETY: blocks lie between the extent's start and the cursor, which only goes back over a freed
// last block or over an extent without blocks; lengths are rounded to 8 by a monotonic function
// that maps its values to themselves; only `words` are written beside the blocks, and the place of
// the metadata, which bump does not ask for.
unsafe impl<const COUNTED: bool> Strategy for Bump<COUNTED> {
    type Settings = ();

    const NAME: &'static str = "bump";
    const COUNTS_BLOCKS: bool = COUNTED;
    const EXTENT_ALIGN: usize = if COUNTED { crate::units::CHUNK_BYTES } else { 16 };

    const DEFAULT: Self = Self {
        cursor: Cursor::at(0),
        limit: Limit::NONE,
        padding_bytes: 0,
        counted_to: 0,
        extent: core::ptr::null(),
        clean_from: 0,
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
        let is_zero =
            self.current().is_some_and(Extent::is_zeroed) && start.addr().get() >= self.clean_from;
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
            self.note_clean();
            self.count_from(block.addr().get());
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
        self.put_back_where_current(extent);
        pages::all(extent).map(blocks_in).sum()
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        if !COUNTED {
            return extent.length();
        }
        let place = |page: usize| page << PAGE_SHIFT;
        (0..pages::PAGES).map(|page| bytes_in(self.number_with_window(extent, place(page)))).sum()
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
            pages::add_bytes(extent, old_end, end);
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
        let is_last = self.is_last(extent, block, old_length);
        if COUNTED {
            // The window may stand a page further, where a block was freed: what is counted there
            // stays there.
            self.put_back_where_current(extent);
            pages::subtract_bytes(extent, end, old_end);
        }
        if is_last {
            self.note_clean();
            self.set_cursor(extent, end);
        }
        Some(length)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        pointers::expose(extent.start());
        if COUNTED {
            self.put_back_count();
            pages::clear(extent);
        }
        self.extent = extent;
        self.set_cursor(extent, 0);
        self.clean_from = self.cursor.address();
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        if self.is_current(extent) {
            *self = Self::new(());
        }
    }

    fn rewind(&mut self, extent: &Extent) -> bool {
        if !COUNTED || !self.is_current(extent) {
            return false;
        }
        self.put_back_count();
        let is_empty = pages::is_empty(extent);
        if is_empty {
            self.note_clean();
            self.set_cursor(extent, 0);
        }
        is_empty
    }

    unsafe fn became_empty(&mut self, extent: &Extent) {
        if !COUNTED && self.is_current(extent) {
            self.note_clean();
            self.set_cursor(extent, 0);
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        if !COUNTED {
            return;
        }
        for page in 0..extent.length() >> PAGE_SHIFT {
            let offset = page << PAGE_SHIFT;
            if self.number_with_window(extent, offset) == 0 {
                // SAFETY: the page lies in the extent.
                let start = unsafe { pointers::forward(extent.start(), offset) };
                visit(block(start, PAGE_BYTES));
            }
        }
    }

    fn verify(&self) {
        let Some(extent) = self.current() else { return };
        let (cursor, start) = (self.cursor.address(), extent.start().addr().get());
        let limit = self.limit.address();
        let is_inside = (start..=limit).contains(&cursor) && limit <= start + extent.length();
        let is_aligned = cursor.is_multiple_of(MIN_BLOCK_BYTES);
        let is_in_one_page = !COUNTED || limit - cursor <= PAGE_BYTES;
        // A page has at most its own bytes, and at least 8 for each block.
        let is_counted = |page: usize| {
            let number = self.number_with_window(extent, page << PAGE_SHIFT);
            bytes_in(number) <= PAGE_BYTES && blocks_in(number) as usize <= PAGE_BYTES / 8
        };
        if !(is_inside && is_aligned && is_in_one_page) {
            crate::sys::abort_with(&["the bump strategy is corrupted: its cursor is astray"]);
        }
        if COUNTED && !(0..pages::PAGES).all(is_counted) {
            crate::sys::abort_with(&["the bump strategy is corrupted: a page's counts"]);
        }
    }
}

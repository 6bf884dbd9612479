//! A memory source for tests: bounded, and able to fail.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use allocator_api2::alloc::AllocError;
use heapswitch::allocator::{MemoryRange, MemorySource};

/// Takes from the system's allocator, or from another source, up to a limit, and checks what is
/// given back. Clones share their state, so that a test can watch the source that an allocator
/// owns.
#[derive(Clone)]
pub(crate) struct TestSource(Rc<State>);

struct State {
    left_bytes: Cell<usize>,
    /// Takes until one fails; 0 never.
    until_failure: Cell<usize>,
    is_zeroed: Cell<bool>,
    inner: Cell<Option<&'static dyn MemorySource>>,
    taken: RefCell<Vec<(MemoryRange, Layout)>>,
}

/// What the ranges are multiples of.
const GRANULE: usize = 64;

impl fmt::Debug for TestSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TestSource").field("ranges", &self.ranges()).finish()
    }
}

impl TestSource {
    /// A source of up to `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Rc::new(State {
            left_bytes: Cell::new(bytes),
            until_failure: Cell::new(0),
            is_zeroed: Cell::new(false),
            inner: Cell::new(None),
            taken: RefCell::new(vec![]),
        }))
    }

    /// As this one, but its ranges are zeroed.
    pub(crate) fn zeroed(self) -> Self {
        self.0.is_zeroed.set(true);
        self
    }

    /// As this one, of so many times as much: for who serves each request with so much more.
    pub(crate) fn times(self, factor: usize) -> Self {
        self.0.left_bytes.set(self.0.left_bytes.get() * factor);
        self
    }

    /// As this one, but its ranges are another source's, and it allocates nothing from here on: so
    /// it may serve a heap that is current.
    pub(crate) fn on(self, inner: &'static dyn MemorySource) -> Self {
        self.0.taken.borrow_mut().reserve_exact(self.0.left_bytes.get() / inner.granule());
        self.0.inner.set(Some(inner));
        self
    }

    /// The `nth` take from now on fails, and every one until this is called with 0.
    pub(crate) fn fail_from(&self, nth: usize) {
        self.0.until_failure.set(nth);
    }

    /// Ranges that are taken.
    pub(crate) fn ranges(&self) -> usize {
        self.0.taken.borrow().len()
    }

    /// Bytes in ranges that are taken.
    pub(crate) fn taken_bytes(&self) -> usize {
        self.0.taken.borrow().iter().map(|(range, _)| range.length).sum()
    }

    pub(crate) fn assert_all_returned(&self) {
        assert!(self.0.taken.borrow().is_empty(), "ranges were not given back");
    }
}

// SAFETY: ranges come from the system's allocator, as long and aligned as asked, zeroed where they
// say so and filled with dirt where not; the list of them lives in the tests' own heap, not in any
// allocator under test.
unsafe impl MemorySource for TestSource {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let until = self.0.until_failure.get();
        if until == 1 {
            return Err(AllocError);
        }
        self.0.until_failure.set(until.saturating_sub(1));
        let layout = Layout::from_size_align(request.size(), request.align().max(GRANULE))
            .map(|layout| layout.pad_to_align())
            .map_err(|_| AllocError)?;
        let left = self.0.left_bytes.get().checked_sub(layout.size()).ok_or(AllocError)?;
        if let Some(inner) = self.0.inner.get() {
            let range = inner.take(request)?;
            self.0.left_bytes.set(self.0.left_bytes.get() - range.length);
            self.0.taken.borrow_mut().push((range, layout));
            return Ok(range);
        }
        let is_zeroed = self.0.is_zeroed.get();
        // SAFETY: the size is not zero, and the dirt stays within the range.
        let start = unsafe {
            let start = System.alloc_zeroed(layout);
            if !is_zeroed && !start.is_null() {
                start.write_bytes(0xd1, layout.size().min(1 << 20));
            }
            start
        };
        let start = NonNull::new(start).ok_or(AllocError)?;
        let range = MemoryRange { start, length: layout.size(), is_zeroed };
        self.0.left_bytes.set(left);
        self.0.taken.borrow_mut().push((range, layout));
        Ok(range)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        let mut taken = self.0.taken.borrow_mut();
        let index = taken
            .iter()
            .position(|(known, _)| known.start == range.start && known.length == range.length)
            .expect("a range is given back that was not taken");
        let (known, layout) = taken.swap_remove(index);
        self.0.left_bytes.set(self.0.left_bytes.get() + known.length);
        if let Some(inner) = self.0.inner.get() {
            // SAFETY: taken above from that source, and no longer listed.
            return unsafe { inner.give_back(known) };
        }
        // SAFETY: allocated above with that layout, and no longer listed.
        unsafe { System.dealloc(known.start.as_ptr(), layout) };
    }

    fn granule(&self) -> usize {
        self.0.inner.get().map_or(GRANULE, MemorySource::granule)
    }
}

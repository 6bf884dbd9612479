//! Stacks for coroutines, kept for the next ones.
//!
//! A stack is two mappings: a guard page and the stack proper. Mapping and unmapping one costs two
//! to three system calls and, at its first use, a page fault for each page touched; a pool keeps
//! those that come back, up to a bound. The bound and the number of coroutines alive together count
//! towards the system's limit on mappings, 65,530 by default, which is reached at about 32,000
//! stacks.
//!
//! A kept stack keeps the pages that its coroutines touched. Nothing is allocated: what is noted of
//! the stacks that wait lies in those stacks.

use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use corosensei::stack::{DefaultStack, Stack, StackPointer};

use super::spares::{Spare, Spares};
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::poison::unpoison;

/// More than any address space has; with pages around it, the length does not overflow.
const MAX_STACK_BYTES: usize = isize::MAX as usize >> 1;

/// A bounded pool of stacks of one size, shared by all threads.
///
/// ```
/// use heapswitch::{Coroutine, Heap, StackPool};
///
/// static STACKS: StackPool = StackPool::new(64 << 10, 100);
///
/// let stack = STACKS.take()?;
/// let mut coroutine = Coroutine::<_, (), _>::with_stack(Heap::new()?, stack, |_, ()| "returned");
/// assert_eq!(coroutine.resume(())?.as_return(), Some("returned"));
/// drop(coroutine);
/// assert_eq!(STACKS.waiting(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StackPool {
    stack_bytes: usize,
    spares: Spares<Node>,
    fork: ForkEntry,
}

/// At the base of a stack that waits.
struct Node {
    stack: DefaultStack,
    next: Cell<Option<NonNull<Node>>>,
}

impl Spare for Node {
    #[cfg(heapswitch_check)]
    const NAME: &'static str = "stack pool";

    fn next(&self) -> &Cell<Option<NonNull<Self>>> {
        &self.next
    }

    #[cfg(heapswitch_check)]
    fn is_idle(&self) -> bool {
        core::ptr::eq(self, place_in(&self.stack))
    }
}

/// Where a stack that waits is noted.
fn place_in(stack: &DefaultStack) -> *mut Node {
    let place = stack.base().get() - size_of::<Node>().next_multiple_of(align_of::<Node>());
    core::ptr::with_exposed_provenance_mut(place)
}

/// A stack that waited.
fn used_again(node: NonNull<Node>) -> DefaultStack {
    // SAFETY: what waited is whole, and nobody else's now.
    unsafe { node.read() }.stack
}

/// The stack of one coroutine; goes back to its pool when dropped.
pub struct CoroutineStack {
    stack: ManuallyDrop<DefaultStack>,
    pool: &'static StackPool,
}

/// The pool of [`Coroutine::new`](crate::Coroutine::new): stacks of 1 MiB of address space, up to
/// 64 of which wait.
pub static DEFAULT_STACKS: StackPool = StackPool::new(1 << 20, 64);

impl StackPool {
    /// An empty pool of stacks of `stack_bytes` bytes, rounded up to pages and a page at least,
    /// beside the guard page. Up to `max_waiting` are kept.
    ///
    /// A stack that overflows ends the process with SIGSEGV. 16 KiB is little for code that prints
    /// or panics, and for unoptimised code.
    pub const fn new(stack_bytes: usize, max_waiting: usize) -> Self {
        Self { stack_bytes, spares: Spares::new(max_waiting), fork: ForkEntry::new() }
    }

    /// A stack that waits, or a new one.
    ///
    /// # Errors
    /// The system's, where it refuses the mappings: `ENOMEM`, also at the limit on mappings, of
    /// which each stack takes two (`vm.max_map_count`, mostly 65,530).
    pub fn take(&'static self) -> Result<CoroutineStack, SystemError> {
        if self.stack_bytes > MAX_STACK_BYTES {
            return Err(SystemError::NO_MEMORY);
        }
        let waiting = self.spares.take().or_else(|| self.spares.take_listed());
        let stack = match waiting.map(used_again) {
            Some(stack) => stack,
            None => {
                self.fork.register(self.spares.lock(), Rank::Source)?;
                DefaultStack::new(self.stack_bytes).map_err(|error| {
                    error.raw_os_error().map_or(SystemError::NO_MEMORY, SystemError)
                })?
            }
        };
        Ok(CoroutineStack { stack: ManuallyDrop::new(stack), pool: self })
    }

    /// How many stacks wait to be used again.
    pub fn waiting(&self) -> usize {
        self.spares.waiting()
    }

    /// Keeps a stack; returns it, or another, for want of room.
    fn keep(&self, stack: DefaultStack) -> Option<DefaultStack> {
        forget_frames(&stack);
        let Some(node) = NonNull::new(place_in(&stack)) else { return Some(stack) };
        // SAFETY: the stack is mapped, at least a page long, aligned at its base, and in no use;
        // nothing of it depends on the thread.
        unsafe {
            node.write(Node { stack, next: Cell::new(None) });
            self.spares.put(node)
        }
        .map(used_again)
    }
}

/// Tells AddressSanitizer that nobody's variables are on a stack any more: those of frames that
/// were unwound are marked still, for it knows one stack of a thread only.
fn forget_frames(stack: &DefaultStack) {
    let (limit, base) = (stack.limit().get(), stack.base().get());
    let start = core::ptr::with_exposed_provenance_mut::<u8>(limit);
    if let Some(start) = NonNull::new(start) {
        unpoison(start, base - limit);
    }
}

impl Drop for CoroutineStack {
    fn drop(&mut self) {
        // SAFETY: not used afterwards.
        let stack = unsafe { ManuallyDrop::take(&mut self.stack) };
        drop(self.pool.keep(stack));
    }
}

// SAFETY: the stack within keeps the contract: it has a guard page and never moves.
unsafe impl Stack for CoroutineStack {
    #[inline]
    fn base(&self) -> StackPointer {
        self.stack.base()
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }

    #[cfg(windows)]
    #[inline]
    fn teb_fields(&self) -> corosensei::stack::StackTebFields {
        self.stack.teb_fields()
    }

    #[cfg(windows)]
    #[inline]
    fn update_teb_fields(&mut self, stack_limit: usize, guaranteed_stack_bytes: usize) {
        self.stack.update_teb_fields(stack_limit, guaranteed_stack_bytes);
    }
}

impl core::fmt::Debug for CoroutineStack {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let range = self.limit().get()..self.base().get();
        write!(formatter, "CoroutineStack({range:x?})")
    }
}

#[cfg(all(test, heapswitch_asan))]
mod tests {
    use core::ffi::c_void;

    use super::*;
    use crate::sys::poison::poison;

    unsafe extern "C" {
        fn __asan_region_is_poisoned(start: *mut c_void, bytes: usize) -> *mut c_void;
    }

    #[test]
    fn a_stack_comes_back_without_the_marks_of_its_frames() {
        static POOL: StackPool = StackPool::new(64 << 10, 1);
        let range_of = |stack: &CoroutineStack| {
            let (limit, base) = (stack.limit().get(), stack.base().get());
            let start = core::ptr::with_exposed_provenance_mut::<u8>(limit);
            (NonNull::new(start).unwrap(), base - limit)
        };
        let stack = POOL.take().unwrap();
        let (start, bytes) = range_of(&stack);
        poison(start, bytes);
        drop(stack);
        let again = POOL.take().unwrap();
        assert_eq!(range_of(&again), (start, bytes));
        // SAFETY: the sanitizer looks at its own map.
        assert!(unsafe { __asan_region_is_poisoned(start.as_ptr().cast(), bytes) }.is_null());
    }
}

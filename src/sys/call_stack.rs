//! Who calls: the return addresses of this thread's stack, for the record of an allocation.
//!
//! By the unwinder that the standard library brings along for panics (`_Unwind_Backtrace`): frame
//! pointers are not there unless a program and its standard library were built with them. It reads
//! the unwind tables, which x86-64 programs have also where a panic aborts.
//!
//! # Inside an allocation
//! It does not allocate: the tables are mapped with the program, and its state lies on the stack,
//! about 2 KiB of it. (Where a JIT has registered frames of its own, libgcc may call C's `malloc`;
//! nothing of ours is borrowed or locked then.) It does not unwind: frames are only read. To find a
//! table it asks the dynamic loader, which since glibc 2.35, with the libgcc of GCC 12, takes no
//! lock for that; before, it takes its own recursive lock. Whoever captures holds no lock of a heap
//! or of the region. A signal handler may not allocate anyway.
//!
//! Costs some 100 to 300 ns a frame. It ends where a frame has no table: at most the outer frames
//! are missing.

/// The most frames that are kept, the innermost.
pub const MOST_FRAMES: usize = 58;

/// Where a thread was: addresses within the instructions that called, innermost first.
#[derive(Clone, Copy, Debug)]
pub struct CallStack {
    frames: [usize; MOST_FRAMES],
    depth: usize,
}

impl CallStack {
    /// No frame.
    pub const EMPTY: Self = Self { frames: [0; MOST_FRAMES], depth: 0 };

    /// The frames, innermost first.
    pub fn frames(&self) -> &[usize] {
        self.frames.get(..self.depth).unwrap_or(&[])
    }

    /// Adds an outer frame; whether there is room for another.
    pub(crate) fn push(&mut self, address: usize) -> bool {
        let Some(place) = self.frames.get_mut(self.depth) else { return false };
        *place = address;
        self.depth += 1;
        self.depth < MOST_FRAMES
    }

    /// This thread's stack, from this function's caller on or nearly so.
    #[cold]
    #[inline(never)]
    pub fn capture() -> Self {
        let mut stack = Self::EMPTY;
        unwinder::walk(&mut stack);
        stack
    }
}

#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
mod unwinder {
    use core::ffi::{c_int, c_void};

    use super::CallStack;

    /// The unwinder's state at one frame.
    #[repr(C)]
    struct Context {
        opaque: [u8; 0],
    }

    type Visit = unsafe extern "C" fn(*mut Context, *mut c_void) -> c_int;

    unsafe extern "C" {
        fn _Unwind_Backtrace(visit: Visit, argument: *mut c_void) -> c_int;
        fn _Unwind_GetIPInfo(context: *mut Context, is_before: *mut c_int) -> usize;
    }

    /// `_URC_NO_REASON`: go on.
    const GO_ON: c_int = 0;
    /// `_URC_END_OF_STACK`: any other code ends the walk.
    const END: c_int = 5;

    pub(super) fn walk(stack: &mut CallStack) {
        // SAFETY: the unwinder calls `visit` on this thread with the argument, before it returns.
        unsafe { _Unwind_Backtrace(visit, core::ptr::from_mut(stack).cast()) };
    }

    /// # Safety
    /// Called by the unwinder, with a `CallStack` as argument.
    unsafe extern "C" fn visit(context: *mut Context, argument: *mut c_void) -> c_int {
        let mut is_before = 0;
        // SAFETY: the context is the unwinder's for this call.
        let address = unsafe { _Unwind_GetIPInfo(context, &raw mut is_before) };
        if address == 0 {
            return END;
        }
        // A return address is that of the next instruction, which may be another line's or even
        // another function's.
        let address = if is_before == 0 { address - 1 } else { address };
        // SAFETY: the argument is what `walk` passed.
        let stack = unsafe { &mut *argument.cast::<CallStack>() };
        if stack.push(address) { GO_ON } else { END }
    }
}

#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
mod unwinder {
    /// Heaps hold nothing there, and only the unknown place is told of what a strategy serves.
    pub(super) fn walk(stack: &mut super::CallStack) {
        stack.push(0);
    }
}

#[cfg(all(test, target_os = "linux", not(heapswitch_pass_through), not(loom)))]
mod tests {
    use super::*;

    #[inline(never)]
    fn recurse(depth: usize) -> CallStack {
        if depth == 0 { CallStack::capture() } else { core::hint::black_box(recurse(depth - 1)) }
    }

    #[test]
    fn one_place_has_one_stack_and_another_has_another() {
        let stacks: Vec<_> = (0..2).map(|_| recurse(3)).collect();
        assert!(stacks[0].frames().len() > 5, "{:?}", stacks[0]);
        assert_eq!(stacks[0].frames(), stacks[1].frames());
        assert_ne!(stacks[0].frames(), recurse(3).frames(), "another line");
    }

    #[test]
    fn a_deep_stack_is_cut() {
        assert_eq!(recurse(200).frames().len(), MOST_FRAMES);
    }
}

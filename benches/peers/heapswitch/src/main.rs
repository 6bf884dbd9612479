//! The workloads on heapswitch, in the thread's own heap.

use heapswitch::HeapSwitch;

#[cfg(not(feature = "outlined"))]
#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

#[cfg(feature = "outlined")]
#[global_allocator]
static GLOBAL: outlined::Outlined = outlined::Outlined(HeapSwitch);

/// The same allocator, of which nothing is inlined into the program: what inlining is worth, in
/// time and in the program's length.
#[cfg(feature = "outlined")]
mod outlined {
    use std::alloc::{GlobalAlloc, Layout};

    use heapswitch::HeapSwitch;

    pub struct Outlined(pub HeapSwitch);

    impl Outlined {
        pub fn contains(&self, block: *const u8) -> bool {
            self.0.contains(block)
        }
    }

    // SAFETY: each function is the allocator's own.
    unsafe impl GlobalAlloc for Outlined {
        #[inline(never)]
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.alloc(layout) }
        }

        #[inline(never)]
        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.dealloc(block, layout) }
        }

        #[inline(never)]
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.alloc_zeroed(layout) }
        }

        #[inline(never)]
        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.realloc(block, layout, size) }
        }
    }
}

fn main() {
    let version = workloads::locked_version("heapswitch");
    workloads::run("heapswitch", &version, "0.", |block| GLOBAL.contains(block));
}

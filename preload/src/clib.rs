//! The C library's own allocator, by the names that nobody interposes.
//!
//! It serves while a thread is set up and after it was torn down, where there is no region, and
//! what is larger than the machine's memory: sparse arrays, which the kernel may yet grant. Not a
//! mapping for each block, for where there is no region it serves everything. And whatever was
//! allocated by these names itself (by who asked the C library's handle for `malloc`) is freed
//! here.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use heapswitch::__private::malloc::ALIGN_BYTES;
use heapswitch::__private::{
    Configuration, CurrentAllocatorInUse, LifetimeHint, Settings, strategy,
};

// glibc exports these beside the names without the prefix, for allocators that wrap its own.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
}

/// The C library's allocator.
#[derive(Debug)]
pub(crate) struct CLibrary;

impl CLibrary {
    /// Frees what lies outside the region. The C library aborts where that is no block of its own.
    ///
    /// # Safety
    /// As C's `free`.
    pub(crate) unsafe fn free(block: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { __libc_free(block.cast()) }
    }

    /// Resizes what lies outside the region.
    ///
    /// # Safety
    /// As C's `realloc`.
    pub(crate) unsafe fn resize(block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { __libc_realloc(block.cast(), size).cast() }
    }

    /// The usable length of a block outside the region; 0 where that cannot be found out.
    ///
    /// # Safety
    /// As C's `malloc_usable_size`.
    pub(crate) unsafe fn usable_size(block: *mut u8) -> usize {
        type UsableSize = unsafe extern "C" fn(*mut c_void) -> usize;
        static FOUND: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
        // It has no other name, so the C library is asked for its own.
        let mut function = FOUND.load(Ordering::Relaxed);
        if function.is_null() {
            function = symbol_of(c"libc.so.6", c"malloc_usable_size");
            FOUND.store(function, Ordering::Relaxed);
        }
        if function.is_null() {
            return 0;
        }
        // SAFETY: the C library's function has this type; the caller's contract is its.
        unsafe { core::mem::transmute::<*mut c_void, UsableSize>(function)(block.cast()) }
    }

    /// The address of errno, this thread's.
    pub(crate) fn set_errno(number: c_int) {
        // SAFETY: errno's address is valid on every thread.
        unsafe { *libc::__errno_location() = number };
    }
}

/// A symbol of a library that is loaded already; null where it is not, or lacks the symbol.
pub(crate) fn symbol_of(library: &core::ffi::CStr, name: &core::ffi::CStr) -> *mut c_void {
    // SAFETY: both are C strings; a library that is loaded already runs no code by this, and the
    // handle is kept, so what is found stays.
    unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return core::ptr::null_mut();
        }
        libc::dlsym(handle, name.as_ptr())
    }
}

// SAFETY: the C library's functions keep the trait's contract: blocks are aligned to 16, or as
// asked, and freed by the same allocator.
unsafe impl GlobalAlloc for CLibrary {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and any power of two is allowed.
        unsafe {
            if layout.align() <= ALIGN_BYTES {
                __libc_malloc(layout.size()).cast()
            } else {
                __libc_memalign(layout.align(), layout.size()).cast()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's contract.
        unsafe { Self::free(block) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN_BYTES {
            // SAFETY: any size is allowed.
            return unsafe { __libc_calloc(1, layout.size()) }.cast();
        }
        // SAFETY: the block was just allocated with that size.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe {
            if layout.align() <= ALIGN_BYTES {
                return Self::resize(block, size);
            }
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, size.min(layout.size()));
                Self::free(block);
            }
            moved
        }
    }
}

/// Threads' heaps of the slab strategy, and the C library's allocator behind them. There are no
/// contexts: nothing here enters one.
#[derive(Debug)]
pub(crate) struct Preload;

// SAFETY: `global` is a static.
unsafe impl Configuration for Preload {
    type Coroutine = strategy::ContextChoice;
    type Thread = strategy::Slab;
    type Global = CLibrary;

    const COROUTINE: LifetimeHint = LifetimeHint::Short;
    const THREAD: () = ();
    const DEFAULT: CurrentAllocatorInUse = CurrentAllocatorInUse::ThreadLocal;
    // The dynamic linker allocates while it holds its locks: see `report::on_load`.
    const SETTINGS: Settings = Settings::new().with_later_start();

    #[inline]
    fn global() -> &'static CLibrary {
        static GLOBAL: CLibrary = CLibrary;
        &GLOBAL
    }
}

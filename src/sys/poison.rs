//! What AddressSanitizer is told: which memory nobody may touch. Compiles to nothing without
//! `--cfg heapswitch_asan`, which goes with `-Zsanitizer=address` (a stable compiler cannot ask).
//!
//! The sanitizer's map has a byte for each 8 bytes, so lengths are rounded up to that, which every
//! block is a multiple of.

use core::ptr::NonNull;

#[cfg(heapswitch_asan)]
const GRANULE: usize = crate::units::MIN_BLOCK_BYTES;

#[cfg(heapswitch_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const core::ffi::c_void, bytes: usize);
    fn __asan_unpoison_memory_region(start: *const core::ffi::c_void, bytes: usize);
    fn __lsan_register_root_region(start: *const core::ffi::c_void, bytes: usize);
}

/// Whoever touches the range from now on is reported.
#[inline]
pub fn poison(start: NonNull<u8>, bytes: usize) {
    #[cfg(heapswitch_asan)]
    // SAFETY: only the sanitizer's own map is written.
    unsafe {
        __asan_poison_memory_region(start.as_ptr().cast(), bytes.next_multiple_of(GRANULE));
    }
    let _ = (start, bytes);
}

/// The range may be touched again.
#[inline]
pub fn unpoison(start: NonNull<u8>, bytes: usize) {
    #[cfg(heapswitch_asan)]
    // SAFETY: as above.
    unsafe {
        __asan_unpoison_memory_region(start.as_ptr().cast(), bytes.next_multiple_of(GRANULE));
    }
    let _ = (start, bytes);
}

/// The range holds pointers: what they lead to in the system's allocator is no leak.
#[inline]
pub fn seek_pointers_in(start: NonNull<u8>, bytes: usize) {
    #[cfg(heapswitch_asan)]
    // SAFETY: the range is ours for ever.
    unsafe {
        __lsan_register_root_region(start.as_ptr().cast(), bytes);
    }
    let _ = (start, bytes);
}

//! `malloc`, `free` and their kin, as glibc has them.
//!
//! Every block is aligned to 16 bytes. A size of zero gets the shortest block; `realloc` to zero
//! frees. What cannot be had is a null pointer and `ENOMEM`, an alignment that makes no sense
//! `EINVAL`. No free changes errno.

use core::alloc::Layout;
use core::ffi::{CStr, c_int, c_void};

use heapswitch::__private::malloc::{self, ALIGN_BYTES, Place};

use crate::clib::{CLibrary, Preload};
use crate::served::{program_free, program_realloc};

const PAGE_BYTES: usize = 4096;

/// The longest request in bytes: C's differences of pointers must be able to hold it.
const MOST_BYTES: usize = isize::MAX as usize - ALIGN_BYTES;

/// A layout of at least one byte. `None` where the size is too large.
#[inline]
fn layout_of(size: usize, alignment: usize) -> Option<Layout> {
    if size > MOST_BYTES || alignment > MOST_BYTES {
        return None;
    }
    Layout::from_size_align(size.max(1), alignment.max(ALIGN_BYTES)).ok()
}

#[cold]
fn fail(error: c_int) -> *mut c_void {
    CLibrary::set_errno(error);
    core::ptr::null_mut()
}

/// A block, or null and `ENOMEM`.
#[inline]
pub(crate) fn allocate(size: usize) -> *mut c_void {
    match malloc::try_bytes(size) {
        Some(block) => block.as_ptr().cast(),
        None => allocate_aligned(ALIGN_BYTES, size),
    }
}

/// A block at a multiple of `alignment`, a power of two; or null and `ENOMEM`. By C's convention,
/// by which nothing unwinds: `malloc` may jump here and needs no frame.
#[inline(never)]
pub(crate) extern "C" fn allocate_aligned(alignment: usize, size: usize) -> *mut c_void {
    let Some(layout) = layout_of(size, alignment) else { return fail(libc::ENOMEM) };
    // SAFETY: as in `allocate`.
    let block = unsafe { malloc::allocate::<Preload>(layout) };
    if block.is_null() { fail(libc::ENOMEM) } else { block.cast() }
}

/// Frees a block, or null.
///
/// # Safety
/// As C's `free`.
#[inline]
pub(crate) unsafe fn release(block: *mut c_void) {
    // SAFETY: the caller's contract; null lies outside the region.
    unsafe {
        if malloc::free(block.cast()) == Place::Elsewhere {
            release_elsewhere(block);
        }
    }
}

/// # Safety
/// As [`release`], of what lies outside the region.
#[cold]
#[inline(never)]
unsafe extern "C" fn release_elsewhere(block: *mut c_void) {
    if !block.is_null() {
        // SAFETY: what is not ours is the C library's.
        unsafe { CLibrary::free(block.cast()) };
    }
}

/// C's `malloc`: `size` bytes, uninitialised.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(size)
}

/// C's `calloc`: `count * size` bytes of zeros.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size).filter(|&bytes| bytes <= MOST_BYTES) else {
        return fail(libc::ENOMEM);
    };
    // SAFETY: as in `allocate`.
    let block = unsafe {
        let layout = Layout::from_size_align_unchecked(bytes.max(1), ALIGN_BYTES);
        malloc::allocate_zeroed::<Preload>(layout)
    };
    if block.is_null() { fail(libc::ENOMEM) } else { block.cast() }
}

/// C's `realloc`. As in glibc a size of zero frees a block that is not null and gives null.
///
/// # Safety
/// As C's `realloc`: `block` is null or allocated and not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return allocate(size);
    }
    if size == 0 {
        // SAFETY: the caller's contract.
        unsafe { release(block) };
        return core::ptr::null_mut();
    }
    if size > MOST_BYTES {
        return fail(libc::ENOMEM);
    }
    // SAFETY: the caller's contract; the size was just checked.
    let moved = unsafe {
        match malloc::resize::<Preload>(block.cast(), size) {
            Ok(moved) => moved,
            Err(_) => CLibrary::resize(block.cast(), size),
        }
    };
    if moved.is_null() { fail(libc::ENOMEM) } else { moved.cast() }
}

/// As the program's `realloc` to `count * size` bytes, and fails where that overflows.
///
/// # Safety
/// As [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return fail(libc::ENOMEM) };
    // SAFETY: the caller's contract.
    unsafe { program_realloc()(block, bytes) }
}

/// C's `free`.
///
/// # Safety
/// As C's `free`: `block` is null or allocated and not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe { release(block) };
}

/// C23's `free_sized`: the program's `free`. The size is not relied on: it tells nothing that the
/// address does not.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _size: usize) {
    // SAFETY: the caller's contract.
    unsafe { program_free()(block) };
}

/// C23's `free_aligned_sized`, as [`free_sized`].
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _alignment: usize, _size: usize) {
    // SAFETY: the caller's contract.
    unsafe { program_free()(block) };
}

/// `free` under its old name: programs that were linked before glibc 2.26 may call it.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe { program_free()(block) };
}

/// POSIX's: gives the error and leaves errno as it is; `*result` changes only on success.
///
/// # Safety
/// `result` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    result: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    // SAFETY: errno's address is valid on every thread, `result` by the caller's contract.
    unsafe {
        let error_number = libc::__errno_location();
        let saved = *error_number;
        let block = allocate_aligned(alignment, size);
        *error_number = saved;
        if block.is_null() {
            return libc::ENOMEM;
        }
        result.write(block);
    }
    0
}

/// C's. Where the alignment is no power of two, as the C library that is there has it: glibc gives
/// `EINVAL` since 2.38, and before rounds up, as `memalign` does.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    if !alignment.is_power_of_two() {
        return if refuses_odd_alignments() {
            fail(libc::EINVAL)
        } else {
            memalign(alignment, size)
        };
    }
    allocate_aligned(alignment, size)
}

#[cold]
fn refuses_odd_alignments() -> bool {
    // SAFETY: the version is a constant C string.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let minor = version.to_bytes().strip_prefix(b"2.").unwrap_or_default();
    let minor = str::from_utf8(minor).ok().and_then(|minor| minor.split('.').next());
    // What cannot be read is newer.
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_none_or(|minor| minor >= 38)
}

/// The old one: an alignment that is no power of two is rounded up to the next, as in glibc.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
    match alignment.checked_next_power_of_two() {
        Some(alignment) => allocate_aligned(alignment, size),
        None => fail(libc::EINVAL),
    }
}

/// A block at a page's start.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    allocate_aligned(PAGE_BYTES, size)
}

/// Whole pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.max(1).checked_next_multiple_of(PAGE_BYTES) {
        Some(bytes) => allocate_aligned(PAGE_BYTES, bytes),
        None => fail(libc::ENOMEM),
    }
}

/// How many bytes may be used of a block: at least those that were asked for. 0 for null.
///
/// # Safety
/// As [`free`]; nothing is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    // SAFETY: the caller's contract.
    unsafe {
        match malloc::usable_size(block.cast()) {
            Ok(size) => size,
            Err(_) => CLibrary::usable_size(block.cast()),
        }
    }
}

//! Mappings: reserve, commit, give back, advise.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::NonNull;

use super::SystemError;
use super::fault::{self, Call};
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

const ANONYMOUS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
/// As in the kernel's `mman-common.h`, for every architecture: musl's header has no name for it.
const MADV_COLLAPSE: c_int = 25;
/// As there, since Linux 5.18.
const MADV_DONTNEED_LOCKED: c_int = 24;

/// How memory is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapFlags {
    /// Do not count the mapping against the commit limit (`MAP_NORESERVE`).
    pub is_unreserved: bool,
    /// Populate the page tables at once (`MAP_POPULATE`).
    pub is_prefaulted: bool,
    /// Explicit huge pages of two to this power bytes (`MAP_HUGETLB`).
    pub huge_page_shift: Option<u32>,
}

/// Makes a call that may have to fail.
fn check(call: Call, run: impl FnOnce() -> c_int) -> Result<(), SystemError> {
    if fault::strikes(call) {
        return Err(SystemError(libc::ENOMEM));
    }
    keep_errno(run)
}

/// Makes a call. errno stays as it was, for a free must not change it.
fn keep_errno(run: impl FnOnce() -> c_int) -> Result<(), SystemError> {
    // SAFETY: errno's address is valid on every thread.
    unsafe {
        let error_number = libc::__errno_location();
        let saved = *error_number;
        if run() == 0 {
            return Ok(());
        }
        let error = SystemError::last();
        *error_number = saved;
        Err(error)
    }
}

/// # Safety
/// As `mmap` with these arguments, of no file.
unsafe fn map(
    address: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
) -> Result<NonNull<u8>, SystemError> {
    let mut start = libc::MAP_FAILED;
    check(Call::Map, || {
        // SAFETY: the caller's contract.
        start = unsafe { libc::mmap(address, bytes, protection, flags, -1, 0) };
        c_int::from(start == libc::MAP_FAILED)
    })?;
    NonNull::new(start.cast()).ok_or(SystemError(libc::ENOMEM))
}

/// Reserves `bytes` of address space without access and without commit charge.
///
/// # Errors
/// The system's, `ENOMEM` above the limit on address space.
pub fn reserve(bytes: usize) -> Result<NonNull<u8>, SystemError> {
    let flags = ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping wherever the kernel likes touches nothing that exists.
    unsafe { map(core::ptr::null_mut(), bytes, libc::PROT_NONE, flags) }
}

/// Maps `bytes` of zeroed memory for reading and writing.
///
/// # Errors
/// The system's: `ENOMEM` where it has none, `EINVAL` for a huge page size that it lacks.
pub fn map_anonymous(bytes: usize, how: MapFlags) -> Result<NonNull<u8>, SystemError> {
    let mut flags = ANONYMOUS;
    if how.is_unreserved {
        flags |= libc::MAP_NORESERVE;
    }
    if how.is_prefaulted {
        flags |= libc::MAP_POPULATE;
    }
    if let Some(shift) = how.huge_page_shift {
        flags |= libc::MAP_HUGETLB | ((shift as c_int) << libc::MAP_HUGE_SHIFT);
    }
    // SAFETY: a new mapping wherever the kernel likes touches nothing that exists.
    unsafe { map(core::ptr::null_mut(), bytes, READ_WRITE, flags) }
}

/// Takes `bytes` of zeroed memory for ever, outside the region: for records.
///
/// # Errors
/// The system's: `ENOMEM`.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub fn take_for_ever(bytes: usize) -> Result<NonNull<u8>, SystemError> {
    map_anonymous(bytes, MapFlags::default())
}

/// Takes `bytes` of zeroed memory for ever: for records.
///
/// # Errors
/// `ENOMEM`.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub fn take_for_ever(bytes: usize) -> Result<NonNull<u8>, SystemError> {
    use core::alloc::{GlobalAlloc, Layout};
    let layout = Layout::from_size_align(bytes, crate::units::PAGE_BYTES);
    let Ok(layout) = layout else { return Err(SystemError::NO_MEMORY) };
    if fault::strikes(Call::Map) || bytes == 0 {
        return Err(SystemError::NO_MEMORY);
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { std::alloc::System.alloc_zeroed(layout) };
    NonNull::new(start).ok_or(SystemError::NO_MEMORY)
}

/// Makes whole pages of a reservation readable and writable.
///
/// # Errors
/// The system's: `ENOMEM` at the limit on mappings, or on commit charge under overcommit 2.
///
/// # Safety
/// The range is whole pages of a mapping that is the caller's alone.
pub unsafe fn commit(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    check(Call::Protect, || {
        // SAFETY: the caller owns the range; giving access invalidates nothing.
        unsafe { libc::mprotect(start.as_ptr().cast(), bytes, READ_WRITE) }
    })
}

/// Replaces whole pages by a reservation without access: memory and commit charge go back, the
/// address range stays ours.
///
/// # Errors
/// The system's; the range is unchanged.
///
/// # Safety
/// As [`commit`], and nothing uses the memory any more.
pub unsafe fn decommit(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    let flags = ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller owns the range and nothing uses it.
    unsafe { map(start.as_ptr().cast(), bytes, libc::PROT_NONE, flags) }.map(|_| ())
}

/// Gives the pages of the range back to the kernel; they then read as zero.
///
/// # Errors
/// The system's, `EINVAL` for locked pages; the contents are then unknown.
///
/// # Safety
/// As [`commit`], and nothing uses the contents any more.
pub unsafe fn give_back_pages(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    // SAFETY: the caller's contract.
    unsafe { advise(start, bytes, libc::MADV_DONTNEED) }
}

/// Whether the pages of a range are in memory, one byte a page whose lowest bit says so.
///
/// # Errors
/// The system's, `ENOMEM` for what is not mapped.
///
/// # Panics
/// Never; of a range with more pages than `pages` holds, the first are asked for.
pub fn resident_pages(
    start: NonNull<u8>,
    bytes: usize,
    pages: &mut [u8],
) -> Result<(), SystemError> {
    let bytes = bytes.min(pages.len().saturating_mul(super::page_bytes()));
    // SAFETY: asking changes nothing, and there is a byte for each page.
    keep_errno(|| unsafe { libc::mincore(start.as_ptr().cast(), bytes, pages.as_mut_ptr()) })
}

/// Advice that never changes contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Transparent huge pages never (`MADV_NOHUGEPAGE`).
    NoHugePages,
    /// Transparent huge pages wanted (`MADV_HUGEPAGE`).
    HugePages,
    /// Keep out of core dumps (`MADV_DONTDUMP`).
    NoCoreDump,
    /// Populate the pages for writing (`MADV_POPULATE_WRITE`, Linux 5.14).
    Prefault,
    /// Put transparent huge pages in the place of the pages that are there, at once
    /// (`MADV_COLLAPSE`, Linux 6.1).
    Collapse,
}

/// Applies advice to a range.
///
/// # Errors
/// The system's, `EINVAL` where the kernel does not know the advice.
///
/// # Safety
/// The range is whole pages of a mapping that is the caller's alone.
pub unsafe fn apply_advice(
    start: NonNull<u8>,
    bytes: usize,
    advice: Advice,
) -> Result<(), SystemError> {
    let advice = match advice {
        Advice::NoHugePages => libc::MADV_NOHUGEPAGE,
        Advice::HugePages => libc::MADV_HUGEPAGE,
        Advice::NoCoreDump => libc::MADV_DONTDUMP,
        Advice::Prefault => libc::MADV_POPULATE_WRITE,
        Advice::Collapse => MADV_COLLAPSE,
    };
    // SAFETY: the caller owns the range, and none of these changes contents.
    unsafe { advise(start, bytes, advice) }
}

/// # Safety
/// As `madvise` with these arguments.
unsafe fn advise(start: NonNull<u8>, bytes: usize, advice: c_int) -> Result<(), SystemError> {
    check(Call::Advise, || {
        // SAFETY: the caller's contract.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) }
    })
}

/// Locks the range in memory, on fault where the kernel can (`mlock2`).
///
/// # Errors
/// The system's: `ENOMEM` or `EPERM` above `RLIMIT_MEMLOCK`.
///
/// # Safety
/// The range is mapped.
pub unsafe fn lock_in_memory(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    check(Call::Lock, || {
        // SAFETY: locking changes no contents.
        unsafe {
            let start = start.as_ptr().cast();
            match libc::mlock2(start, bytes, libc::MLOCK_ONFAULT as libc::c_uint) {
                0 => 0,
                _ if SystemError::last().is_unsupported() => libc::mlock(start, bytes),
                failed => failed,
            }
        }
    })
}

/// Names an anonymous mapping in `/proc/self/maps` (Linux 5.17).
///
/// # Errors
/// `EINVAL` where the kernel lacks it.
///
/// # Safety
/// The range is whole pages of an anonymous mapping that is the caller's alone.
pub unsafe fn name_mapping(
    start: NonNull<u8>,
    bytes: usize,
    name: &'static CStr,
) -> Result<(), SystemError> {
    check(Call::Advise, || {
        let address = start.as_ptr().addr();
        // SAFETY: naming changes neither contents nor protection; the name lives for ever.
        unsafe {
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME,
                address,
                bytes,
                name.as_ptr().addr(),
            )
        }
    })
}

/// Resizes a private mapping; it may move.
///
/// # Errors
/// The system's; the mapping is unchanged.
///
/// # Safety
/// The range is one whole mapping, outside the region (no page of the region is ever unmapped),
/// the caller's alone; on success the old range is gone.
pub unsafe fn remap(
    start: NonNull<u8>,
    old_bytes: usize,
    new_bytes: usize,
    may_move: bool,
) -> Result<NonNull<u8>, SystemError> {
    if fault::strikes(Call::Remap) {
        return Err(SystemError(libc::ENOMEM));
    }
    let flags = if may_move { libc::MREMAP_MAYMOVE } else { 0 };
    let nowhere = core::ptr::null_mut::<c_void>();
    // SAFETY: the caller's contract.
    let moved =
        unsafe { libc::mremap(start.as_ptr().cast(), old_bytes, new_bytes, flags, nowhere) };
    if moved == libc::MAP_FAILED {
        return Err(SystemError::last());
    }
    NonNull::new(moved.cast()).ok_or(SystemError(libc::ENOMEM))
}

/// Unmaps a mapping outside the region. errno stays as it was.
///
/// # Errors
/// `ENOMEM` at the limit on mappings, where a hole would be cut: the kernel keeps neighbours that
/// are alike as one. The addresses then stay mapped, and their pages go back to the kernel, locked
/// ones from Linux 5.18 on.
///
/// # Safety
/// The range is whole pages of mappings that are the caller's alone, outside the region, and
/// nothing uses it any more.
pub unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    check(Call::Unmap, || {
        // SAFETY: the caller's contract.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes) }
    })
    .inspect_err(|_| {
        // Where all is refused, they are kept: a leak, and no unsoundness. Locked pages take an
        // advice of their own.
        // SAFETY: the caller's contract.
        let _ = unsafe {
            give_back_pages(start, bytes).or_else(|_| advise(start, bytes, MADV_DONTNEED_LOCKED))
        };
    })
}

/// Makes an open file `bytes` long.
///
/// # Errors
/// The system's, `ENOSPC` or `EFBIG` among them.
pub(crate) fn set_file_length(file: c_int, bytes: usize) -> Result<(), SystemError> {
    let length = libc::off_t::try_from(bytes).map_err(|_| SystemError(libc::EFBIG))?;
    check(Call::Truncate, || {
        // SAFETY: no memory is involved; a bad descriptor is an error.
        unsafe { libc::ftruncate(file, length) }
    })
}

#[cfg(all(test, target_os = "linux", not(heapswitch_pass_through)))]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fails_leaves_errno_as_it_was() {
        let nowhere = NonNull::without_provenance(core::num::NonZeroUsize::new(1 << 62).unwrap());
        // SAFETY: errno is this thread's; the kernel refuses a range that no process can have.
        unsafe {
            *libc::__errno_location() = 7;
            assert_eq!(give_back_pages(nowhere, 4096), Err(SystemError(libc::ENOMEM)));
            assert_eq!(resident_pages(nowhere, 4096, &mut [0]), Err(SystemError(libc::ENOMEM)));
            assert!(reserve(1 << 62).is_err() && decommit(nowhere, 4096).is_err());
            assert_eq!(*libc::__errno_location(), 7);
        }
    }
}

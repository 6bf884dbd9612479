//! Code that has to stay where it is.
//!
//! glibc unmaps a shared library when its last handle is closed (`dlclose`), also while threads
//! have a value under a key of its own, whose destructor they will call when they end. musl unmaps
//! none.

use core::ffi::c_void;

/// Whether there are libraries that are: a static executable has none.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
const IS_UNLOADED: bool = cfg!(target_env = "gnu") && !cfg!(target_feature = "crt-static");

/// Keeps the shared library loaded that the code at an address is in. That of the executable always
/// is: then this takes no lock. Else it waits where another thread is loading a library.
///
/// Where the system refuses, nothing is kept. What `dlerror` told the thread before ends to be.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub(crate) fn keep(code: *const c_void) {
    if !IS_UNLOADED || is_of_executable(code) {
        return;
    }
    let mut found = core::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: the result is written when it is said to be; the name lives as long as the library,
    // whose code this is. Nothing is loaded, so no constructor runs. The handle is closed, and the
    // mark stays.
    unsafe {
        if libc::dladdr(code, found.as_mut_ptr()) == 0 {
            return;
        }
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        let library = libc::dlopen(found.assume_init().dli_fname, flags);
        if library.is_null() {
            // Nobody else is to be told of it.
            libc::dlerror();
        } else {
            libc::dlclose(library);
        }
    }
}

#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub(crate) fn keep(_: *const c_void) {}

/// Whether code at an address is the executable's, by the program headers that the kernel names.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn is_of_executable(code: *const c_void) -> bool {
    // SAFETY: both are numbers.
    let (headers, count) =
        unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    let headers = core::ptr::with_exposed_provenance::<libc::Elf64_Phdr>(headers as usize);
    if headers.is_null() {
        return true;
    }
    // SAFETY: the executable's headers are mapped as long as the process lives, and so many.
    let headers = unsafe { core::slice::from_raw_parts(headers, count as usize) };
    let find = |kind| headers.iter().find(|header| header.p_type == kind);
    let Some(own) = find(libc::PT_PHDR) else {
        // A static executable need not say where they are; another mostly does.
        return find(libc::PT_INTERP).is_none();
    };
    let shift = headers.as_ptr().addr().wrapping_sub(own.p_vaddr as usize);
    headers.iter().filter(|header| header.p_type == libc::PT_LOAD).any(|header| {
        let start = shift.wrapping_add(header.p_vaddr as usize);
        code.addr().wrapping_sub(start) < header.p_memsz as usize
    })
}

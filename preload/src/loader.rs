//! The C library's `dlopen`, without `RTLD_DEEPBIND`.
//!
//! With that flag a library finds the C library's own `free` before this one's. It would hand it
//! blocks of ours: what the program gave it, and what `strdup` or `getline` made, for the C library
//! itself allocates here. PHP loads its extensions so. Nothing can tell the C library's `free` that
//! a block is ours; so the flag is dropped, and the library binds as without it.
//!
//! `dlopen` looks up `$ORIGIN` and run paths by who called it. So nothing is called here: the real
//! function is jumped to, with the caller's return address.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::cpp;

/// The next `dlopen` after this library's, which is then called with the same arguments.
extern "C" fn next_dlopen(_path: *const c_char, flags: c_int) -> *mut c_void {
    if flags & libc::RTLD_NOLOAD == 0 {
        cpp::note_load();
    }
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
    let mut function = FOUND.load(Ordering::Relaxed);
    if function.is_null() {
        // SAFETY: the name is a C string.
        function = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) };
        FOUND.store(function, Ordering::Relaxed);
    }
    if function.is_null() { absent as *mut c_void } else { function }
}

/// What is called where nobody has a `dlopen`: a library that cannot be loaded.
extern "C" fn absent(_path: *const c_char, _flags: c_int) -> *mut c_void {
    core::ptr::null_mut()
}

/// As the C library's, without `RTLD_DEEPBIND`.
///
/// # Safety
/// As the C library's `dlopen`: the path is null or a C string, and what the library runs when it
/// is loaded is sound.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(_path: *const c_char, _flags: c_int) -> *mut c_void {
    core::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8", // Calls are made with an aligned stack.
        "call {next_dlopen}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "and esi, {kept}",
        "jmp rax",
        next_dlopen = sym next_dlopen,
        kept = const !libc::RTLD_DEEPBIND,
    )
}

/// As on x86-64. Run under emulation only.
///
/// # Safety
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(_path: *const c_char, _flags: c_int) -> *mut c_void {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "stp x0, x1, [sp, #16]",
        "bl {next_dlopen}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "and w1, w1, #{kept}",
        "br x16",
        next_dlopen = sym next_dlopen,
        kept = const !libc::RTLD_DEEPBIND,
    )
}

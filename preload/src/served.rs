//! Whether the program's `malloc` and C++ operators are this library's.
//!
//! A program may bring its own, and the dynamic linker finds those first: a whole allocator, or
//! just the two operators that C++ lets every program replace. All that is defined by them follows,
//! with the C++ runtime's definitions: `operator new[]` calls `operator new`, which calls `malloc`,
//! and a sized `operator delete` the one without a size. Served from here, one half of such a pair
//! would get the other's blocks. So each operator that is left to this library asks whether it may
//! serve, and otherwise calls the runtime's of the same name, or, where no runtime was loaded with
//! the program, what such a runtime would call: the program's `malloc` and `free`. And what C makes
//! of `free` and `realloc` calls the program's.
//!
//! The dynamic linker has the answer, in the addresses that it found for the names. They never
//! change: what is loaded later is searched later.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::{c, cpp};

const UNKNOWN: u8 = 0;
const OURS: u8 = 1;
const REPLACED: u8 = 2;

static OPERATORS: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether the operators may serve: nobody replaced one, or what they are made of.
#[inline]
pub(crate) fn are_operators_ours() -> bool {
    // Relaxed: every thread finds the same, and what is ours needs nothing else.
    OPERATORS.load(Ordering::Relaxed) == OURS || find_out()
}

#[cold]
#[inline(never)]
fn find_out() -> bool {
    match OPERATORS.load(Ordering::Acquire) {
        UNKNOWN => {
            let are_ours = foundations().into_iter().all(is_ours);
            if !are_ours {
                cpp::look_up_runtime();
            }
            // Release: what was looked up is there for whoever sees that it was.
            OPERATORS.store(if are_ours { OURS } else { REPLACED }, Ordering::Release);
            are_ours
        }
        state => state == OURS,
    }
}

/// The function that the dynamic linker found for the name of one of this library's.
macro_rules! found {
    ($function:path) => {{
        let address: *const c_void;
        // SAFETY: reads a word that the dynamic linker wrote when it loaded the library.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::asm!(
                "mov {address}, qword ptr [rip + {function}@GOTPCREL]",
                address = out(reg) address,
                function = sym $function,
                options(nostack, readonly, preserves_flags)
            );
        }
        // SAFETY: as on x86-64. Run under emulation only.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(
                "adrp {address}, :got:{function}",
                "ldr {address}, [{address}, :got_lo12:{function}]",
                address = out(reg) address,
                function = sym $function,
                options(nostack, readonly, preserves_flags)
            );
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            address = $function as *const c_void;
        }
        address
    }};
}

/// The program's `free`: this library's, unless somebody replaced it.
#[inline]
pub(crate) fn program_free() -> unsafe extern "C" fn(*mut c_void) {
    let found = found!(c::free);
    // SAFETY: whoever defines the name gives it this type.
    unsafe { core::mem::transmute(found) }
}

/// The program's `realloc`.
#[inline]
pub(crate) fn program_realloc() -> unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void {
    let found = found!(c::realloc);
    // SAFETY: as in `program_free`.
    unsafe { core::mem::transmute(found) }
}

/// The program's `malloc`.
pub(crate) fn program_malloc() -> extern "C" fn(usize) -> *mut c_void {
    let found = found!(c::malloc);
    // SAFETY: as in `program_free`.
    unsafe { core::mem::transmute(found) }
}

/// The program's `aligned_alloc`.
pub(crate) fn program_aligned_alloc() -> extern "C" fn(usize, usize) -> *mut c_void {
    let found = found!(c::aligned_alloc);
    // SAFETY: as in `program_free`.
    unsafe { core::mem::transmute(found) }
}

/// What the other operators are made of.
fn foundations() -> [*const c_void; 10] {
    [
        found!(c::malloc),
        found!(c::free),
        found!(cpp::_Znwm),
        found!(cpp::_Znam),
        found!(cpp::_ZdlPv),
        found!(cpp::_ZdaPv),
        found!(cpp::_ZnwmSt11align_val_t),
        found!(cpp::_ZnamSt11align_val_t),
        found!(cpp::_ZdlPvSt11align_val_t),
        found!(cpp::_ZdaPvSt11align_val_t),
    ]
}

// glibc's; what it writes for a symbol begins as this.
#[repr(C)]
struct Symbol {
    name: u32,
    information: u8,
    other: u8,
    section: u16,
}

unsafe extern "C" {
    fn dladdr1(
        address: *const c_void,
        information: *mut libc::Dl_info,
        more: *mut *const Symbol,
        flags: c_int,
    ) -> c_int;
}

/// Whether a function is this library's, or of nobody who defines it: an executable at a fixed
/// address has the address of a function that it takes stand for its own call to it.
fn is_ours(function: *const c_void) -> bool {
    const RTLD_DL_SYMENT: c_int = 1;
    /// The section of what is only referred to.
    const SHN_UNDEF: u16 = 0;
    let (mut ours, mut its) = (MaybeUninit::zeroed(), MaybeUninit::<libc::Dl_info>::zeroed());
    let mut symbol: *const Symbol = core::ptr::null();
    // SAFETY: all are valid for writes, and zeros are valid values; a symbol that is found stays
    // for as long as its library.
    unsafe {
        let here = core::ptr::from_ref(&OPERATORS).cast();
        if libc::dladdr(here, ours.as_mut_ptr()) == 0
            || dladdr1(function, its.as_mut_ptr(), &mut symbol, RTLD_DL_SYMENT) == 0
        {
            return true; // Nothing says otherwise.
        }
        its.assume_init().dli_fbase == ours.assume_init().dli_fbase
            || symbol.as_ref().is_some_and(|symbol| symbol.section == SHN_UNDEF)
    }
}

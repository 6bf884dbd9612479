//! C++'s `operator new` and `operator delete`, all that the language has.
//!
//! What can be had is served here; it spares a call through the runtime's `operator new`. What
//! cannot be had is left to the runtime's own operator of the same name, the next after this
//! library's: it asks `malloc` once more, calls the program's new handler for as long as that finds
//! memory, and throws its own `std::bad_alloc`. So nothing here knows how an exception is made, and
//! it works with libstdc++ and libc++ of any version. The exception passes through the functions
//! here, which hold nothing that would have to be dropped.
//!
//! Where a program replaced operators, or `malloc`, all is left to the runtime's: see `served`.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::c::{allocate, allocate_aligned, release};
use crate::clib::symbol_of;
use crate::served::are_operators_ours;
use crate::text;

/// C++'s `std::align_val_t`.
type Alignment = usize;
/// C++'s `std::nothrow_t`, passed by reference.
type Nothrow = *const c_void;

/// The runtime's operator of that name; null where no runtime is loaded.
#[cold]
fn runtime_operator(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if !next.is_null() {
        return next;
    }
    // A runtime that was loaded privately, with a plugin, is in no scope that is searched.
    [c"libstdc++.so.6", c"libc++.so.1", c"libc++abi.so.1"]
        .into_iter()
        .map(|library| symbol_of(library, name))
        .find(|symbol| !symbol.is_null())
        .unwrap_or(core::ptr::null_mut())
}

#[cold]
fn no_runtime() -> *mut c_void {
    text::write_to(
        2,
        "heapswitch: operator new has no memory, and no C++ runtime is loaded that would throw\n",
    );
    std::process::abort()
}

/// The runtime's operator of a function's own name and type; `None` where no runtime is loaded.
macro_rules! runtime_operator {
    ($name:ident as $type:ty) => {{
        const NAME: &CStr =
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name has no zero byte"),
            };
        static FOUND: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());
        let mut operator = FOUND.load(Ordering::Relaxed);
        if operator.is_null() {
            operator = runtime_operator(NAME);
            FOUND.store(operator, Ordering::Relaxed);
        }
        // SAFETY: the mangled name tells the function's type, and null is `None`.
        unsafe { core::mem::transmute::<*mut c_void, Option<$type>>(operator) }
    }};
}

/// Operators that throw what the runtime throws, or, with `nothrow`, give null.
macro_rules! new_operators {
    ($($name:ident($($argument:ident: $type:ty),*) = $allocate:expr, $absent:expr;)*) => { $(
        /// C++'s `operator new`, in one of its forms.
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name($($argument: $type),*) -> *mut c_void {
            #[cold]
            extern "C-unwind" fn ask_runtime($($argument: $type),*) -> *mut c_void {
                match runtime_operator!($name as extern "C-unwind" fn($($type),*) -> *mut c_void) {
                    Some(operator) => operator($($argument),*),
                    None if are_operators_ours() => $absent(),
                    None => {
                        let block: *mut c_void = $allocate;
                        if block.is_null() { $absent() } else { block }
                    }
                }
            }
            if !are_operators_ours() {
                return ask_runtime($($argument),*);
            }
            let block: *mut c_void = $allocate;
            if block.is_null() { ask_runtime($($argument),*) } else { block }
        }
    )* };
}

new_operators! {
    _Znwm(size: usize) = allocate(size), no_runtime;
    _Znam(size: usize) = allocate(size), no_runtime;
    _ZnwmSt11align_val_t(size: usize, alignment: Alignment) =
        allocate_aligned(alignment, size), no_runtime;
    _ZnamSt11align_val_t(size: usize, alignment: Alignment) =
        allocate_aligned(alignment, size), no_runtime;
    _ZnwmRKSt9nothrow_t(size: usize, nothrow: Nothrow) =
        allocate(size), core::ptr::null_mut;
    _ZnamRKSt9nothrow_t(size: usize, nothrow: Nothrow) =
        allocate(size), core::ptr::null_mut;
    _ZnwmSt11align_val_tRKSt9nothrow_t(size: usize, alignment: Alignment, nothrow: Nothrow) =
        allocate_aligned(alignment, size), core::ptr::null_mut;
    _ZnamSt11align_val_tRKSt9nothrow_t(size: usize, alignment: Alignment, nothrow: Nothrow) =
        allocate_aligned(alignment, size), core::ptr::null_mut;
}

macro_rules! delete_operators {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => { $(
        /// C++'s `operator delete`, in one of its forms.
        ///
        /// # Safety
        /// `block` is null or came from `operator new` and was not freed since.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(block: *mut c_void $(, $argument: $type)*) {
            #[cold]
            unsafe extern "C" fn ask_runtime(block: *mut c_void $(, $argument: $type)*) {
                let operator =
                    runtime_operator!($name as unsafe extern "C" fn(*mut c_void $(, $type)*));
                // SAFETY: the caller's contract.
                unsafe {
                    match operator {
                        Some(operator) => operator(block $(, $argument)*),
                        None => release(block),
                    }
                }
            }
            // SAFETY: the caller's contract.
            unsafe {
                if are_operators_ours() {
                    release(block);
                } else {
                    ask_runtime(block $(, $argument)*);
                }
            }
        }
    )* };
}

delete_operators! {
    _ZdlPv();
    _ZdaPv();
    _ZdlPvm(size: usize);
    _ZdaPvm(size: usize);
    _ZdlPvRKSt9nothrow_t(nothrow: Nothrow);
    _ZdaPvRKSt9nothrow_t(nothrow: Nothrow);
    _ZdlPvSt11align_val_t(alignment: Alignment);
    _ZdaPvSt11align_val_t(alignment: Alignment);
    _ZdlPvmSt11align_val_t(size: usize, alignment: Alignment);
    _ZdaPvmSt11align_val_t(size: usize, alignment: Alignment);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(alignment: Alignment, nothrow: Nothrow);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(alignment: Alignment, nothrow: Nothrow);
}

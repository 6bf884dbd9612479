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
//! These are looked up as soon as that is known, when the library is loaded. A later look-up would
//! wait for the dynamic linker's lock, which a thread may hold while it waits for the one that
//! allocates: `dlopen` runs constructors under it. Where no runtime was there by then, no later one
//! is asked for what it would make of the program's `malloc` and `free`; that is done here.
//!
//! Only what finds no memory looks for a runtime later, for its handlers and exceptions.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::c::{allocate, allocate_aligned, release};
use crate::clib::symbol_of;
use crate::served::{are_operators_ours, program_aligned_alloc, program_free, program_malloc};
use crate::text;

/// C++'s `std::align_val_t`.
type Alignment = usize;
/// C++'s `std::nothrow_t`, passed by reference.
type Nothrow = *const c_void;

/// How many times a library was to be loaded: what was not there before may be there since.
static LOADS: AtomicUsize = AtomicUsize::new(0);

/// Tells that a library is about to be loaded.
pub(crate) fn note_load() {
    LOADS.fetch_add(1, Ordering::Relaxed);
}

/// The runtime's operator of one name.
struct Operator {
    name: &'static CStr,
    /// Null as long as no runtime was found.
    found: AtomicPtr<c_void>,
    /// One more than the loads that there were when the last search found nothing; 0 before.
    missed: AtomicUsize,
}

impl Operator {
    /// Of a name with its zero byte.
    const fn new(name: &'static str) -> Self {
        let Ok(name) = CStr::from_bytes_with_nul(name.as_bytes()) else {
            panic!("a name ends with its zero byte");
        };
        let found = AtomicPtr::new(core::ptr::null_mut());
        Self { name, found, missed: AtomicUsize::new(0) }
    }

    fn found(&self) -> *mut c_void {
        // Relaxed: what is found is code, which was there before.
        self.found.load(Ordering::Relaxed)
    }

    /// Looks where names are searched, after this library; whether the operator is there.
    fn look_up(&self) -> bool {
        // SAFETY: the name is a C string.
        let next = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.keep(next)
    }

    /// Looks in a runtime that was loaded privately, with a plugin: no search by names finds it.
    fn look_up_in(&self, library: &CStr) -> bool {
        self.keep(symbol_of(library, self.name))
    }

    /// Keeps what is not null. Nothing is lost by it that another thread found.
    fn keep(&self, symbol: *mut c_void) -> bool {
        if !symbol.is_null() {
            self.found.store(symbol, Ordering::Relaxed);
        }
        !symbol.is_null()
    }

    /// What was found, or is there by now; null where no runtime is.
    #[cold]
    fn search(&self) -> *mut c_void {
        // Before the search: what is loaded meanwhile may be missed by it.
        let tried = LOADS.load(Ordering::Relaxed).wrapping_add(1);
        let is_there = !self.found().is_null()
            || self.missed.load(Ordering::Relaxed) == tried
            || self.look_up()
            || [c"libstdc++.so.6", c"libc++.so.1", c"libc++abi.so.1"]
                .into_iter()
                .any(|library| self.look_up_in(library));
        if !is_there {
            self.missed.store(tried, Ordering::Relaxed);
        }
        self.found()
    }
}

/// Looks up what the operators are left to, where they are not this library's.
#[cold]
pub(crate) fn look_up_runtime() {
    let mut operators = NEW.iter().chain(&DELETE);
    // Where the first is not there, no runtime is; an older one may lack some.
    let is_there = operators.next().is_some_and(Operator::look_up);
    if !is_there || operators.filter(|operator| !operator.look_up()).count() != 0 {
        // SAFETY: gives a text, which nobody reads, and so the program does not get it.
        unsafe { libc::dlerror() };
    }
}

/// What a runtime's `operator new` asks, where the program brought it and no runtime is there.
fn program_allocate(size: usize) -> *mut c_void {
    program_malloc()(size.max(1))
}

/// As [`program_allocate`], of the operators for an alignment, which round the size up to it.
fn program_allocate_aligned(alignment: Alignment, size: usize) -> *mut c_void {
    let alignment = alignment.max(size_of::<usize>());
    match size.max(1).checked_next_multiple_of(alignment) {
        Some(size) => program_aligned_alloc()(alignment, size),
        None => core::ptr::null_mut(),
    }
}

#[cold]
fn no_runtime() -> *mut c_void {
    text::write_to(
        2,
        "heapswitch: operator new has no memory, and no C++ runtime is loaded that would throw\n",
    );
    std::process::abort()
}

/// Operators that throw what the runtime throws, or, with `nothrow`, give null.
macro_rules! new_operators {
    ($(
        $name:ident($($argument:ident: $type:ty),*) = $allocate:expr, $programs:expr, $absent:expr;
    )*) => {
        #[expect(non_camel_case_types, reason = "the names as they are mangled")]
        enum New { $($name),* }

        static NEW: [Operator; [$(New::$name),*].len()] =
            [$(Operator::new(concat!(stringify!($name), "\0"))),*];

        $(
        /// C++'s `operator new`, in one of its forms.
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name($($argument: $type),*) -> *mut c_void {
            #[cold]
            extern "C-unwind" fn ask_runtime($($argument: $type),*) -> *mut c_void {
                type Function = extern "C-unwind" fn($($type),*) -> *mut c_void;
                let operator = &NEW[New::$name as usize];
                if operator.found().is_null() && !are_operators_ours() {
                    let block: *mut c_void = $programs;
                    if !block.is_null() {
                        return block;
                    }
                }
                let found = operator.search();
                // SAFETY: the mangled name tells the function's type, and null is `None`.
                match unsafe { core::mem::transmute::<*mut c_void, Option<Function>>(found) } {
                    Some(operator) => operator($($argument),*),
                    None => $absent(),
                }
            }
            if !are_operators_ours() {
                return ask_runtime($($argument),*);
            }
            let block: *mut c_void = $allocate;
            if block.is_null() { ask_runtime($($argument),*) } else { block }
        }
        )*
    };
}

new_operators! {
    _Znwm(size: usize) =
        allocate(size), program_allocate(size), no_runtime;
    _Znam(size: usize) =
        allocate(size), program_allocate(size), no_runtime;
    _ZnwmSt11align_val_t(size: usize, alignment: Alignment) =
        allocate_aligned(alignment, size), program_allocate_aligned(alignment, size), no_runtime;
    _ZnamSt11align_val_t(size: usize, alignment: Alignment) =
        allocate_aligned(alignment, size), program_allocate_aligned(alignment, size), no_runtime;
    _ZnwmRKSt9nothrow_t(size: usize, nothrow: Nothrow) =
        allocate(size), program_allocate(size), core::ptr::null_mut;
    _ZnamRKSt9nothrow_t(size: usize, nothrow: Nothrow) =
        allocate(size), program_allocate(size), core::ptr::null_mut;
    _ZnwmSt11align_val_tRKSt9nothrow_t(size: usize, alignment: Alignment, nothrow: Nothrow) =
        allocate_aligned(alignment, size), program_allocate_aligned(alignment, size),
        core::ptr::null_mut;
    _ZnamSt11align_val_tRKSt9nothrow_t(size: usize, alignment: Alignment, nothrow: Nothrow) =
        allocate_aligned(alignment, size), program_allocate_aligned(alignment, size),
        core::ptr::null_mut;
}

macro_rules! delete_operators {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        #[expect(non_camel_case_types, reason = "the names as they are mangled")]
        enum Delete { $($name),* }

        static DELETE: [Operator; [$(Delete::$name),*].len()] =
            [$(Operator::new(concat!(stringify!($name), "\0"))),*];

        $(
        /// C++'s `operator delete`, in one of its forms.
        ///
        /// # Safety
        /// `block` is null or came from `operator new` and was not freed since.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(block: *mut c_void $(, $argument: $type)*) {
            #[cold]
            unsafe extern "C" fn ask_runtime(block: *mut c_void $(, $argument: $type)*) {
                type Function = unsafe extern "C" fn(*mut c_void $(, $type)*);
                let found = DELETE[Delete::$name as usize].found();
                // SAFETY: the mangled name tells the function's type, and null is `None`. The rest
                // is the caller's contract.
                unsafe {
                    match core::mem::transmute::<*mut c_void, Option<Function>>(found) {
                        Some(operator) => operator(block $(, $argument)*),
                        None => program_free()(block),
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
        )*
    };
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

//! What `sys` uses of libc, for systems other than Linux: the names are there, and what would map
//! memory or touch a thread's placement is refused (`ENOSYS`).
//!
//! So no region is ever reserved, every allocation goes to the declared global allocator, sources
//! of mapped memory report errors, and workers cannot be pinned. Exits of threads are noticed by a
//! thread-local's destructor; there is no `fork`.
//!
//! On Linux `--cfg heapswitch_pass_through` uses this file, so that the tests run it.
#![expect(non_camel_case_types, reason = "libc's names")]
#![expect(non_upper_case_globals, reason = "libc's names")]
#![expect(dead_code, reason = "what a refused call would fill in is not read")]

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_void};
use std::io::Write;
use std::sync::OnceLock;

macro_rules! constants {
    ($($name:ident: $type:ty = $value:expr;)*) => { $(pub(super) const $name: $type = $value;)* };
}

constants! {
    ENOENT: c_int = 2;
    EPERM: c_int = 1;
    EINTR: c_int = 4;
    EIO: c_int = 5;
    ENOMEM: c_int = 12;
    EACCES: c_int = 13;
    EFAULT: c_int = 14;
    EINVAL: c_int = 22;
    EFBIG: c_int = 27;
    ENOSPC: c_int = 28;
    ENOSYS: c_int = 38;
    EOPNOTSUPP: c_int = 95;
    CLOCK_MONOTONIC_COARSE: c_int = 6;
    MADV_DONTDUMP: c_int = 16;
    MADV_DONTNEED: c_int = 4;
    MADV_HUGEPAGE: c_int = 14;
    MADV_NOHUGEPAGE: c_int = 15;
    MADV_POPULATE_WRITE: c_int = 23;
    MADV_REMOVE: c_int = 9;
    MAP_ANONYMOUS: c_int = 0x20;
    MAP_FAILED: *mut c_void = !0_usize as *mut c_void;
    MAP_FIXED: c_int = 0x10;
    MAP_HUGETLB: c_int = 0x4_0000;
    MAP_HUGE_SHIFT: c_int = 26;
    MAP_NORESERVE: c_int = 0x4000;
    MAP_POPULATE: c_int = 0x8000;
    MAP_PRIVATE: c_int = 2;
    MAP_SHARED: c_int = 1;
    MLOCK_ONFAULT: c_uint = 1;
    MREMAP_MAYMOVE: c_int = 1;
    MS_SYNC: c_int = 4;
    O_CLOEXEC: c_int = 0x8_0000;
    O_RDONLY: c_int = 0;
    O_WRONLY: c_int = 1;
    PROT_NONE: c_int = 0;
    PROT_READ: c_int = 1;
    PROT_WRITE: c_int = 2;
    PR_SET_VMA: c_int = 0x5356_4d41;
    PR_SET_VMA_ANON_NAME: usize = 0;
    RLIMIT_AS: c_int = 9;
    RLIMIT_FSIZE: c_int = 1;
    RLIM_INFINITY: u64 = u64::MAX;
    SYS_get_mempolicy: c_long = 239;
    SYS_getcpu: c_long = 309;
    SYS_mbind: c_long = 237;
    SYS_membarrier: c_long = 324;
    SYS_move_pages: c_long = 279;
    SYS_set_mempolicy: c_long = 238;
    _SC_PAGESIZE: c_int = 30;
    _SC_PHYS_PAGES: c_int = 85;
}

pub(super) use core::ffi::{c_long, c_uint, c_uint as pthread_key_t};
pub(super) type off_t = i64;

pub(super) struct rlimit {
    pub(super) rlim_cur: u64,
    pub(super) rlim_max: u64,
}

pub(super) struct timespec {
    pub(super) tv_sec: i64,
    pub(super) tv_nsec: i64,
}

/// A set of processors.
pub(super) struct cpu_set_t;

macro_rules! refused {
    ($($name:ident($($argument:ty),*) -> $result:ty = $value:expr;)*) => { $(
        /// # Safety
        /// None: nothing happens.
        pub(super) unsafe fn $name($(_: $argument),*) -> $result {
            $value
        }
    )* };
}

refused! {
    mmap(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void = MAP_FAILED;
    mremap(*mut c_void, usize, usize, c_int, *mut c_void) -> *mut c_void = MAP_FAILED;
    munmap(*mut c_void, usize) -> c_int = -1;
    mprotect(*mut c_void, usize, c_int) -> c_int = -1;
    madvise(*mut c_void, usize, c_int) -> c_int = -1;
    mincore(*mut c_void, usize, *mut u8) -> c_int = -1;
    mlock(*const c_void, usize) -> c_int = -1;
    mlock2(*const c_void, usize, c_uint) -> c_int = -1;
    msync(*mut c_void, usize, c_int) -> c_int = -1;
    prctl(c_int, usize, usize, usize, usize) -> c_int = -1;
    ftruncate(c_int, off_t) -> c_int = -1;
    fallocate(c_int, c_int, off_t, off_t) -> c_int = -1;
    open(*const c_char, c_int) -> c_int = -1;
    read(c_int, *mut c_void, usize) -> isize = -1;
    close(c_int) -> c_int = -1;
    sysconf(c_int) -> c_long = -1;
    sched_getcpu() -> c_int = -1;
    getrlimit(c_int, &mut rlimit) -> c_int = -1;
    clock_gettime(c_int, &mut timespec) -> c_int = -1;
    sched_getaffinity(c_int, usize, *mut cpu_set_t) -> c_int = -1;
    sched_setaffinity(c_int, usize, *const cpu_set_t) -> c_int = -1;
    syscall(c_long, usize, usize, usize, usize, usize, usize) -> c_long = -1;
    pthread_key_delete(pthread_key_t) -> c_int = ENOSYS;
    pthread_atfork(Handler, Handler, Handler) -> c_int = 0;
}

type Handler = Option<unsafe extern "C" fn()>;
type Destructor = unsafe extern "C" fn(*mut c_void);

/// # Safety
/// None.
pub(super) unsafe fn __errno_location() -> *mut c_int {
    std::thread_local! {
        static ERROR: Cell<c_int> = const { Cell::new(ENOSYS) };
    }
    // Every refusal is for the same reason.
    ERROR.with(|error| {
        error.set(ENOSYS);
        error.as_ptr()
    })
}

/// # Safety
/// The buffer is valid for reads of `length` bytes.
pub(super) unsafe fn write(_: c_int, buffer: *const c_void, length: usize) -> isize {
    // SAFETY: the caller's contract.
    let bytes = unsafe { core::slice::from_raw_parts(buffer.cast::<u8>(), length) };
    match std::io::stderr().write_all(bytes) {
        Ok(()) => length as isize,
        Err(_) => -1,
    }
}

/// Destructors by key.
static DESTRUCTORS: [OnceLock<Destructor>; 4] = [const { OnceLock::new() }; 4];

/// The keys that this thread set.
struct Keys(Cell<[bool; DESTRUCTORS.len()]>);

impl Drop for Keys {
    fn drop(&mut self) {
        for (destructor, is_set) in DESTRUCTORS.iter().zip(self.0.take()) {
            if let (Some(destructor), true) = (destructor.get(), is_set) {
                // SAFETY: it was given for this: to run at a thread's end, with a value not null.
                unsafe { destructor(core::ptr::dangling_mut::<u8>().cast()) };
            }
        }
    }
}

/// # Safety
/// The destructor may be called at each thread's end.
pub(super) unsafe fn pthread_key_create(
    key: &mut pthread_key_t,
    destructor: Option<Destructor>,
) -> c_int {
    let Some(destructor) = destructor else { return EINVAL };
    match DESTRUCTORS.iter().position(|slot| slot.set(destructor).is_ok()) {
        Some(index) => {
            *key = index as pthread_key_t;
            0
        }
        None => ENOMEM,
    }
}

/// # Safety
/// None.
pub(super) unsafe fn pthread_setspecific(key: pthread_key_t, _: *const c_void) -> c_int {
    std::thread_local! {
        static KEYS: Keys = const { Keys(Cell::new([false; DESTRUCTORS.len()])) };
    }
    let set = KEYS.try_with(|keys| {
        let mut are_set = keys.0.get();
        if let Some(is_set) = are_set.get_mut(key as usize) {
            *is_set = true;
        }
        keys.0.set(are_set);
    });
    if set.is_ok() { 0 } else { EINVAL }
}

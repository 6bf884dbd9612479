//! heapswitch as the `malloc` of programs that were not built with it: `libheapswitch_preload.so`,
//! for `LD_PRELOAD`.
//!
//! | file | what it is |
//! |---|---|
//! | `c` | `malloc`, `free` and their kin, with glibc's behaviour and errno |
//! | `cpp` | C++'s `operator new` and `delete` |
//! | `information` | `mallinfo2`, `malloc_stats`, `malloc_trim`, `mallopt` |
//! | `clib` | the C library's own allocator: what serves where no heap can |
//! | `loader` | `dlopen`, so that what it loads finds this library's `free` |
//! | `served` | whether the program brought a `malloc` or operators of its own |
//! | `report` | what the library tells when the program ends |
//! | `text` | numbers and names as text, without allocating |
//!
//! Every exported function is safe at any time: before constructors run, in `fork`'s handlers, in
//! destructors of thread-specific data, while the dynamic linker holds its locks. What the set-up
//! of a thread allocates itself (`pthread_setspecific`, `pthread_atfork`) the C library's own
//! allocator serves, under its internal names, so nothing here is entered twice.
//!
//! Three ask the dynamic linker, and wait where another thread holds its locks: an `operator new`
//! that finds no memory, the first time, for the runtime's (but where the program replaced some
//! operators or `malloc`, those of a runtime that it was started with are found when the library is
//! loaded); `malloc_usable_size`, the first time that a block is the C library's own; and `dlopen`,
//! as it must.
//!
//! For Linux with glibc. Elsewhere the library is empty.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod c;
mod clib;
mod cpp;
mod information;
mod loader;
mod report;
mod served;
mod text;

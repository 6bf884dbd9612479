//! The fast paths of C's `malloc` and `free`, as the processor takes them: this program is traced
//! step by step on the library, and each path compared with what is written down beside this file.
//!
//! `cargo test --release --package heapswitch-preload --test hot_paths -- --ignored`; needs what
//! the allocator's own test of that name needs.
#![cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
#![cfg(not(any(
    heapswitch_pass_through,
    heapswitch_check,
    heapswitch_asan,
    heapswitch_tsan,
    loom
)))]

#[expect(dead_code, reason = "the library is used, and no program in C")]
#[path = "preload/support.rs"]
mod support;
#[path = "../../tests/support/traced.rs"]
mod traced;

use std::ffi::c_void;
use std::hint::black_box;

use traced::{Code, hold, mark};

const HELD: [&str; 3] = ["malloc", "free", "realloc"];

/// Takes each path once, and marks it.
fn take_paths() {
    // The compiler knows these functions, and would leave out calls that have no effect.
    let malloc: unsafe extern "C" fn(usize) -> *mut c_void = black_box(libc::malloc);
    let free: unsafe extern "C" fn(*mut c_void) = black_box(libc::free);
    let realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void = black_box(libc::realloc);
    // SAFETY: each block is freed once.
    unsafe {
        let blocks = [(); 100].map(|()| malloc(48));
        blocks.into_iter().for_each(|block| free(block));
        mark(0, malloc as *const ());
        let block = malloc(48);
        mark(2, realloc as *const ());
        let block = realloc(block, 40);
        mark(1, free as *const ());
        free(block);
    }
}

/// Is the program that is traced, where the environment says so.
extern "C" fn constructor() {
    if traced::is_traced() {
        take_paths();
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) };
    }
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

#[test]
#[ignore = "reads optimized code: add --release, and -- --ignored"]
fn the_fast_paths_are_as_written_down() {
    if cfg!(debug_assertions) {
        panic!("this is no optimized build");
    }
    let library = support::library();
    let code = Code::of(&library);
    let paths = traced::paths(&[("LD_PRELOAD", &library)]);
    assert_eq!(paths.iter().map(|steps| steps.path).collect::<Vec<_>>(), [0, 2, 1]);
    for steps in paths {
        let name = HELD[steps.path];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hot_paths");
        hold(folder, name, &code.read(name, &steps));
    }
}

//! The fast paths, as the compiler wrote them and the processor takes them: this program is traced
//! step by step, and each path compared with what is written down in `tests/hot_paths`.
//!
//! `cargo test --release --test hot_paths -- --ignored`; needs objdump (binutils), and a system
//! that lets processes be traced. `HEAPSWITCH_WRITE_HOT_PATHS=1` writes the files anew.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![cfg(not(any(
    heapswitch_pass_through,
    heapswitch_check,
    heapswitch_asan,
    heapswitch_tsan,
    loom
)))]

#[path = "support/traced.rs"]
mod traced;

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;

use heapswitch::strategy::slab::Slab;
use heapswitch::{Heap, HeapSwitch, LifetimeHint};
use traced::{Code, hold, mark};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const BLOCK: Layout = Layout::new::<[u64; 6]>();

/// As many names as a block of 48 bytes has room for, when it waits for its owner.
const NAMES: usize = 5;

/// Allocates 48 bytes, in whichever heap is in use.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_allocate() -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { alloc(BLOCK) }
}

/// Frees 48 bytes, of any heap.
///
/// # Safety
/// The block is of [`hot_allocate`] and not freed yet.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn hot_free(block: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe { dealloc(block, BLOCK) };
}

/// Allocates a size that the compiler does not know.
///
/// # Safety
/// `size` is at least 1 and at most `isize::MAX - 7`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn hot_allocate_any(size: usize) -> *mut u8 {
    // SAFETY: the caller's contract.
    unsafe { alloc(Layout::from_size_align_unchecked(size, 8)) }
}

/// Makes 48 bytes fit another size.
///
/// # Safety
/// The block is of [`hot_allocate`] and not freed yet; the size is at most `isize::MAX - 7`.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn hot_resize(block: *mut u8, size: usize) -> *mut u8 {
    // SAFETY: the caller's contract.
    unsafe { realloc(block, BLOCK, size) }
}

/// Enters a heap and leaves it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_enter_and_leave(heap: &Heap) -> bool {
    heap.run(|| black_box(())).is_ok()
}

/// A path that is held: what is written down of it, and the function that it leads through.
struct Held(&'static str, &'static str);

const ALLOCATE: usize = 0;
const ALLOCATE_ANY: usize = 1;
const FREE: usize = 2;
const RESIZE_IN_PLACE: usize = 3;
const ALLOCATE_IN_BUMP: usize = 4;
const ALLOCATE_ANY_IN_BUMP: usize = 5;
const FREE_IN_BUMP: usize = 6;
const ENTER_AND_LEAVE: usize = 7;
const FREE_OF_ANOTHER: usize = 8;
const FREE_OF_ANOTHER_AS_HOLDER: usize = 9;

const HELD: [Held; 10] = [
    Held("allocate", "hot_allocate"),
    Held("allocate_any", "hot_allocate_any"),
    Held("free", "hot_free"),
    Held("resize_in_place", "hot_resize"),
    Held("allocate_in_bump", "hot_allocate"),
    Held("allocate_any_in_bump", "hot_allocate_any"),
    Held("free_in_bump", "hot_free"),
    Held("enter_and_leave", "hot_enter_and_leave"),
    Held("free_of_another", "hot_free"),
    Held("free_of_another_as_holder", "hot_free"),
];

/// What the process that is traced ends with where something was not as it must be.
const WRONG: i32 = 2;

fn must(is_right: bool) {
    if !is_right {
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(WRONG) };
    }
}

/// Takes each path once, and marks it.
fn take_paths() {
    let [allocate, free] = [hot_allocate as *const (), hot_free as *const ()];
    // SAFETY: the blocks are of `hot_allocate`, or as long, and each is freed once.
    unsafe {
        let blocks = [(); 100].map(|()| hot_allocate());
        blocks.into_iter().for_each(|block| hot_free(block));

        mark(ALLOCATE, allocate);
        let block = hot_allocate();
        mark(ALLOCATE_ANY, hot_allocate_any as *const ());
        let any = hot_allocate_any(black_box(48));
        mark(RESIZE_IN_PLACE, hot_resize as *const ());
        must(!block.is_null() && !any.is_null() && hot_resize(block, black_box(44)) == block);
        mark(FREE, free);
        hot_free(block);
        hot_free(any);

        let (Ok(bump), Ok(other)) =
            (Heap::with_hint(LifetimeHint::Short), Heap::builder().build_kind::<Slab>(()))
        else {
            return must(false);
        };
        let in_bump = bump.run(|| {
            let [first, second] = [hot_allocate(), hot_allocate()];
            mark(ALLOCATE_IN_BUMP, allocate);
            let block = hot_allocate();
            mark(ALLOCATE_ANY_IN_BUMP, hot_allocate_any as *const ());
            let any = hot_allocate_any(black_box(48));
            mark(FREE_IN_BUMP, free);
            hot_free(first);
            [second, block, any].into_iter().for_each(|block| hot_free(block));
        });
        must(in_bump.is_ok());
        must(hot_enter_and_leave(&bump));
        mark(ENTER_AND_LEAVE, hot_enter_and_leave as *const ());
        must(hot_enter_and_leave(&bump));

        let Ok(blocks) = other.run(|| [(); NAMES + 2].map(|()| hot_allocate())) else {
            return must(false);
        };
        for (number, block) in blocks.into_iter().enumerate() {
            match number {
                // The first one's chain is new.
                2 => mark(FREE_OF_ANOTHER, free),
                number if number == NAMES + 1 => mark(FREE_OF_ANOTHER_AS_HOLDER, free),
                _ => {}
            }
            hot_free(block);
        }
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
#[ignore = "reads optimized code: cargo test --release --test hot_paths -- --ignored"]
fn the_fast_paths_are_as_written_down() {
    if cfg!(debug_assertions) {
        panic!("this is no optimized build");
    }
    let code = Code::of(&std::env::current_exe().unwrap());
    let paths = traced::paths(&[]);
    let taken: Vec<usize> = paths.iter().map(|steps| steps.path).collect();
    assert!((0..HELD.len()).all(|path| taken.contains(&path)), "{taken:?}");
    for steps in paths {
        let Held(name, function) = HELD[steps.path];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hot_paths");
        hold(folder, name, &code.read(function, &steps));
    }
}

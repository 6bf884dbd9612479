//! The fast paths, as the compiler wrote them: read back from this program, instruction by
//! instruction, and compared with what is written down in `tests/hot_paths`.
//!
//! `cargo test --release --test hot_paths -- --ignored`; needs objdump (binutils). With the
//! compiler that the files are of each instruction must be the same; with another no path may be
//! longer by more than a tenth. `HEAPSWITCH_WRITE_HOT_PATHS=1` writes the files anew.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![cfg(not(any(
    heapswitch_pass_through,
    heapswitch_check,
    heapswitch_asan,
    heapswitch_tsan,
    loom
)))]

use std::alloc::{Layout, alloc, dealloc};
use std::path::Path;
use std::process::Command;

use heapswitch::{Heap, HeapSwitch};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The compiler that the files are of.
const COMPILER: &str = "rustc 1.95.0";

const BLOCK: Layout = Layout::new::<[u64; 6]>();

/// Allocates 48 bytes, in the thread's heap or in a context that is bump.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_allocate() -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { alloc(BLOCK) }
}

/// Frees 48 bytes.
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

/// Enters a heap and leaves it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hot_enter_and_leave(heap: &Heap) -> bool {
    heap.run(|| std::hint::black_box(())).is_ok()
}

/// The mnemonics of a function of this program, up to the return that ends its fast path, which
/// comes first: what is cold stands behind it.
fn instructions(function: &str) -> Vec<String> {
    let output = Command::new("objdump")
        .args(["--disassemble=".to_owned() + function, "--no-show-raw-insn".to_owned()])
        .arg(std::env::current_exe().unwrap())
        .output()
        .expect("objdump starts: it is in the package binutils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let body = text.split_once(&format!("<{function}>:\n")).expect("the function is there").1;
    let mut mnemonics = Vec::new();
    for line in body.lines() {
        let Some((_, instruction)) = line.split_once(":\t") else { break };
        let mnemonic = instruction.split_whitespace().next().unwrap_or_default().to_owned();
        let is_end = mnemonic.starts_with("ret");
        mnemonics.push(mnemonic);
        if is_end {
            return mnemonics;
        }
    }
    panic!("{function} does not return:\n{text}");
}

fn is_the_compiler() -> bool {
    let output = Command::new("rustc").arg("--version").output().expect("rustc starts");
    String::from_utf8_lossy(&output.stdout).starts_with(COMPILER)
}

#[test]
#[ignore = "reads optimized code: cargo test --release --test hot_paths -- --ignored"]
fn the_fast_paths_are_as_written_down() {
    if cfg!(debug_assertions) {
        panic!("this is no optimized build");
    }
    // They are used, and do what they are for.
    let heap = Heap::new().unwrap();
    // SAFETY: the sizes are right, and each block is freed once.
    unsafe {
        let blocks = [hot_allocate(), hot_allocate_any(48)];
        assert!(blocks.iter().all(|block| !block.is_null()));
        blocks.into_iter().for_each(|block| hot_free(block));
    }
    assert!(hot_enter_and_leave(&heap));

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hot_paths");
    for function in ["hot_allocate", "hot_allocate_any", "hot_free", "hot_enter_and_leave"] {
        let found = instructions(function);
        let file = folder.join(function).with_extension("txt");
        if std::env::var_os("HEAPSWITCH_WRITE_HOT_PATHS").is_some() {
            std::fs::write(&file, found.join("\n") + "\n").unwrap();
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let written: Vec<&str> = text.lines().collect();
        println!("{function}: {} instructions", found.len());
        if is_the_compiler() {
            assert_eq!(found, written, "{function}");
        } else {
            assert!(10 * found.len() <= 11 * written.len(), "{function}: {found:?}");
        }
    }
}

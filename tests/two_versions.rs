//! Two versions of the crate in one program, as two dependencies may bring them: each keeps its own
//! threads' state, its own region and heaps, and frees only what is its own.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = r#"
use std::alloc::{GlobalAlloc, Layout};

#[global_allocator]
static GLOBAL: first::HeapSwitch = first::HeapSwitch;

fn strings() -> Vec<String> {
    (0..1000).map(|number| "s".repeat(number)).collect()
}

fn work() {
    let outer = first::Heap::new().unwrap();
    let inner = second::Heap::new().unwrap();
    let (escapees, block) = outer.run(|| inner.run(|| {
        assert_eq!(first::current(), first::CurrentAllocatorInUse::CoroutineLocal);
        assert_eq!(second::current(), second::CurrentAllocatorInUse::CoroutineLocal);
        let block = unsafe { second::HeapSwitch.alloc(Layout::new::<[u64; 9]>()) };
        (strings(), block)
    }).unwrap()).unwrap();
    assert!(outer.contains(escapees[7].as_ptr()) && !inner.contains(escapees[7].as_ptr()));
    assert!(inner.contains(block) && !outer.contains(block));
    second::with_global(|| assert_ne!(first::current(), first::CurrentAllocatorInUse::Global))
        .unwrap();
    assert_eq!(inner.close().blocks, 1);
    unsafe { block.write_bytes(1, 72) };
    let block = unsafe { second::HeapSwitch.realloc(block, Layout::new::<[u64; 9]>(), 5000) };
    assert!(outer.close().blocks >= 1000);
    assert!(escapees.iter().enumerate().all(|(number, text)| text.len() == number));
    std::thread::spawn(move || drop(escapees)).join().unwrap();
    let layout = Layout::from_size_align(5000, 8).unwrap();
    unsafe { second::HeapSwitch.dealloc(block, layout) };
}

fn main() {
    let rounds = || (0..20).for_each(|_| work());
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(rounds)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    work();
    assert!(first::process_usage().region.reserved_bytes > 0);
    assert!(second::process_usage().region.reserved_bytes > 0);
    println!("both work");
}
"#;

fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_sources(&source, &target);
        } else {
            fs::copy(source, target).unwrap();
        }
    }
}

/// The crate, copied with another number in its version.
fn other_version(root: &Path, to: &Path) {
    for folder in ["src", "macros/src"] {
        copy_sources(&root.join(folder), &to.join(folder));
    }
    // The manifest names this one.
    fs::create_dir_all(to.join("benches")).unwrap();
    fs::copy(root.join("benches/switching.rs"), to.join("benches/switching.rs")).unwrap();
    for manifest in ["Cargo.toml", "macros/Cargo.toml"] {
        let text = fs::read_to_string(root.join(manifest)).unwrap();
        let changed = text.replace(env!("CARGO_PKG_VERSION"), "77.5.3");
        fs::write(to.join(manifest), changed).unwrap();
    }
}

fn write_program(root: &Path, folder: &Path, second: &Path) {
    let dependency = |name: &str, path: &Path| {
        format!(
            "{name} = {{ package = \"heapswitch\", path = {path:?}, default-features = false }}"
        )
    };
    let manifest = format!(
        "[package]\nname = \"two-versions\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\n\n[dependencies]\n{}\n{}\n",
        dependency("first", root),
        dependency("second", second),
    );
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.join("src/main.rs"), PROGRAM).unwrap();
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

#[test]
fn two_versions_allocate_and_switch_in_one_program() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("two_versions");
    let _ = fs::remove_dir_all(place.join("second"));
    other_version(&root, &place.join("second"));
    write_program(&root, &place.join("program"), &place.join("second"));
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline"])
        .current_dir(place.join("program"))
        .env("CARGO_TARGET_DIR", place.join("target"))
        .output()
        .unwrap();
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("both work"), "{printed}{errors}");
}

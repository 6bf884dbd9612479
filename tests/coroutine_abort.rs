//! Coroutines in a program built with `panic = "abort"`: the example `panic_abort`, compiled so.
//! Not under a sanitizer, which the program's own compilation would not have.
#![cfg(not(any(heapswitch_asan, heapswitch_tsan)))]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SIGABRT: i32 = 6;

/// Compiles the example in a package of its own, whose profiles say `panic = "abort"`.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coroutine_abort");
    let manifest = format!(
        "[package]\nname = \"aborting\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\n\n[[bin]]\nname = \"aborting\"\npath = {:?}\n\n\
         [dependencies.heapswitch]\npath = {root:?}\ndefault-features = false\n\
         features = [\"corosensei\"]\n\n[profile.dev]\npanic = \"abort\"\n",
        root.join("examples/panic_abort.rs"),
    );
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root.join("Cargo.lock"), place.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline"])
        .current_dir(&place)
        .env("CARGO_TARGET_DIR", place.join("target"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.join("target/debug/aborting")
}

#[test]
fn it_runs_to_its_end_and_aborts_where_it_would_unwind() {
    let program = build();
    let run = |mode: &str| -> Output {
        let output = Command::new(&program).arg(mode).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ran; unwinding is off\n", "{mode}");
        output
    };
    assert!(run("").status.success());
    assert_eq!(run("drop").status.signal(), Some(SIGABRT));
    let output = run("panic");
    assert_eq!(output.status.signal(), Some(SIGABRT));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unlucky"));
}

//! Coroutines in a program built with `panic = "abort"`: the example `panic_abort`, compiled so.
//! Not under a sanitizer, which the program's own compilation would not have.
#![cfg(not(any(heapswitch_asan, heapswitch_tsan)))]

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};

const SIGABRT: i32 = 6;

/// Compiles the example alone for `panic = "abort"`; what it depends on is as for this test.
fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(|deps| deps.parent()).unwrap();
    let folder = built.file_name().and_then(|name| name.to_str()).unwrap();
    let profile = if folder == "debug" { "dev" } else { folder };
    let output = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--example", "panic_abort", "--features", "corosensei"])
        .args(["--profile", profile, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .arg("--target-dir")
        .arg(built.parent().unwrap())
        .args(["--", "-C", "panic=abort"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built.join("examples/panic_abort")
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

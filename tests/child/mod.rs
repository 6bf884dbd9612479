//! Runs one case of a test in a process of its own, which has to fail and say why.

use std::process::Command;

/// The variable that names the case that a child process is to run.
const CASE: &str = "HEAPSWITCH_TEST_CASE";

/// In the test `test` of this program: runs `case` in a child process, and gives what that wrote to
/// its standard error. The child has to fail.
pub(crate) fn failing(test: &str, name: &str, case: impl FnOnce()) -> String {
    if std::env::var(CASE).is_ok_and(|running| running == name) {
        case();
        eprintln!("case {name} came to its end");
        std::process::exit(0);
    }
    if std::env::var_os(CASE).is_some() {
        return String::new(); // Another case of this test is the child's.
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{test}, case {name}, was not stopped:\n{errors}");
    errors
}

/// As [`failing`], and what was written contains `expected`.
pub(crate) fn fails_with(test: &str, name: &str, expected: &str, case: impl FnOnce()) {
    let errors = failing(test, name, case);
    let is_child = std::env::var_os(CASE).is_some();
    assert!(is_child || errors.contains(expected), "{test}, case {name}:\n{errors}");
}

//! `heapswitch-run`: what it tells, and how it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Ended, Folder, library, run, runner, wait};

fn program(folder: &Folder) -> PathBuf {
    folder.compile("gcc", "reported.c", &["-fno-builtin", "-Wno-cast-function-type"])
}

#[track_caller]
fn heapswitch_run(options: &[&str], program: &Path, arguments: &[&str]) -> Ended {
    run(Command::new(runner()).args(options).arg(program).args(arguments))
}

/// The number that follows a label.
#[track_caller]
fn figure(report: &str, label: &str) -> f64 {
    let line = report.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let number = number.and_then(|number| number.trim_end_matches(',').parse().ok());
    number.unwrap_or_else(|| panic!("no figure `{label}` in\n{report}"))
}

#[test]
fn it_tells_what_a_program_needed() {
    let folder = Folder::new();
    let ended = heapswitch_run(&["--"], &program(&folder), &["", "7"]);
    assert_eq!((ended.status.code(), ended.output.as_str()), (Some(7), "told\n"), "{ended:?}");
    let report = &ended.errors;
    assert_eq!(report.matches("heapswitch: process").count(), 1, "{report}");
    if cfg!(not(heapswitch_pass_through)) {
        assert!(figure(report, "peak") >= 64.0 && report.contains(" MiB in heaps"), "{report}");
        // The first thread only frees, so it needs no heap; the others' is the same one.
        assert!((2.0..=4.0).contains(&figure(report, "threads")), "{report}");
        assert_eq!(figure(report, "foreign frees"), 10_000.0, "{report}");
        assert!(figure(report, "slow paths") > 10.0, "{report}");
        assert!(figure(report, "48") > 0.0, "{report}");
        assert!(figure(report, "larger") >= 1.0, "{report}");
    }
}

#[test]
fn it_tells_of_children_where_asked() {
    let folder = Folder::new();
    let program = program(&folder);
    let alone = heapswitch_run(&[], &program, &["parent"]);
    assert_eq!(alone.errors.matches("heapswitch: process").count(), 1, "{alone:?}");
    let all = heapswitch_run(&["--all"], &program, &["parent"]);
    assert_eq!(all.errors.matches("heapswitch: process").count(), 2, "{all:?}");
}

#[test]
fn it_ends_as_the_program_does() {
    let folder = Folder::new();
    let program = program(&folder);
    let killed = heapswitch_run(&[], &program, &["killed"]);
    assert_eq!(killed.status.code(), Some(128 + 15));
    assert!(killed.errors.contains("killed by signal 15"), "{killed:?}");
    let silent = heapswitch_run(&[], &program, &["at once"]);
    assert_eq!(silent.status.code(), Some(0));
    assert!(silent.errors.contains("it ended by _exit"), "{silent:?}");
    let missing = heapswitch_run(&[], &folder.0.join("no such program"), &[]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(missing.errors.contains("no such program"), "{missing:?}");
}

#[test]
fn it_says_what_it_lacks() {
    let folder = Folder::new();
    let copy = folder.0.join("heapswitch-run");
    std::fs::copy(runner(), &copy).expect("a copy");
    let alone = run(Command::new(&copy).arg("true"));
    assert_eq!(alone.status.code(), Some(125));
    assert!(alone.errors.contains("libheapswitch_preload.so is missing"), "{alone:?}");
    let spaced = folder.0.join("a folder");
    std::fs::create_dir(&spaced).expect("a folder");
    std::fs::copy(runner(), spaced.join("heapswitch-run")).expect("a copy");
    std::fs::write(spaced.join("libheapswitch_preload.so"), "").expect("a file");
    let split = run(Command::new(spaced.join("heapswitch-run")).arg("true"));
    assert!(split.errors.contains("takes no path with a space"), "{split:?}");
}

#[test]
fn it_explains_itself() {
    let help = run(Command::new(runner()).arg("--help"));
    assert!(help.status.success() && help.output.contains("usage: heapswitch-run"), "{help:?}");
    for wrong in [&[][..], &["--nonsense", "true"], &["--"]] {
        let ended = run(Command::new(runner()).args(wrong));
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.errors.contains("usage: heapswitch-run"), "{ended:?}");
    }
}

/// A write that nobody reads, or to a file at the process's limit, raises a signal that ends it.
#[test]
fn what_the_library_writes_ends_no_program() {
    let folder = Folder::new();
    let program = program(&folder);
    let report = folder.0.join("report");
    let report = report.to_str().expect("a path that is text");
    let settings = [
        ("HEAPSWITCH_DECAY_MILLISECONDS", "no number"),
        ("HEAPSWITCH_STATISTICS", "true"),
        ("HEAPSWITCH_REPORT", "-"),
        ("HEAPSWITCH_REPORT", report),
    ];
    for (name, value) in settings {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "ulimit -f 0; LD_PRELOAD=$0 exec \"$@\""]).arg(library());
        limited.arg(&program).args(["", "7"]).env(name, value);
        let mut child = limited.stdout(Stdio::null()).stderr(writer).spawn().expect("a shell");
        let status = wait(&mut child);
        assert_eq!(status.and_then(|status| status.code()), Some(7), "{name}={value}: {status:?}");
    }
}

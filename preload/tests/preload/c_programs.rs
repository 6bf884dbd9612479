//! C and C++ programs, compiled here and run twice each: with the C library's own allocator, as the
//! oracle, and with the library preloaded. Both have to pass and say the same.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Ended, Folder, library, not_run, run};

/// Runs a program that was compiled in `folder`, with the C library's allocator and with ours.
#[track_caller]
fn behaves_the_same(folder: &Folder, program: &Path, arguments: &[&OsStr]) -> Ended {
    let expected = run(Command::new(program).args(arguments));
    assert!(expected.status.success(), "without the library: {expected:?}");
    let report = folder.0.join("report");
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library()).env("HEAPSWITCH_REPORT", &report);
    if cfg!(not(heapswitch_pass_through)) {
        // The programs that tell the two apart are told so.
        command.arg("preloaded");
    }
    let ended = run(command.args(arguments));
    assert!(ended.status.success(), "with the library: {ended:?}");
    assert_eq!(ended.output, expected.output);
    // The library was there, and knew that it was at the end.
    let report = std::fs::read_to_string(report).expect("a report");
    assert!(report.contains(&format!("process {} ", ended.process)), "{report}");
    ended
}

fn c_program(source: &str, more: &[&str]) {
    let folder = Folder::new();
    let program = folder.compile("gcc", source, more);
    behaves_the_same(&folder, &program, &[]);
}

#[test]
fn every_function_keeps_its_contract() {
    let folder = Folder::new();
    let more = ["-fno-builtin", "-ldl", "-Wno-alloc-size-larger-than"];
    let program = folder.compile("gcc", "functions.c", &more);
    let ended = behaves_the_same(&folder, &program, &[]);
    // What `malloc_stats` writes.
    assert!(ended.errors.contains("heapswitch: process"), "{}", ended.errors);
}

#[test]
fn it_serves_before_main_after_it_and_in_fork_handlers() {
    c_program("early.c", &[]);
}

#[test]
fn it_serves_while_threads_end() {
    c_program("threads.c", &[]);
}

#[test]
fn threads_that_allocate_little_hold_little() {
    c_program("held.c", &[]);
}

#[test]
fn children_of_processes_with_threads_go_on() {
    c_program("forks.c", &[]);
}

#[test]
fn no_block_is_shared_lost_or_changed_under_stress() {
    c_program("stress.c", &[]);
}

#[test]
fn libraries_come_and_go_and_blocks_cross() {
    let folder = Folder::new();
    folder.compile("gcc", "plugin.c", &["-shared", "-fPIC"]);
    // A path that holds for who calls `dlopen`, unlike the older kind.
    let run_path = "-Wl,--enable-new-dtags,-rpath,$ORIGIN";
    let program = folder.compile("gcc", "loader.c", &["-ldl", run_path]);
    behaves_the_same(&folder, &program, &[]);
}

#[test]
fn memory_that_runs_out_comes_back() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "limits.c", &[]);
    // In MiB. With the least there is no region, and the C library's allocator serves everything.
    for limit in ["150", "500"] {
        behaves_the_same(&folder, &program, &[OsStr::new(limit)]);
    }
}

/// What frees that are wrong end with: no block can be where they say, or, as far as the `check`
/// build watches, none is.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn frees_of_what_is_not_allocated_stop_the_process() {
    let folder = Folder::new();
    let program = folder.compile("gcc", "wrong.c", &["-fno-builtin", "-Wno-use-after-free"]);
    let invalid = "invalid pointer: no block starts at";
    let watched = "a block is freed that is not allocated, perhaps freed before";
    let mut ways = vec![("large", invalid), ("inside", invalid)];
    if cfg!(heapswitch_check) {
        ways.extend([("small", watched), ("medium", watched)]);
    }
    for (way, expected) in ways {
        let ended = run(Command::new(&program).arg(way).env("LD_PRELOAD", library()));
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{way}: {ended:?}");
        assert!(ended.errors.contains(expected), "{way}: {ended:?}");
    }
}

fn has_cpp(what: &str) -> bool {
    let has = Command::new("g++").arg("--version").output().is_ok();
    if !has {
        not_run(what, "g++ is not installed");
    }
    has
}

fn cpp_program(source: &str, more: &[&str]) {
    if !has_cpp(source) {
        return;
    }
    let folder = Folder::new();
    let program = folder.compile("g++", source, &[&["-std=c++17"], more].concat());
    behaves_the_same(&folder, &program, &[]);
}

#[test]
fn operators_new_and_delete_serve_and_throw() {
    let more = ["-Wno-alloc-size-larger-than"];
    cpp_program("operators.cpp", &more);
    // A function's address may be that of the program's own call to it here.
    cpp_program("operators.cpp", &[&more[..], &["-no-pie", "-fno-pie"]].concat());
}

#[test]
fn operators_that_are_made_of_replaced_ones_follow_them() {
    cpp_program("replaced.cpp", &[]);
    cpp_program("replaced.cpp", &["-no-pie", "-fno-pie"]);
}

#[test]
fn a_program_with_a_malloc_of_its_own_keeps_it() {
    cpp_program("own_malloc.cpp", &["-fno-builtin", "-ldl"]);
}

/// Of a plugin in C++, whose constructors wait for a thread that allocates.
const PLUGIN: [&str; 3] = ["-std=c++17", "-shared", "-fPIC"];

#[test]
fn operators_of_a_program_that_replaced_some_wait_for_no_loading() {
    if has_cpp("waits.cpp") {
        let folder = Folder::new();
        folder.compile("g++", "joins.cpp", &PLUGIN);
        let program = folder.compile("g++", "waits.cpp", &["-ldl", "-Wl,-rpath,$ORIGIN"]);
        behaves_the_same(&folder, &program, &[]);
    }
}

#[test]
fn operators_of_plugins_follow_the_malloc_of_a_program_without_a_runtime() {
    if has_cpp("no_runtime.c") {
        let folder = Folder::new();
        let own_runtime = ["-static-libstdc++", "-static-libgcc"];
        folder.compile("g++", "makes.cpp", &[&PLUGIN[..], &own_runtime].concat());
        folder.compile("g++", "joins.cpp", &PLUGIN);
        let more = ["-fno-builtin", "-ldl", "-Wl,-rpath,$ORIGIN"];
        let program = folder.compile("gcc", "no_runtime.c", &more);
        behaves_the_same(&folder, &program, &[]);
    }
}

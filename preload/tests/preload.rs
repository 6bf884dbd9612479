//! The library under programs of C and C++, and the runner.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "preload/c_programs.rs"]
mod c_programs;
#[path = "preload/library_file.rs"]
mod library_file;
#[path = "preload/runner.rs"]
mod runner;
#[path = "preload/support.rs"]
mod support;

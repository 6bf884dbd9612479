//! A plugin is closed while threads that ran in it go on: its code is still there when they end.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "../../support/built.rs"]
mod built;

use std::ffi::{CString, c_void};
use std::sync::OnceLock;
use std::sync::mpsc::channel;

/// The plugin's file, which is built once.
fn path() -> CString {
    static PATH: OnceLock<CString> = OnceLock::new();
    let build = || {
        let program = std::env::current_exe().unwrap();
        // The program lies in a folder of its profile's.
        let profile = program.ancestors().nth(2).unwrap();
        built::build("heapswitch-plugin-tests", "--lib", profile);
        let file = profile.join("libheapswitch_plugin_tests.so");
        CString::new(file.to_str().unwrap()).unwrap()
    };
    PATH.get_or_init(build).clone()
}

fn open() -> *mut c_void {
    let path = path();
    // SAFETY: the plugin's constructors are Rust's.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "the plugin is not loaded");
    handle
}

/// Runs in the plugin.
fn work(plugin: *mut c_void) {
    // SAFETY: the plugin has that function, and is open.
    let served = unsafe {
        let function = libc::dlsym(plugin, c"plugin_work".as_ptr());
        assert!(!function.is_null());
        std::mem::transmute::<*mut c_void, extern "C" fn() -> usize>(function)()
    };
    let expected = if cfg!(heapswitch_pass_through) { 0 } else { 1700 };
    assert_eq!(served, expected);
}

fn close(plugin: *mut c_void) {
    // SAFETY: the handle is open, and nothing of the plugin is used afterwards.
    assert_eq!(unsafe { libc::dlclose(plugin) }, 0);
}

fn is_loaded() -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains("libheapswitch_plugin_tests")
}

#[test]
fn a_thread_ends_after_the_plugin_that_it_ran_in_was_closed() {
    for round in 0..3 {
        // One that closes it itself, and one that ends later than whoever closes it.
        std::thread::spawn(|| {
            let plugin = open();
            work(plugin);
            close(plugin);
        })
        .join()
        .unwrap();
        let (is_done, done) = channel();
        let (end, ends) = channel::<()>();
        let other = std::thread::spawn(move || {
            let plugin = open();
            work(plugin);
            is_done.send(plugin.addr()).unwrap();
            let _ = ends.recv();
        });
        let plugin = std::ptr::with_exposed_provenance_mut(done.recv().unwrap());
        close(plugin);
        assert!(is_loaded() || cfg!(heapswitch_pass_through), "round {round}");
        drop(end);
        other.join().unwrap();
    }
}

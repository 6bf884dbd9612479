//! `cache`: both caches find, evict and give what was put in.

use std::process::Output;

use crate::process::run;

fn cache(arguments: &[&str]) -> Output {
    let arguments: Vec<_> = arguments.iter().map(std::ffi::OsStr::new).collect();
    run("cache", &arguments)
}

#[test]
fn both_caches_find_and_evict() {
    let output = cache(&["--operations", "20000", "--capacity", "200000", "--threads", "3"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for name in ["GravityStore ", "Mutex<HashMap"] {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line of figures");
        assert!(line.contains(" 0 wrong"), "{text}");
        assert!(!line.contains(" 0 evicted") && !line.contains(" 0.0 % found"), "{text}");
    }
    assert!(text.contains("bytes moved for each written"), "{text}");
    assert!(text.contains("the store needs"), "{text}");
}

#[test]
fn wrong_options_are_explained() {
    for (arguments, complaint) in [
        (&["--operations", "none"][..], "a number above zero"),
        (&["--capacity", "10"], "at least 65536"),
        (&["--colour", "red"], "no such option"),
        (&["--threads"], "wants a value"),
    ] {
        let output = cache(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(complaint), "{text}");
    }
}

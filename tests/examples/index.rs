//! `index`: its figures, its answers and its complaints.

use std::ffi::OsStr;
use std::process::{Command, Output};

use serde_json::Value;

use crate::process::{Folder, example, run};

const FIELDS: [&str; 11] = [
    "files",
    "words",
    "context_bytes",
    "thread_bytes",
    "global_bytes",
    "peak_bytes",
    "escapees",
    "chunks_taken",
    "chunks_returned",
    "chunks_held",
    "secs",
];

fn figures(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else")
}

fn integer(figures: &Value, name: &str) -> u64 {
    figures[name].as_u64().unwrap_or_else(|| panic!("{name} is no whole number: {figures}"))
}

fn check_arithmetic(figures: &Value) {
    let fields: Vec<&String> = figures.as_object().expect("an object").keys().collect();
    assert!(FIELDS.iter().all(|field| fields.contains(&&(*field).to_owned())), "{fields:?}");
    assert!(figures["secs"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let [taken, returned, held] =
        ["chunks_taken", "chunks_returned", "chunks_held"].map(|name| integer(figures, name));
    assert_eq!(taken - returned, held, "{figures}");
    #[cfg(not(heapswitch_pass_through))]
    {
        let escapees = integer(figures, "escapees");
        assert!(escapees > 0 && held > 0, "{figures}");
        assert!(integer(figures, "context_bytes") >= integer(figures, "peak_bytes"), "{figures}");
        assert!(integer(figures, "peak_bytes") >= held * 65_536, "{figures}");
        assert!(integer(figures, "thread_bytes") > 0, "{figures}");
    }
}

/// A few small files and one whose list of lines is long enough to escape.
fn sample() -> Folder {
    let folder = Folder::new();
    folder.write("small.txt", "Some words,\nand some_more words\nat-the-end");
    folder.write("below/other.txt", "Grüße, words!\n");
    folder.write("long.txt", "many words here\n".repeat(50_000));
    folder.write("binary", b"words \0 words");
    folder.write("empty", "");
    folder.write("target/left_out.txt", "words");
    folder.write(".git/left_out", "words");
    folder
}

#[test]
fn the_figures_of_a_small_folder_add_up() {
    let folder = sample();
    let figures = figures(&run("index", &["--json".as_ref(), folder.0.as_ref()]));
    check_arithmetic(&figures);
    assert_eq!(integer(&figures, "files"), 4);
    // some words and some_more at the end, grüße, many here
    assert_eq!(integer(&figures, "words"), 10);
}

#[test]
fn an_empty_folder_is_no_error() {
    let folder = Folder::new();
    let figures = figures(&run("index", &["--json".as_ref(), folder.0.as_ref()]));
    assert_eq!((integer(&figures, "files"), integer(&figures, "words")), (0, 0));
    assert_eq!(integer(&figures, "chunks_held"), 0);
}

#[test]
fn without_a_folder_it_takes_the_repository_wherever_it_is_started() {
    let elsewhere = Folder::new();
    let mut command = example("index");
    command.arg("--json").current_dir(&elsewhere.0).env_remove("CARGO_MANIFEST_DIR");
    let figures = figures(&command.output().expect("it starts"));
    check_arithmetic(&figures);
    assert!(integer(&figures, "files") > 100, "{figures}");
}

#[test]
fn the_table_tells_all_and_the_ratio() {
    let folder = sample();
    let output = run("index", &[folder.0.as_ref()]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for row in [
        "files",
        "words",
        "context heaps",
        "the most at once",
        "thread heaps",
        "global allocator",
        "escapees",
        "chunks taken",
        "given back",
        "held",
        "held without the index",
        "time",
        "switching off",
        "on / off",
    ] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(row)), "{row}: {text}");
    }
    assert!(text.contains("words 50003, "), "{text}");
}

#[test]
fn words_are_found_where_they_are() {
    let folder = sample();
    let found = |word: &str| {
        let output = run("index", &["--find".as_ref(), word.as_ref(), folder.0.as_ref()]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let prefix = format!("{}/", folder.0.display());
        text.lines().map(|line| line.replace(&prefix, "")).collect::<Vec<_>>()
    };
    assert_eq!(found("some"), ["small.txt:1"]);
    assert_eq!(found("SOME_MORE"), ["small.txt:2"]);
    assert_eq!(found("end"), ["small.txt:3"]);
    assert_eq!(found("grüße"), ["below/other.txt:1"]);
    assert_eq!(found("absent"), [""; 0]);
    let everywhere = found("words");
    assert_eq!(everywhere.len(), 50_003);
    assert_eq!(everywhere[0], "below/other.txt:1");
    assert_eq!(everywhere[50_000], "long.txt:50000");
}

#[test]
fn a_word_may_lie_across_two_blocks() {
    let folder = Folder::new();
    // Nine bytes a line, and blocks are a power of two long: most of them end within a word.
    folder.write("text", "seven_x_\n".repeat(40_000));
    let figures = figures(&run("index", &["--json".as_ref(), folder.0.as_ref()]));
    assert_eq!(integer(&figures, "words"), 1);
}

#[test]
fn wrong_arguments_are_refused() {
    let folder = sample();
    let file = folder.0.join("small.txt");
    let absent = folder.0.join("absent");
    let cases: [(&[&OsStr], &str); 5] = [
        (&["--frobnicate".as_ref()], "there is no option --frobnicate"),
        (&["--find".as_ref()], "a word should follow"),
        (&[folder.0.as_ref(), folder.0.as_ref()], "one directory too many"),
        (&[absent.as_ref()], "cannot be read as a directory: No such file"),
        (&[file.as_ref()], "cannot be read as a directory: Not a directory"),
    ];
    for (arguments, complaint) in cases {
        let output = run("index", arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.starts_with("index: ") && message.contains(complaint), "{message}");
    }
}

#[test]
fn help_is_no_error() {
    let output = run("index", &["--help".as_ref()]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("Usage: index"));
}

/// As the caller, but bound by permissions also where that is the superuser.
fn bound_by_permissions(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt;

    const DAC_OVERRIDE: libc::c_int = 1;
    const DAC_READ_SEARCH: libc::c_int = 2;
    let drop_capabilities = || {
        for capability in [DAC_OVERRIDE, DAC_READ_SEARCH] {
            // SAFETY: changes what the program that is started may do. Who may not drop it is no
            // superuser, and does not have it.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: `prctl` may be called between fork and exec.
    unsafe { command.pre_exec(drop_capabilities) };
    command
}

#[test]
fn what_is_unreadable_is_told_and_the_rest_indexed() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    let folder = sample();
    let (secret, closed) = (folder.0.join("small.txt"), folder.0.join("below"));
    for path in [&secret, &closed] {
        set_permissions(path, Permissions::from_mode(0o000)).expect("it is ours");
    }
    let mut command = bound_by_permissions(example("index"));
    let output =
        command.args(["--json".as_ref(), folder.0.as_os_str()]).output().expect("it starts");
    // The folder is to be removed.
    set_permissions(&closed, Permissions::from_mode(0o700)).expect("it is ours");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(message.contains("small.txt: cannot be read: Permission denied"), "{message}");
    assert!(message.contains("below: cannot be read: Permission denied"), "{message}");
    let figures: Value = serde_json::from_slice(&output.stdout).expect("the figures all the same");
    assert_eq!(integer(&figures, "files"), 2);
}

//! Builds the library and the C and C++ programs that the tests run on it, and runs them.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[path = "../../../tests/support/built.rs"]
mod built;

/// A program that takes longer hangs: none takes more than seconds.
const MOST_TIME: Duration = Duration::from_secs(300);

/// The runner, which lies beside the library.
pub(crate) fn runner() -> &'static Path {
    static BUILT: OnceLock<()> = OnceLock::new();
    let runner = Path::new(env!("CARGO_BIN_EXE_heapswitch-run"));
    let profile = runner.parent().expect("the profile's folder");
    BUILT.get_or_init(|| built::build("heapswitch-preload", "--lib", profile));
    runner
}

/// The library, built with the flags of this test's own build.
pub(crate) fn library() -> PathBuf {
    runner().with_file_name("libheapswitch_preload.so")
}

/// A new folder, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("heapswitch-preload-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder of that name is new");
        Self(path)
    }

    /// Compiles a source of `tests/c` with more arguments; the program.
    pub(crate) fn compile(&self, compiler: &str, source: &str, more: &[&str]) -> PathBuf {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let program = self.0.join(source.split('.').next().expect("a name"));
        let output = Command::new(compiler)
            .args(["-O1", "-g", "-Wall", "-Wextra", "-pthread", "-o"])
            .arg(&program)
            .arg(sources.join(source))
            .args(more)
            .output()
            .unwrap_or_else(|error| panic!("{compiler}: {error}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{source} does not compile:\n{errors}");
        program
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a program wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) process: u32,
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs a command to its end; one that hangs is ended and fails the test.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ended {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let output = read_all(child.stdout.take());
    let errors = read_all(child.stderr.take());
    let status = wait(&mut child);
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("reading does not panic")).into_owned()
    };
    let (output, errors) = (text(output), text(errors));
    let Some(status) = status else { panic!("{command:?} hangs:\n{output}{errors}") };
    Ended { process: child.id(), status, output, errors }
}

pub(crate) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < MOST_TIME {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
    None
}

fn read_all(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is to show.
        let _ = from.expect("a pipe").read_to_end(&mut bytes);
        bytes
    })
}

/// Says so, past the test runner's capturing, when a part of a test cannot run here.
pub(crate) fn not_run(what: &str, why: &str) {
    let text = format!("\n*** NOT RUN: {what}: {why}\n");
    std::io::stderr().write_all(text.as_bytes()).expect("the standard error is open");
}

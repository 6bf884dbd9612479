//! Finding and running the examples' programs, and folders that are removed again.

#[path = "../support/built.rs"]
mod built;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// A command that runs an example.
pub(crate) fn example(name: &str) -> Command {
    let folder = examples();
    let program = folder.join(name);
    assert!(program.is_file(), "{}: was not built", program.display());
    Command::new(program)
}

/// Runs an example to its end.
pub(crate) fn run(name: &str, arguments: &[&OsStr]) -> Output {
    example(name).args(arguments).output().expect("the example starts")
}

/// Where cargo puts the examples: beside the folder of this test's program.
fn examples() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("the test's own path");
        let profile = test.ancestors().nth(2).expect("the profile's folder").to_owned();
        let folder = profile.join("examples");
        // `cargo test` builds the examples too, but not where it is told to build this test only.
        let built = ["quickstart", "collections", "index", "numa", "server", "cache", "choose"]
            .map(|name| changed(&folder.join(name)))
            .into_iter()
            .min()
            .flatten();
        if built < newest(Path::new(env!("CARGO_MANIFEST_DIR"))) {
            built::build("heapswitch", "--examples", &profile);
        }
        folder
    })
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// When what the examples are built from was last changed.
fn newest(repository: &Path) -> Option<SystemTime> {
    let mut folders = ["src", "examples", "macros/src"].map(|name| repository.join(name)).to_vec();
    let mut newest = changed(&repository.join("Cargo.toml"));
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            newest = newest.max(changed(&entry.path()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    newest
}

/// A new folder, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("heapswitch-examples-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder of that name is new");
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
        std::fs::write(path, content).expect("the file can be written");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

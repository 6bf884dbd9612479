//! Finding the programs of this package, and building those that are not there or are old.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The path of an example, with the profile and in the target folder of this program.
///
/// # Errors
/// It cannot be built.
pub fn beside(example: &str, arguments: &[&str]) -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    // `target/release/examples/service`, or `target/debug/deps/service-0123456789abcdef`.
    let profile = this.ancestors().nth(2).unwrap_or(Path::new("."));
    let program = profile.join("examples").join(example);
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    if changed(&program).is_some_and(|built| Some(built) > newest(package)) {
        return Ok(program);
    }
    let name = profile.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--example", example]);
    cargo.args(["--profile", if name == "debug" { "dev" } else { &name }]).args(arguments);
    cargo.arg("--target-dir").arg(profile.parent().unwrap_or(profile)).current_dir(package);
    match cargo.status()?.success() {
        true => Ok(program),
        false => Err(io::Error::other(format!("{example} cannot be built"))),
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// When what the examples are built from was last changed.
fn newest(package: &Path) -> Option<SystemTime> {
    let root = package.join("../..");
    let mut folders = vec![package.to_owned(), root.join("src"), root.join("macros/src")];
    let mut newest = changed(&root.join("Cargo.toml")).max(changed(&root.join("Cargo.lock")));
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

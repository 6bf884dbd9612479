//! Builds a shared library of this workspace: `cargo test` builds none that no test links.

use std::path::Path;
use std::process::Command;

/// Builds the library of a package into a profile's folder, with the flags of this test's own
/// build.
pub(crate) fn build(package: &str, profile: &Path) {
    let name = profile.file_name().expect("the profile's name").to_string_lossy().into_owned();
    let mut target = profile.parent().expect("the target folder").to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, "--lib"]);
    cargo.args(["--profile", if name == "debug" { "dev" } else { &name }]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // A build for a named machine has a folder of its own within the target folder.
    let machine = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if machine.ends_with("-linux-gnu") {
        cargo.args(["--target", &machine]);
        target.pop();
    }
    let status = cargo.arg("--target-dir").arg(target).status().expect("cargo starts");
    assert!(status.success(), "the library cannot be built");
}

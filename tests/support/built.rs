//! Builds what a test runs or loads, and `cargo test` does not build with it: shared libraries,
//! which no test links, and examples where one test alone is asked for.

use std::path::Path;
use std::process::Command;

/// Builds what of a package cargo's argument says (`--lib`, `--examples`) into a profile's folder,
/// with the flags of this test's own build.
pub(crate) fn build(package: &str, what: &str, profile: &Path) {
    let name = profile.file_name().expect("the profile's name").to_string_lossy().into_owned();
    let mut target = profile.parent().expect("the target folder").to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, what]);
    cargo.args(["--profile", if name == "debug" { "dev" } else { &name }]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // A build for a named machine has a folder of its own within the target folder.
    let machine = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if machine.ends_with("-linux-gnu") {
        cargo.args(["--target", &machine]);
        target.pop();
    }
    let status = cargo.arg("--target-dir").arg(target).status().expect("cargo starts");
    assert!(status.success(), "{package} {what} cannot be built");
}

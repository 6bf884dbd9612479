//! The style guide's teeth: each rule of CONTRIBUTING.md that a program can check.
//!
//! One test a rule here, over the files of the repository; beside each rule, in `tests/tidy/`, a
//! test that a sample which breaks it is reported, so that no rule can stop biting unseen.

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/text.rs"]
mod text;

use std::fs;
use std::path::{Path, PathBuf};

/// Asserts that a rule has no complaint about any of the files.
#[track_caller]
fn assert_tidy(files: Vec<String>, rule: impl Fn(&str, &str) -> Vec<String>) {
    assert!(!files.is_empty(), "no file to look at: the rule would never bite");
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(root().join(path)).expect("the files are text");
            rule(path, &text)
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The repository: told by cargo when the tests run, so that `.ci/break-detectors` can show them a
/// badly styled copy.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Every file of the repository for which `wanted` holds, as a path from its root.
fn files(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder just listed") {
            let entry = entry.expect("an entry of a folder");
            let path = folder.join(entry.file_name());
            let name = entry.file_name();
            if entry.file_type().expect("a type").is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if path.to_str().is_some_and(&wanted) {
                found.extend(path.to_str().map(str::to_owned));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<String> {
    files(|path| path.ends_with(".rs"))
}

fn library_files() -> Vec<String> {
    files(|path| path.starts_with("src/") && path.ends_with(".rs"))
}

/// The library's files that are compiled outside tests.
fn shipped_files() -> Vec<String> {
    let reached = modules::reached_from(Path::new("src/lib.rs"), &read);
    reached.shipped.iter().map(|path| path.display().to_string()).collect()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

#[test]
fn files_use_only_lower_layers() {
    assert_tidy(shipped_files(), layers::layer_breaks);
}

#[test]
fn contributing_lists_the_layers_in_their_order() {
    let page = read(Path::new("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    assert_eq!(documents::layer_table(&page), layers::LAYERS.concat());
}

#[test]
fn only_sys_talks_to_the_system() {
    assert_tidy(shipped_files(), rules::system_calls_outside_sys);
}

#[test]
fn pointer_arithmetic_stands_in_one_file() {
    assert_tidy(shipped_files(), rules::pointer_arithmetic);
}

#[test]
fn nothing_in_the_library_unwraps() {
    assert_tidy(shipped_files(), rules::panicking_shortcuts);
}

#[test]
fn lines_are_short() {
    assert_tidy(rust_files(), rules::long_lines);
}

#[test]
fn functions_fit_on_a_screen() {
    assert_tidy(rust_files(), rules::long_functions);
}

#[test]
fn files_are_short() {
    assert_tidy(rust_files(), rules::long_files);
}

#[test]
fn library_files_say_what_they_are_for() {
    assert_tidy(library_files(), rules::missing_head_comment);
}

#[test]
fn nothing_is_left_unfinished() {
    let is_ours = |path: &str| {
        path.starts_with(".ci/") || [".rs", ".md", ".toml"].iter().any(|end| path.ends_with(end))
    };
    assert_tidy(files(is_ours), rules::unfinished);
}

#[test]
fn forced_inlining_was_measured() {
    assert_tidy(rust_files(), rules::unmeasured_inlining);
}

#[test]
fn lints_are_expected_with_a_reason() {
    assert_tidy(rust_files(), rules::silenced_lints);
}

#[test]
fn models_are_of_what_is_shipped() {
    assert_tidy(files(|path| path.starts_with("tests/lean/tests/loom/")), |path, text| {
        if path.ends_with(".rs") { rules::copied_protocols(path, text) } else { Vec::new() }
    });
}

#[test]
fn no_source_file_is_dead() {
    let crates = files(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"));
    assert!(crates.contains(&"src/lib.rs".to_owned()));
    let mut dead = Vec::new();
    for krate in crates {
        let folder = Path::new(&krate).parent().expect("src").to_owned();
        let reached = modules::reached_from(Path::new(&krate), &read).all;
        let binaries = folder.join("bin");
        dead.extend(files(|path| path.ends_with(".rs")).into_iter().filter(|path| {
            let path = Path::new(path);
            path.starts_with(&folder) && !path.starts_with(&binaries) && !reached.contains(path)
        }));
    }
    assert!(dead.is_empty(), "no `mod` leads to {dead:?}");
}

#[test]
fn every_member_of_the_workspace_takes_its_lints() {
    let of_workspace = |path: &str| path.ends_with("Cargo.toml") && !path.starts_with("benches/");
    assert_tidy(files(of_workspace), |path, text| {
        if text.contains("\n[lints]\nworkspace = true\n") {
            return Vec::new();
        }
        vec![format!("{path}: without `[lints] workspace = true` the denied lints pass here")]
    });
}

#[test]
fn pages_point_to_what_exists() {
    let pages = files(|path| path.ends_with(".md"));
    assert_tidy(pages, |path, text| {
        documents::dead_references(path, text, |target| root().join(target).exists())
    });
}

/// The macro's keys and the environment's variables stand in a table each.
#[test]
fn a_setting_has_one_default() {
    let [keys, settings] = ["macros/src/keys.md", "src/switch/settings.md"]
        .map(|path| read(Path::new(path)).unwrap_or_else(|| panic!("{path} is gone")));
    let keys = documents::named_cells(&keys, "default");
    for setting in documents::named_cells(&settings, "default") {
        assert!(keys.contains(&setting), "the keys' table has no such default: {setting:?}");
    }
}

#[test]
fn readme_begins_with_the_commands_that_ci_runs() {
    let pages = files(|path| path == "README.md" || path == "CONTRIBUTING.md");
    assert_tidy(pages, |path, text| {
        if path == "README.md" { documents::wrong_commands(text) } else { Vec::new() }
    });
    let script = read(Path::new(".ci/run")).expect(".ci/run");
    for command in documents::README_COMMANDS {
        assert!(script.contains(command), ".ci/run does not run `{command}`");
    }
}

//! Which files a crate's `mod` items reach.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::text::{code, shipped_code, words};

/// Which files a crate is made of.
#[derive(Default)]
pub(crate) struct Reached {
    /// All of them.
    pub(crate) all: BTreeSet<PathBuf>,
    /// Those that are compiled outside tests too.
    pub(crate) shipped: BTreeSet<PathBuf>,
}

/// Follows the `mod` items from a crate's root file. `read` gives a file's text, or none.
pub(crate) fn reached_from(root: &Path, read: &impl Fn(&Path) -> Option<String>) -> Reached {
    let mut reached = Reached::default();
    follow(root, true, true, read, &mut reached);
    reached
}

fn follow(
    file: &Path,
    is_root: bool,
    is_shipped: bool,
    read: &impl Fn(&Path) -> Option<String>,
    reached: &mut Reached,
) {
    let Some(text) = read(file) else { return };
    reached.all.insert(file.to_owned());
    if is_shipped {
        reached.shipped.insert(file.to_owned());
    }
    let stem = file.file_stem().unwrap_or_default();
    let beside = file.parent().unwrap_or(Path::new(""));
    let inside = if is_root || stem == "mod" { beside.to_owned() } else { beside.join(stem) };
    let shipped_modules: BTreeSet<String> =
        modules(&shipped_code(&text), &text).into_iter().map(|module| module.name).collect();
    for Module { name, path } in modules(&code(&text), &text) {
        let is_shipped = is_shipped && shipped_modules.contains(&name);
        let candidates = match path {
            Some(path) => vec![plain(&beside.join(path))],
            None => vec![inside.join(format!("{name}.rs")), inside.join(&name).join("mod.rs")],
        };
        for candidate in candidates {
            follow(&candidate, false, is_shipped, read, reached);
        }
    }
}

struct Module {
    name: String,
    path: Option<String>,
}

/// The `mod name;` items in `code`, a view of `text`.
fn modules(code: &str, text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for at in words(code, "mod") {
        let after = code[at + 3..].trim_start();
        let length = after.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(0);
        if length == 0 || !after[length..].trim_start().starts_with(';') {
            continue;
        }
        // The item's attributes stand between the end of the last item and here.
        let start = code[..at].rfind([';', '}']).map_or(0, |end| end + 1);
        let path = code[start..at].find("#[path").and_then(|attribute| {
            let quoted = &text[start + attribute..at];
            quoted.split('"').nth(1).map(str::to_owned)
        });
        found.push(Module { name: after[..length].to_owned(), path });
    }
    found
}

/// `path` without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_module_names_is_not_reached() {
        let read = |path: &Path| {
            Some(str::to_owned(match path.to_str()? {
                "src/lib.rs" => "//! mod e;\npub mod a;\nmod b { }\n#[cfg(test)]\nmod c;\n",
                "src/a/mod.rs" => "/// d\nmod d;\n#[path = \"../odd.rs\"]\nmod f;",
                "src/a/d.rs" | "src/b.rs" | "src/c.rs" | "src/e.rs" | "src/odd.rs" => "",
                _ => return None,
            }))
        };
        let reached = reached_from(Path::new("src/lib.rs"), &read);
        let names = |set: &BTreeSet<PathBuf>| {
            set.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&reached.all), "src/a/d.rs src/a/mod.rs src/c.rs src/lib.rs src/odd.rs");
        assert_eq!(names(&reached.shipped), "src/a/d.rs src/a/mod.rs src/lib.rs src/odd.rs");
    }
}

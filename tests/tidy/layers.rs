//! Which layer a file belongs to, and which ones its code names.

use crate::text::{line_of, shipped_code};

/// The folders of `src/`, lowest first; those of one row may use each other. CONTRIBUTING.md says
/// what each is for, in this order.
pub(crate) const LAYERS: &[&[&str]] = &[
    &["units", "pointers"],
    &["sync"],
    &["sys"],
    &["numa"],
    &["region"],
    &["allocator"],
    &["source"],
    &["adapt"],
    &["strategy"],
    &["heap"],
    &["switch"],
    &["store"],
];

/// Where in the order a layer stands.
fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// The uses in one file of `src/` that its layer forbids.
pub(crate) fn layer_breaks(path: &str, text: &str) -> Vec<String> {
    let modules = module_path(path);
    let Some(layer) = modules.first() else {
        return Vec::new(); // lib.rs shows all layers to the user.
    };
    let Some(own) = rank(layer) else {
        return vec![format!(
            "{path}: `{layer}` is no layer; give it its place in LAYERS and in CONTRIBUTING.md"
        )];
    };
    let code = shipped_code(text);
    let mut breaks = Vec::new();
    for Use { offset, path: used, by_name } in paths_from_root(&code, modules.len()) {
        let place = format!("{path}:{}", line_of(&code, offset));
        let first = used.split("::").next().unwrap_or_default();
        match rank(first) {
            Some(other) if other > own => {
                breaks.push(format!("{place}: `{layer}` uses `{used}`, a higher layer"));
            }
            Some(_) => {}
            None if used.ends_with('!') => {} // Exported macros live at the root.
            None if by_name => breaks.push(format!("{place}: `{used}` is named past its layer")),
            None => {} // `super::` in an inline module does not climb as far as it seems.
        }
        let names_a_strategy = used
            .strip_prefix("strategy::")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        if layer == "switch" && names_a_strategy {
            breaks.push(format!("{place}: `switch` is generic, and `{used}` is one strategy"));
        }
    }
    breaks
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// A path from the crate's root, without the `crate::` or the `super::`s that lead there.
struct Use {
    offset: usize,
    path: String,
    /// Whether it began with `crate::`.
    by_name: bool,
}

/// Every path in `code`, of a module at `depth`, that starts at the crate's root.
fn paths_from_root(code: &str, depth: usize) -> Vec<Use> {
    let climb = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", climb.as_str()] {
        for (offset, _) in code.match_indices(prefix) {
            let before = code[..offset].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut leaves = Vec::new();
            expand(&code[offset + prefix.len()..], "", &mut leaves);
            let by_name = prefix == "crate::";
            found.extend(leaves.into_iter().map(|path| Use { offset, path, by_name }));
        }
    }
    found
}

/// Expands `a::{b, c::d}` into its leaves; returns how much of `rest` it read.
fn expand(rest: &str, prefix: &str, leaves: &mut Vec<String>) -> usize {
    let skipped = rest.len() - rest.trim_start().len();
    let body = &rest[skipped..];
    if body.starts_with('{') {
        let mut at = 1;
        loop {
            at += expand(&body[at..], prefix, leaves);
            let tail = &body[at..];
            let blanks = tail.len() - tail.trim_start().len();
            at += blanks;
            if body[at..].starts_with(',') {
                at += 1;
            } else {
                return skipped + at + 1;
            }
        }
    }
    let length = body.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(body.len());
    let name = &body[..length];
    if name.is_empty() {
        return skipped;
    }
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    let tail = &body[length..];
    if let Some(inner) = tail.strip_prefix("::")
        && inner.trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '{')
    {
        return skipped + length + 2 + expand(inner, &path, leaves);
    }
    leaves.push(if tail.starts_with('!') { format!("{path}!") } else { path });
    skipped + length + renaming_length(tail)
}

/// The length of ` as name` at the start of `tail`.
fn renaming_length(tail: &str) -> usize {
    let Some(name) = tail.trim_start().strip_prefix("as ") else { return 0 };
    let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
    tail.len() - name.len() + end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_of_a_higher_layer_is_reported() {
        for text in [
            "use crate::heap::Heap;",
            "use crate::{units, heap::Heap};",
            "fn f() { crate::switch::current(); }",
            "use super::heap;",
            "use crate::{units::{A as B, C}, store};",
        ] {
            assert_eq!(layer_breaks("src/numa.rs", text).len(), 1, "{text}");
        }
        assert_eq!(layer_breaks("src/strategy/trees/mod.rs", "use super::super::heap;").len(), 1);
    }

    #[test]
    fn lower_layers_comments_and_tests_are_free() {
        let text = "//! [`crate::store`]\nuse crate::{units, numa::A};\nuse super::super::region;\n\
                    #[cfg(test)]\nmod tests { use crate::heap::Heap; use super::x; }";
        assert_eq!(layer_breaks("src/region/table.rs", text), Vec::<String>::new());
        assert_eq!(layer_breaks("src/lib.rs", "pub use crate::store::Pool;").len(), 0);
        assert_eq!(layer_breaks("src/units.rs", "use crate::pointers::distance;").len(), 0);
    }

    #[test]
    fn a_name_past_its_layer_or_a_file_without_one_is_reported() {
        assert_eq!(layer_breaks("src/sys/mod.rs", "use crate::HeapSwitch;").len(), 1);
        assert_eq!(layer_breaks("src/sys/mod.rs", "crate::abort!(1);").len(), 0);
        assert_eq!(layer_breaks("src/utilities.rs", "").len(), 1);
    }

    #[test]
    fn switch_names_no_strategy() {
        let text = "use crate::strategy::{Strategy, bit_set::BitSet};";
        assert_eq!(layer_breaks("src/switch/route.rs", text).len(), 1);
        assert_eq!(layer_breaks("src/heap/route.rs", text).len(), 0);
    }
}

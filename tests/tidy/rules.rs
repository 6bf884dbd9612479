//! Rules about one Rust file. Each takes the file's path, from the repository's root, and its text,
//! and returns its complaints.

use crate::text::{code, group_end, item_end, line_of, shipped_code, words};

pub(crate) const COLUMNS: usize = 100;
pub(crate) const FUNCTION_LINES: usize = 70;
pub(crate) const FILE_LINES: usize = 600;

pub(crate) fn long_lines(path: &str, text: &str) -> Vec<String> {
    let long = |line: &&str| line.chars().count() > COLUMNS;
    let numbered = (1..).zip(text.lines()).filter(|(_, line)| long(line));
    numbered
        .map(|(number, line)| {
            format!("{path}:{number}: {} columns, at most {COLUMNS}", line.chars().count())
        })
        .collect()
}

pub(crate) fn long_files(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= FILE_LINES {
        return Vec::new();
    }
    vec![format!("{path}: {lines} lines, at most {FILE_LINES}: it wants to be a folder")]
}

pub(crate) fn long_functions(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let mut complaints = Vec::new();
    for start in words(&code, "fn") {
        let name: String = code[start + 2..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if name.is_empty() {
            continue; // The type `fn(..)`.
        }
        let lines = code[start..item_end(&code, start)].lines().count();
        if lines > FUNCTION_LINES {
            let line = line_of(&code, start);
            complaints.push(format!(
                "{path}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES}"
            ));
        }
    }
    complaints
}

pub(crate) fn missing_head_comment(path: &str, text: &str) -> Vec<String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") && first.len() > "//! ".len() {
        return Vec::new();
    }
    vec![format!("{path}: no `//!` comment at its head that says what it is for")]
}

/// Words that say the work is not finished. Split, so that this file may hold them.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
];

pub(crate) fn unfinished(path: &str, text: &str) -> Vec<String> {
    every(UNFINISHED, text)
        .map(|(at, word)| complaint(path, text, at, word, "file an issue"))
        .collect()
}

pub(crate) fn panicking_shortcuts(path: &str, text: &str) -> Vec<String> {
    let code = shipped_code(text);
    every(&[".unwrap()", ".expect(", ".unwrap_err()", ".expect_err("], &code)
        .map(|(at, word)| complaint(path, &code, at, word, "an allocator must not unwind"))
        .collect()
}

/// `libc`, and foreign functions declared by hand, stay in `src/sys`.
pub(crate) fn system_calls_outside_sys(path: &str, text: &str) -> Vec<String> {
    if path.starts_with("src/sys/") || path == "src/sys.rs" {
        return Vec::new();
    }
    let code = shipped_code(text);
    let foreign = words(&code, "extern").into_iter().filter(|&at| {
        let after = code[at + "extern".len()..].trim_start();
        let after =
            after.strip_prefix('"').and_then(|abi| abi.split_once('"')).map_or(after, |a| a.1);
        after.trim_start().starts_with('{')
    });
    let libc = words(&code, "libc").into_iter().map(|at| (at, "libc"));
    libc.chain(foreign.map(|at| (at, "extern {")))
        .map(|(at, word)| complaint(path, &code, at, word, "only `sys` talks to the system"))
        .collect()
}

/// Pointer arithmetic stays in `src/pointers.rs`.
pub(crate) fn pointer_arithmetic(path: &str, text: &str) -> Vec<String> {
    if path == "src/pointers.rs" {
        return Vec::new();
    }
    const CALLS: &[&str] = &[
        ".add(",
        ".sub(",
        ".offset(",
        ".offset_from(",
        ".byte_add(",
        ".byte_sub(",
        ".byte_offset(",
        ".byte_offset_from(",
    ];
    let code = shipped_code(text);
    every(CALLS, &code)
        .map(|(at, word)| complaint(path, &code, at, word, "say it with `crate::pointers`"))
        .collect()
}

/// `inline(always)` only below, or beside, a comment that tells what was measured.
pub(crate) fn unmeasured_inlining(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let lines: Vec<&str> = text.lines().collect();
    let is_measured = |at: usize| {
        let own = line_of(&code, at) - 1;
        let above = lines[..own].iter().rev().take_while(|line| {
            let line = line.trim_start();
            line.starts_with("//") || line.starts_with("#[")
        });
        above.chain([&lines[own]]).any(|line| line.to_lowercase().contains("measure"))
    };
    words(&code, "inline(always)")
        .into_iter()
        .filter(|&at| !is_measured(at))
        .map(|at| complaint(path, &code, at, "inline(always)", "say what was measured above it"))
        .collect()
}

/// `expect` and not `allow`, so that it goes when its cause goes, and with a reason.
pub(crate) fn silenced_lints(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let allowed = every(&["[allow(", ", allow("], &code)
        .map(|(at, word)| complaint(path, &code, at, word, "use `expect` with a reason"));
    let unexplained = every(&["[expect(", ", expect("], &code).filter_map(|(at, word)| {
        let open = at + word.len() - 1;
        let is_explained = !words(&code[open..group_end(&code, open)], "reason").is_empty();
        (!is_explained).then(|| complaint(path, &code, at, word, "give the reason"))
    });
    allowed.chain(unexplained).collect()
}

/// A model of a protocol that was copied by hand proves the copy. What a model needs besides the
/// shipped types does without a read-modify-write; a copied protocol of loads and stores alone
/// would not be found.
pub(crate) fn copied_protocols(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let copied = [".compare_exchange", ".fetch_", ".swap("];
    let found = copied.iter().flat_map(|&word| {
        code.match_indices(word)
            .map(|(at, word)| complaint(path, &code, at, word, "model the type of `src/sync`"))
    });
    found.collect()
}

fn every<'a>(
    wanted: &'a [&'a str],
    text: &'a str,
) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
    wanted.iter().flat_map(|&word| words(text, word).into_iter().map(move |at| (at, word)))
}

fn complaint(path: &str, text: &str, at: usize, what: &str, advice: &str) -> String {
    format!("{path}:{}: `{}`: {advice}", line_of(text, at), what.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "src/heap/sample.rs";

    #[test]
    fn a_long_line_is_reported() {
        assert_eq!(long_lines(PATH, &format!("{}\nb", "a".repeat(101))).len(), 1);
        assert_eq!(long_lines(PATH, &"é".repeat(100)).len(), 0);
    }

    #[test]
    fn a_long_file_is_reported() {
        assert_eq!(long_files(PATH, &"a\n".repeat(601)).len(), 1);
        assert_eq!(long_files(PATH, &"a\n".repeat(600)).len(), 0);
    }

    #[test]
    fn a_long_function_is_reported() {
        let function = |lines| {
            format!("fn f<T>(a: [u8; 2])\nwhere\n    T: Fn(u8),\n{{{}}}", "\n".repeat(lines))
        };
        assert_eq!(long_functions(PATH, &function(67)).len(), 1);
        assert_eq!(long_functions(PATH, &function(66)).len(), 0);
        let trait_method = format!("trait A {{ fn a(b: fn(u8)); {} }}", "\n".repeat(90));
        assert_eq!(long_functions(PATH, &trait_method).len(), 0);
    }

    #[test]
    fn a_missing_head_comment_is_reported() {
        for text in ["", "use a;\n//! b", "/// a", "//!\n"] {
            assert_eq!(missing_head_comment(PATH, text).len(), 1, "{text:?}");
        }
        assert_eq!(missing_head_comment(PATH, "\n//! What it is.\n").len(), 0);
    }

    #[test]
    fn unfinished_work_is_reported() {
        for word in UNFINISHED {
            assert_eq!(unfinished(PATH, &format!("// {word} later")).len(), 1, "{word}");
        }
        assert_eq!(unfinished(PATH, &format!("{}S", UNFINISHED[0])).len(), 0);
    }

    #[test]
    fn a_panicking_shortcut_is_reported() {
        let text = "fn a() { b.unwrap(); c.expect(\"d\"); }";
        assert_eq!(panicking_shortcuts(PATH, text).len(), 2);
        let text = "// a.unwrap()\nfn a() { b.unwrap_or(1) }\n#[cfg(test)]\nmod t { a.unwrap() }";
        assert_eq!(panicking_shortcuts(PATH, text).len(), 0);
    }

    #[test]
    fn a_system_call_outside_sys_is_reported() {
        for text in ["use libc::mmap;", "a(libc::PROT_NONE)", "unsafe extern \"C\" { fn fork(); }"]
        {
            assert_eq!(system_calls_outside_sys(PATH, text).len(), 1, "{text}");
            assert_eq!(system_calls_outside_sys("src/sys/memory.rs", text).len(), 0, "{text}");
        }
        let text = "// libc\nextern \"C\" fn at_exit() { }\nextern crate a;";
        assert_eq!(system_calls_outside_sys(PATH, text).len(), 0);
    }

    #[test]
    fn pointer_arithmetic_elsewhere_is_reported() {
        let text = "fn a(p: *mut u8) { p.add(1); p.offset_from(q); n.fetch_add(1, Relaxed); }";
        assert_eq!(pointer_arithmetic(PATH, text).len(), 2);
        assert_eq!(pointer_arithmetic("src/pointers.rs", text).len(), 0);
    }

    #[test]
    fn unmeasured_inlining_is_reported() {
        let bare = "a\n/// What it does.\n#[inline(always)]\nfn f() {}";
        assert_eq!(unmeasured_inlining(PATH, bare).len(), 1);
        let told = "// Measured: 2 instructions fewer.\n#[must_use]\n#[inline(always)]\nfn f() {}";
        assert_eq!(unmeasured_inlining(PATH, told).len(), 0);
    }

    #[test]
    fn a_silenced_lint_is_reported() {
        for text in [
            concat!("#[", "allow(dead_code)]"),
            concat!("#![", "allow(dead_code)]"),
            "#[cfg_attr(a, allow(dead_code))]",
            "#[expect(dead_code)]",
        ] {
            assert_eq!(silenced_lints(PATH, text).len(), 1, "{text}");
        }
        assert_eq!(silenced_lints(PATH, "#[expect(dead_code, reason = \"why\")]").len(), 0);
    }

    #[test]
    fn a_copied_protocol_is_reported() {
        for text in ["a.compare_exchange_weak(b)", "a.0.fetch_or(1, AcqRel);", "head.swap(0)"] {
            assert_eq!(copied_protocols(PATH, text).len(), 1, "{text}");
        }
        assert_eq!(copied_protocols(PATH, "// a.swap(b)\na.load(Acquire); b.store(c)").len(), 0);
    }
}

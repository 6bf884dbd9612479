//! Three programs that others wrote, on this repository's own sources and pages: a code counter
//! (tokei), a formatter (syn and prettyplease), and a renderer of documents (comrak).
//!
//! The input grows with the repository: figures are of a commit.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use crate::Part;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// What is rendered.
const PAGES: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "preload/README.md",
    "benches/peers/README.md",
    "benches/strategies/README.md",
];

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The sources below a folder, in the order of their names.
fn read_sources(folder: &Path, sources: &mut Vec<String>) {
    let entries = fs::read_dir(folder).expect("a folder of the repository");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(text(&path));
        }
    }
}

/// The lines of code, comments and blanks of each language in the library's sources and tests are
/// counted, by as many threads as there are.
pub(crate) fn count(repeats: usize, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let folders = ["src", "tests", "macros", "examples"].map(|folder| repository().join(folder));
    for _ in 0..repeats {
        let mut languages = tokei::Languages::new();
        pool.install(|| languages.get_statistics(&folders, &[], &tokei::Config::default()));
        let rust = languages.get(&tokei::LanguageType::Rust).expect("Rust");
        assert!(rust.code > 10_000, "{} lines", rust.code);
    }
}

/// The library's sources are parsed to syntax trees and printed anew.
pub(crate) fn format(part: Part) {
    let mut sources = Vec::new();
    read_sources(&repository().join("src"), &mut sources);
    for repeat in 0..part.repeats {
        let source = &sources[(part.thread + repeat) % sources.len()];
        let file = syn::parse_file(source).expect("Rust");
        let printed = prettyplease::unparse(&file);
        assert!(!printed.is_empty());
        black_box((file, printed));
    }
}

/// The repository's pages are parsed and rendered as HTML.
pub(crate) fn render(part: Part) {
    let pages = PAGES.map(|page| text(&repository().join(page)));
    let options = comrak::Options::default();
    for repeat in 0..part.repeats {
        let page = &pages[(part.thread + repeat) % pages.len()];
        let html = comrak::markdown_to_html(page, &options);
        assert!(html.contains('<'));
        black_box(html);
    }
}

//! `choose`: its tables, its drawing, the traces it records and its complaints.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::process::{Folder, run};

const STRATEGIES: [&str; 9] = [
    "bump",
    "slab",
    "bit_set",
    "trees",
    "free_list first",
    "free_list next",
    "free_list best",
    "buddy",
    "stripes",
];

fn trace(name: &str) -> PathBuf {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/choose/traces");
    traces.join(name).with_extension("trace")
}

fn arguments<'a>(words: &'a [&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(OsStr::new).collect()
}

/// What the command prints.
fn printed(words: &[&OsStr]) -> String {
    let output = run("choose", words);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The cells of a table's row, without the name.
fn row(text: &str, strategy: &str) -> Vec<f64> {
    let start = format!("| {strategy} |");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)).expect("a row");
    let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_end_matches(" %"));
    cells.map(|cell| cell.parse().unwrap_or(f64::NAN)).collect()
}

#[test]
fn every_strategy_has_its_row_and_its_panel() {
    let folder = Folder::new();
    let drawings = folder.0.join("drawings");
    let (nodes, words_trace) = (trace("nodes"), trace("words"));
    let mut words = arguments(&["--rounds", "1", "--memory", "32", "--svg"]);
    words.extend([drawings.as_os_str(), nodes.as_os_str(), words_trace.as_os_str()]);
    let text = printed(&words);
    assert!(text.starts_with("## nodes\n"), "{text}");
    let [drawing, other] = ["nodes.svg", "words.svg"]
        .map(|name| std::fs::read_to_string(drawings.join(name)).expect("a drawing of each"));
    assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
    assert!(drawing.contains(">nodes: addresses") && other.contains(">words: addresses"));
    for strategy in STRATEGIES {
        let [time, peak, least, lost, rounded, refused] = row(&text, strategy)[..] else {
            panic!("{text}")
        };
        assert!(time > 0.0 && peak > 50.0 && refused == 0.0, "{text}");
        assert!(least > 100.0 && (0.0..100.0).contains(&lost), "{text}");
        assert!((0.0..=lost).contains(&rounded), "{text}");
        assert!(drawing.contains(&format!(">{strategy}</text>")), "no panel of {strategy}");
    }
    // Blocks that come back one by one are what a bump is not for, and one size the stripes'.
    assert!(row(&text, "bump")[2] > row(&text, "stripes")[2], "{text}");
    // Nodes of 24 bytes: in steps of 8 and in powers of two from 32 bytes on.
    assert!(row(&text, "bump")[4] < 1.0 && row(&text, "buddy")[4] > 15.0, "{text}");
    assert!(drawing.matches("<path ").count() > STRATEGIES.len());
}

/// What does not fit is refused and counted, by each strategy in its way.
#[test]
fn what_is_refused_is_counted() {
    let cache = trace("cache");
    let mut words = arguments(&["--rounds", "1", "--memory", "1"]);
    words.push(cache.as_os_str());
    let text = printed(&words);
    let refused = |strategy: &str| row(&text, strategy)[5];
    assert_eq!(refused("trees"), 0.0, "{text}");
    // Each of its size classes holds memory of its own, and the table's array is too long for it.
    assert!(refused("slab") > 1.0, "{text}");
}

/// How many events a trace has, by the table that is printed of it.
fn events(trace: &Path) -> usize {
    let text = printed(&[OsStr::new("--rounds"), OsStr::new("1"), trace.as_os_str()]);
    let line = text.lines().nth(2).expect("the line of counts");
    let (count, _) = line.split_once(" events").expect("a count");
    count.parse().expect("a number")
}

/// The traces of the jobs can be recorded anew, and are what the jobs do today. Which blocks a
/// hash map's growth moves depends on nothing but its length, so the counts are nearly the same.
#[test]
fn jobs_are_recorded_and_replayed() {
    let folder = Folder::new();
    for job in ["cache", "json", "nodes", "requests", "words"] {
        let recorded = folder.0.join(job).with_extension("trace");
        let words = [OsStr::new("--record"), OsStr::new(job), recorded.as_os_str()];
        assert!(printed(&words).contains("events; the job's result: "));
        let (mine, stored) = (events(&recorded), events(&trace(job)));
        assert!(mine.abs_diff(stored) <= stored / 50, "{job}: {mine}, {stored} in the repository");
    }
}

#[test]
fn mistakes_are_told() {
    let folder = Folder::new();
    folder.write("no.trace", "nothing");
    folder.write("empty.trace", "hstrace1");
    let missing = folder.0.join("missing.trace");
    let wrong = folder.0.join("no.trace");
    let empty = folder.0.join("empty.trace");
    for (words, complaint) in [
        (arguments(&["--memory", "none"]), "--memory: none is no number from 1 to 65536"),
        (arguments(&["--svg"]), "--svg: a folder should follow"),
        (arguments(&["--fast"]), "there is no option --fast"),
        (arguments(&["--record", "nothing", "x"]), "there is no job nothing; there are cache"),
        (vec![missing.as_os_str()], "missing.trace: No such file"),
        (vec![wrong.as_os_str()], "no.trace: this is no trace"),
        (vec![empty.as_os_str()], "empty.trace: no event was recorded"),
    ] {
        let output = run("choose", &words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.starts_with("choose: ") && errors.contains(complaint), "{errors}");
    }
}

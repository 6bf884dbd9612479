//! An index of the words in a folder's files: one coroutine a file, each in a heap of its own.
//!
//! `cargo run --release --example index -- [DIR]`
//!
//! A worker is pinned to each processor and resumes its coroutines in turn; each suspends itself
//! after every block that it has read. What a file needs only while it is read comes from its
//! coroutine's heap, which goes back whole when the coroutine ends. The index outlives them all:
//!
//! | what | how long it lives | where it is made |
//! |---|---|---|
//! | the block read, the map from words to lines | as the coroutine | its heap |
//! | the index's words and postings | as the index | the thread's heap: `with_thread_local` |
//! | a file's list of lines, if short | as the index | copied to the thread's heap |
//! | a file's list of lines, if long | as the index | the coroutine's heap: it escapes |
//!
//! The files: `file_task` is the job itself; `worker` and `job` run it; `postings` is the index.

mod file_task;
mod files;
mod job;
mod options;
mod postings;
mod progress;
mod report;
mod timing;
mod words;
mod worker;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use heapswitch::Heap;

use files::Files;
use job::{Failure, Outcome, Switching};
use options::{Options, Output, USAGE};
use progress::Progress;
use report::Summary;

heapswitch::global_thread_and_coroutine_switchable_allocator!();

/// Something could not be read, or the system refused memory or threads.
const INCOMPLETE: u8 = 1;
/// There was nothing to do.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(mistake) => {
            eprint!("index: {mistake}\n\n{USAGE}");
            return ExitCode::from(UNUSABLE);
        }
    };
    if options.output == Output::Help {
        return printed(USAGE).map_or_else(failed, |()| ExitCode::SUCCESS);
    }
    let found = match Files::below(&options.folder) {
        Ok(found) => found,
        Err(error) => {
            eprintln!(
                "index: {}: cannot be read as a directory: {error}",
                options.folder.display()
            );
            return ExitCode::from(UNUSABLE);
        }
    };
    complain(&found.unreadable);
    match index(&found.paths.into(), &options.output) {
        Ok(true) if found.unreadable.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(INCOMPLETE),
        Err(failure) => failed(failure),
    }
}

/// Does the job and prints what is wanted. Whether every file could be read.
fn index(paths: &Arc<[PathBuf]>, output: &Output) -> Result<bool, Failure> {
    let root = Heap::new()?;
    let outcome = {
        let mut progress = Progress::new("indexing", paths.len());
        job::run(paths, Switching::On, &root, |finished| progress.show(finished))?
    };
    complain(&outcome.unreadable);
    let is_complete = outcome.unreadable.is_empty();
    let duration = outcome.duration;
    let summary = Summary::new(&outcome, &root);
    summary.check()?;
    match output {
        Output::Json => printed(&summary.json())?,
        Output::Occurrences(word) => printed(&places(&outcome, paths, word))?,
        Output::Table | Output::Help => printed(&summary.to_string())?,
    }

    // Its last escapees gone, every chunk that a context took is given back.
    drop(outcome);
    heapswitch::flush_foreign_frees();
    let held_bytes = root.account().committed_bytes;
    if held_bytes != 0 {
        return Err(format!("the index is gone and contexts still hold {held_bytes} bytes").into());
    }
    if *output == Output::Table {
        printed("  held without the index             0  all were given back\n")?;
        let timing = timing::measure(paths, duration)?;
        printed(&timing.to_string())?;
    }
    Ok(is_complete)
}

/// Where a word occurs, one place a line.
fn places(outcome: &Outcome, paths: &[PathBuf], word: &str) -> String {
    let places = outcome.index.find(word).into_iter();
    places.map(|(file, line)| format!("{}:{line}\n", paths[file as usize].display())).collect()
}

fn complain(unreadable: &[(PathBuf, io::Error)]) {
    for (path, error) in unreadable {
        eprintln!("index: {}: cannot be read: {error}", path.display());
    }
}

/// Prints; that the reader has enough and went away is no error.
fn printed(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn failed(failure: Failure) -> ExitCode {
    eprintln!("index: {failure}");
    ExitCode::from(INCOMPLETE)
}

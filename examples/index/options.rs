//! The command line.

use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: index [OPTIONS] [DIR]

Indexes the words of every file below DIR, one coroutine a file, each in a heap of its own,
and tells what the heaps took and gave back. Without DIR: this repository. Binary files,
symbolic links, `target` and `.git` are left out.

Options:
  --find WORD  Print where WORD occurs, as FILE:LINE, and nothing else
  --json       Print the figures as one JSON object, and nothing else; the job runs once
  --help       Print this

Exit status: 0, or 1 if something could not be read, or 2 if there was nothing to do.
";

/// What is to be printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The figures, beside those of the same job without switching.
    Table,
    /// The figures of one run.
    Json,
    /// Where a word occurs.
    Occurrences(String),
    /// How to use the program.
    Help,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) output: Output,
    pub(crate) folder: PathBuf,
}

impl Options {
    /// Reads the arguments, without the program's name.
    pub(crate) fn parse(
        arguments: impl Iterator<Item = std::ffi::OsString>,
    ) -> Result<Self, String> {
        let (mut output, mut folder) = (Output::Table, None);
        let mut arguments = arguments;
        let mut are_options = true;
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--") if are_options => are_options = false,
                Some("--help" | "-h") if are_options => output = Output::Help,
                Some("--json") if are_options => output = Output::Json,
                Some("--find") if are_options => {
                    let word = arguments.next().ok_or("--find: a word should follow")?;
                    output = Output::Occurrences(word.to_string_lossy().into_owned());
                }
                Some(option) if are_options && option.starts_with('-') => {
                    return Err(format!("there is no option {option}"));
                }
                _ if folder.is_some() => {
                    return Err(format!("one directory too many: {}", argument.display()));
                }
                _ => folder = Some(PathBuf::from(argument)),
            }
        }
        Ok(Self { output, folder: folder.unwrap_or_else(default_folder) })
    }
}

/// This repository, also when the program is started elsewhere; where it is gone, the current one.
fn default_folder() -> PathBuf {
    let told_by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let built_from = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut candidates = told_by_cargo.into_iter().chain([built_from]);
    candidates.find(|folder| folder.is_dir()).unwrap_or_else(|| PathBuf::from("."))
}

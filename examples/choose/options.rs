//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: choose [OPTIONS] [TRACE...]
       choose --record JOB FILE

Replays allocation traces over every strategy, and prints for each trace the time, the memory
that was taken, the least that would do, what part of that is lost and what part by rounding
alone, and what was refused.
Without TRACE: those beside this example.

Options:
  --svg FOLDER      Draw the address space of each strategy over time, a file for each trace
  --memory MIB      What each strategy may take, by default 256 MiB
  --rounds N        How often each replay is timed, by default 15
  --record JOB FILE Do one of the jobs cache, json, nodes, requests or words, and write its trace
  --help            Print this

Exit status: 0, or 1 if something could not be read or written, or the command line is wrong.
";

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    Replay,
    Record { job: String, path: PathBuf },
    Help,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) task: Task,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) memory_bytes: usize,
    pub(crate) rounds: usize,
    traces: Vec<PathBuf>,
}

fn following(
    arguments: &mut impl Iterator<Item = OsString>,
    option: &str,
    what: &str,
) -> Result<OsString, String> {
    arguments.next().ok_or_else(|| format!("{option}: {what} should follow"))
}

fn number(
    arguments: &mut impl Iterator<Item = OsString>,
    option: &str,
    most: usize,
) -> Result<usize, String> {
    let text = following(arguments, option, "a number")?;
    let number = text.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| format!("{option}: {} is no number from 1 to {most}", text.display()))
}

impl Options {
    /// Reads the arguments, without the program's name.
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments;
        let mut options = Self {
            task: Task::Replay,
            svg: None,
            memory_bytes: 256 << 20,
            rounds: 15,
            traces: vec![],
        };
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--help" | "-h") => options.task = Task::Help,
                Some("--svg") => {
                    options.svg = Some(following(&mut arguments, "--svg", "a folder")?.into());
                }
                Some("--memory") => {
                    options.memory_bytes = number(&mut arguments, "--memory", 1 << 16)? << 20;
                }
                Some("--rounds") => {
                    options.rounds = number(&mut arguments, "--rounds", 10_000)?;
                }
                Some("--record") => {
                    let job = following(&mut arguments, "--record", "a job")?;
                    let path = following(&mut arguments, "--record", "a job and a file")?;
                    let job = job.to_string_lossy().into_owned();
                    options.task = Task::Record { job, path: path.into() };
                }
                Some(option) if option.starts_with('-') => {
                    return Err(format!("there is no option {option}"));
                }
                _ => options.traces.push(argument.into()),
            }
        }
        Ok(options)
    }

    /// The traces that were named, or those of the repository.
    pub(crate) fn traces(&self) -> Result<Vec<PathBuf>, String> {
        if !self.traces.is_empty() {
            return Ok(self.traces.clone());
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/choose/traces");
        let complain = |error: std::io::Error| format!("{}: {error}", folder.display());
        let mut traces = vec![];
        for entry in std::fs::read_dir(&folder).map_err(complain)? {
            traces.push(entry.map_err(complain)?.path());
        }
        traces.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
        traces.sort_unstable();
        Ok(traces)
    }
}

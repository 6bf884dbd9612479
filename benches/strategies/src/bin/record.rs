//! `record`: records what other people's code allocates, for the example `choose`.
//!
//! ```sh
//! cargo run --release --bin record -- format ../../examples/choose/traces/format.trace
//! ```
//!
//! Its allocator is what a program of one's own needs as well, and `recorded` what it does with it:
//! start, do the work, stop; and then, if the file is to be short, read and write it.

use std::alloc::System;
use std::error::Error;
use std::fs::{self, File};
use std::process::ExitCode;

use heapswitch::Recorder;
use heapswitch::adapt::trace::Trace;

#[global_allocator]
static RECORDER: Recorder<System> = Recorder::new(System);

/// Parses a program and prints it again.
fn format() -> Result<usize, Box<dyn Error>> {
    let program = syn::parse_file(include_str!("../../../../examples/choose/inputs/program.txt"))?;
    Ok(prettyplease::unparse(&program).len())
}

/// Compiles an expression, and searches some texts line by line, keeping what it finds.
fn search() -> Result<usize, Box<dyn Error>> {
    let texts = [
        include_str!("../../../../examples/choose/inputs/program.txt"),
        include_str!("../../../../examples/choose/inputs/words.txt"),
    ];
    let expression = regex::Regex::new(r"(?i)\b(block|free|word)\w*\s+(\w+)")?;
    let mut found: Vec<(String, String)> = vec![];
    for line in texts.iter().flat_map(|text| text.lines()) {
        for part in expression.captures_iter(line) {
            found.push((part[1].to_lowercase(), part[2].to_owned()));
        }
    }
    found.sort_unstable();
    Ok(found.len())
}

fn recorded(job: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let work = match job {
        "format" => format,
        "search" => search,
        _ => return Err(format!("there is no job {job}; there are format and search").into()),
    };
    RECORDER.start(File::create(path)?)?;
    let result = work();
    let events = RECORDER.stop()?;
    let result = result?;
    // Slots in the place of addresses make it shorter.
    let trace = Trace::read(&fs::read(path)?)?;
    fs::write(path, trace.to_bytes())?;
    println!("{path}: {events} events; the job's result: {result}");
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [job, path] = &arguments[..] else {
        eprintln!("Usage: record format|search FILE");
        return ExitCode::FAILURE;
    };
    match recorded(job, path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("record: {error}");
            ExitCode::FAILURE
        }
    }
}

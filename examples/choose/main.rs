//! `choose`: which strategy serves a program's allocations best?
//!
//! Replays recorded traces over every strategy, and prints for each its time, its memory, how much
//! of that was wasted, and what it refused. `--svg` draws where the blocks lay over time. A trace
//! of your own program comes from the [`Recorder`](heapswitch::Recorder):
//!
//! ```no_run
//! use std::alloc::System;
//!
//! #[global_allocator]
//! static RECORDER: heapswitch::Recorder<System> = heapswitch::Recorder::new(System);
//!
//! fn main() -> std::io::Result<()> {
//!     RECORDER.start(std::fs::File::create("mine.trace")?)?;
//!     // what you want to know about
//!     RECORDER.stop().map(|events| println!("{events} events"))
//! }
//! ```
//!
//! This program has that allocator itself, with which it recorded most of the traces beside it:
//! `--record` does one of the jobs and writes its trace. The others are recorded by the program
//! `record` in `benches/strategies`.

mod drawing;
mod jobs;
mod memory;
mod options;
mod replay;
mod strategies;
mod table;

use std::alloc::System;
use std::path::Path;
use std::process::ExitCode;

use heapswitch::Recorder;
use heapswitch::adapt::trace::Trace;
use options::{Options, Task};

#[global_allocator]
static RECORDER: Recorder<System> = Recorder::new(System);

/// Does a job, and writes a trace of it.
fn record(job: &str, path: &Path) -> Result<(), String> {
    let job = jobs::named(job)?;
    let complain = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::create(path).map_err(complain)?;
    RECORDER.start(file).map_err(complain)?;
    let result = job();
    let events = RECORDER.stop().map_err(complain)?;
    // Slots in the place of addresses make it shorter.
    let trace = read(path)?;
    std::fs::write(path, trace.to_bytes()).map_err(complain)?;
    println!("{}: {events} events; the job's result: {result}", path.display());
    Ok(())
}

fn read(path: &Path) -> Result<Trace, String> {
    let complain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| complain(&error))?;
    Trace::read(&bytes).map_err(|error| complain(&error))
}

/// Replays each trace, and prints a table for each.
fn choose(options: &Options) -> Result<(), String> {
    let traces = options.traces()?;
    for path in &traces {
        let trace = read(path)?;
        if trace.events.is_empty() {
            return Err(format!(
                "{}: no event was recorded; was the recorder started before the work, and stopped?",
                path.display()
            ));
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let results = replay::all(&trace, options);
        print!("{}", table::render(&name, &trace, &results));
        if let Some(folder) = &options.svg {
            let complain = |error: std::io::Error| format!("{}: {error}", folder.display());
            std::fs::create_dir_all(folder).map_err(complain)?;
            let file = folder.join(format!("{name}.svg"));
            std::fs::write(file, drawing::render(&name, &trace, &results)).map_err(complain)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let done =
        Options::parse(std::env::args_os().skip(1)).and_then(|options| match &options.task {
            Task::Help => {
                print!("{}", options::USAGE);
                Ok(())
            }
            Task::Record { job, path } => record(job, path),
            Task::Replay => choose(&options),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("choose: {complaint}");
            ExitCode::FAILURE
        }
    }
}

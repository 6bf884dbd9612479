//! Contexts by their memory, in the manner of `top`: the largest first, with their budgets and what
//! escaped from them; and the library's pictures as files.
//!
//! ```sh
//! cargo run --release --package heapswitch-top                          # live; `q` ends it
//! cargo run --release --package heapswitch-top -- --pictures DIRECTORY  # after 400 steps of load
//! cargo run --release --package heapswitch-top -- --check               # one screen, checked
//! ```
//!
//! It shows a load of its own: queries that grow and end, sessions that stay, imports with large
//! buffers, and a shared cache that some results escape to. All of it runs in contexts of this
//! process, and a program of yours would call the same functions from a thread of its own.

mod load;
mod model;
mod pictures;
mod screen;
mod terminal;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::load::Load;
use crate::model::Snapshot;

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    call_sites = sampled,
}

/// Steps of the load before a picture is taken.
const STEPS: usize = 400;

/// What is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Mode {
    Live,
    Pictures(PathBuf),
    Check,
}

impl Mode {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mode = match arguments.next().as_deref() {
            None => Self::Live,
            Some("--pictures") => match arguments.next() {
                Some(directory) => Self::Pictures(directory.into()),
                None => return Err("--pictures takes a directory".to_owned()),
            },
            Some("--check") => Self::Check,
            Some(other) => {
                return Err(format!("unknown: {other}; there are --pictures DIRECTORY, --check"));
            }
        };
        match arguments.next() {
            None => Ok(mode),
            Some(more) => Err(format!("{more} is one argument too many")),
        }
    }
}

fn main() -> ExitCode {
    let done = Mode::read(std::env::args().skip(1)).map_err(Into::into).and_then(run);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> Result<(), Box<dyn Error>> {
    let mut load = Load::new()?;
    match mode {
        Mode::Live => terminal::run(load),
        Mode::Pictures(directory) => {
            let mut album = pictures::Album::new();
            for _ in 0..STEPS {
                load.step()?;
                album.sample();
            }
            for file in album.write(&directory)? {
                println!("{}", file.display());
            }
            Ok(())
        }
        Mode::Check => {
            for _ in 0..STEPS {
                load.step()?;
            }
            let snapshot = Snapshot::now(&load);
            let text = screen::as_text(&snapshot, 100, 30)?;
            println!("{text}");
            screen::check(&text, &snapshot)?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let read = |arguments: &[&str]| Mode::read(arguments.iter().map(|&one| one.to_owned()));
        assert_eq!(read(&[]), Ok(Mode::Live));
        assert_eq!(read(&["--check"]), Ok(Mode::Check));
        assert_eq!(read(&["--pictures", "here"]), Ok(Mode::Pictures("here".into())));
        assert!(read(&["--pictures"]).is_err() && read(&["--chek"]).is_err());
        assert!(read(&["--check", "twice"]).is_err());
    }
}

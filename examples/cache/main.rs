//! A bounded cache that threads share: what is used stays, what is not is evicted. On a
//! `GravityStore`, and beside it what one would write without: a `Mutex<HashMap<u64, Vec<u8>>>`.
//!
//! ```sh
//! cargo run --release --example cache [-- [--operations N] [--capacity BYTES] [--threads N]]
//! ```
//! Each of the two runs in a process of its own, so that the memory of one is not counted for the
//! other. Values are looked up by a skewed choice of numbers, and put in where they are missing;
//! each that is found is checked.

mod map;
mod measure;
mod options;
mod store;

use std::process::ExitCode;

use measure::{Figures, measure};
use options::{Options, Side};

/// What both caches do.
trait Cache: Sync {
    /// Whether the value is there; `check` is shown its bytes.
    fn get(&self, id: u64, check: impl FnOnce(&[u8])) -> bool;

    /// Puts a value in, and evicts others while it does not fit.
    fn put(&self, id: u64, value: &[u8]);

    /// How many values were evicted, and what else is to be told.
    fn summary(&self) -> (u64, String);
}

fn run(side: Side, options: &Options) -> Figures {
    match side {
        Side::Map => measure(&map::MapCache::new(options.capacity_bytes), options),
        Side::Store if heapswitch::sys::IS_PASS_THROUGH => {
            // Without mappings the memory is a slice.
            let bytes = options.capacity_bytes + 64;
            let mut memory = vec![std::mem::MaybeUninit::uninit(); bytes];
            let source = heapswitch::BorrowedSliceSource::new(&mut memory);
            measure(&store::StoreCache::new_in(source, options.capacity_bytes), options)
        }
        Side::Store => {
            let source = heapswitch::MemoryMapSource::new();
            measure(&store::StoreCache::new_in(source, options.capacity_bytes), options)
        }
    }
}

/// Runs a side in a process of its own; its figures.
fn run_apart(side: Side) -> Result<Figures, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = std::process::Command::new(program);
    let output = command
        .args(std::env::args().skip(1))
        .args(["--only", side.name()])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Figures::from_line(text.trim()).ok_or_else(|| format!("no figures: {text}"))
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\nusage: cache [--operations N] [--capacity BYTES] [--threads N]");
            return ExitCode::FAILURE;
        }
    };
    if let Some(side) = options.only {
        println!("{}", run(side, &options).to_line());
        return ExitCode::SUCCESS;
    }
    let (store, map) = match (run_apart(Side::Store), run_apart(Side::Map)) {
        (Ok(store), Ok(map)) => (store, map),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "{} operations by {} threads, at most {} bytes of values",
        options.operations, options.threads, options.capacity_bytes
    );
    println!("GravityStore             {store}");
    println!("Mutex<HashMap<u64, Vec>> {map}");
    println!(
        "the store needs {:.2} of the map's time and {:.2} of its memory",
        store.seconds / map.seconds,
        store.peak_bytes as f64 / map.peak_bytes as f64
    );
    ExitCode::SUCCESS
}

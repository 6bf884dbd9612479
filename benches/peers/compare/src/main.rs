//! Builds the programs, runs them in turn, prints how they compare, and draws it.
//!
//! `compare [--rounds N] [--profile NAME] [--smoke] [--times N] [--peers A,B] [--threads 1,2,8]
//! [--instructions] [--charts FOLDER] [--record FILE | --from FILE] [WORKLOAD...]`
//!
//! Each run is a process of its own, so that no workload inherits another's heap. Within a round
//! every program runs a row before any runs the next, in an order that turns from round to round:
//! what the machine does meanwhile hits them all alike.

mod charts;
mod comparison;
mod options;
mod programs;
mod random;
mod results;
mod statistics;
mod tables;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use comparison::Comparison;
use options::Options;
use programs::Built;
use results::{KEPT, LAZY, Measure, PEAK, PROCESSOR_TIME, Results, Row, WALL_TIME};
use statistics::Figure;

fn main() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.counts_instructions {
        return count_instructions(&options);
    }
    let results = match &options.from {
        Some(path) => {
            let record = fs::read_to_string(path);
            Results::read(&record.map_err(|error| format!("{}: {error}", path.display()))?)?
        }
        None => measure(&options)?,
    };
    println!("{}\n", results.machine);
    println!("Figures: median [interval of 95 %, bootstrapped]; lower is better.\n");
    print!("{}", results.versions());
    show(&options, &results)
}

fn built(options: &Options) -> Result<Vec<Built>, String> {
    let programs = options.programs();
    programs.into_iter().map(|program| Built::of(program, &options.profile)).collect()
}

fn measure(options: &Options) -> Result<Results, String> {
    let programs = built(options)?;
    let mut results = Results::on(machine(options));
    let mut record = match &options.record {
        Some(path) => Some(Record::create(path, &results.machine)?),
        None => None,
    };
    for round in 0..options.rounds {
        for row in options.rows() {
            for turn in 0..programs.len() {
                let built = &programs[(turn + round) % programs.len()];
                if !built.program.runs(row.workload) {
                    continue;
                }
                let (version, measured) = built.measured(row, options)?;
                results.add(row, built.program, &version, measured)?;
                if let Some(record) = &mut record {
                    record.add(&Results::line(row, built.program, &version, measured))?;
                }
            }
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    Ok(results)
}

/// The file of every measurement, as far as they were made.
struct Record(File);

impl Record {
    fn create(path: &Path, machine: &str) -> Result<Self, String> {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut record = Self(file);
        record.add(&format!("{machine}\n"))?;
        Ok(record)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let written = self.0.write_all(line.as_bytes());
        written.map_err(|error| format!("the record takes no more: {error}"))
    }
}

fn show(options: &Options, results: &Results) -> Result<(), String> {
    let by = |measure: Measure| {
        Comparison::of(measure.name, measure.unit, |row, program| {
            results.figure(row, program, measure)
        })
    };
    let (processor, wall, peak) = (by(PROCESSOR_TIME), by(WALL_TIME), by(PEAK));
    let means = [&processor, &wall, &peak];
    let amounts = |measure| tables::amounts(&peak, measure, results);
    print!("{}{}", tables::means(&means), tables::misses(&processor));
    print!("{}{}", tables::ratios(&processor), tables::ratios(&wall));
    print!("{}{}{}", tables::ratios(&peak), amounts(KEPT), amounts(LAZY));
    match &options.charts {
        Some(folder) => {
            charts::draw(folder, &[("cpu-time", &processor), ("peak-rss", &peak)], &means)
        }
        None => Ok(()),
    }
}

/// Counts once: the counts repeat but for threads that wait for each other. A program that
/// callgrind cannot run, or not to its end, is reported and left out.
fn count_instructions(options: &Options) -> Result<(), String> {
    let programs = built(options)?;
    let mut counts = BTreeMap::new();
    for row in options.rows() {
        for built in programs.iter().filter(|built| built.program.runs(row.workload)) {
            match built.instructions(row) {
                Ok((_, count)) => {
                    let key = (row.workload.name, row.threads, built.program.name);
                    counts.insert(key, Figure::exact(count as f64 / 1e6));
                }
                Err(error) => eprintln!("{error}"),
            }
        }
        eprintln!("{row}");
    }
    let comparison = Comparison::of("instructions", "million", |row: Row, program| {
        counts.get(&(row.workload.name, row.threads, program.name)).cloned()
    });
    print!("{}{}", tables::means(&[&comparison]), tables::misses(&comparison));
    print!("{}", tables::ratios(&comparison));
    match &options.charts {
        Some(folder) => charts::draw(folder, &[("instructions", &comparison)], &[&comparison]),
        None => Ok(()),
    }
}

/// What the figures hold for.
fn machine(options: &Options) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<&str> =
        processors.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(": ")).map_or("unknown", |m| m.1);
    let extent = match options.times {
        _ if options.is_smoke => ", SMOKE TEST: these figures mean nothing".to_owned(),
        1 => String::new(),
        times => format!(", workloads {times} times"),
    };
    format!(
        "{model}, {} processors, Linux {}, profile {}, {} rounds{extent}",
        models.len(),
        read("/proc/sys/kernel/osrelease").trim(),
        options.profile,
        options.rounds,
    )
}

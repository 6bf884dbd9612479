//! The command line.

use std::path::PathBuf;

use workloads::{THREADS, WORKLOADS, Workload};

use crate::programs::{PROGRAMS, Program};
use crate::results::Row;

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) profile: String,
    pub(crate) is_smoke: bool,
    /// How often each workload does what it does.
    pub(crate) times: usize,
    /// Instructions are counted instead of time.
    pub(crate) counts_instructions: bool,
    /// Where to draw the charts.
    pub(crate) charts: Option<PathBuf>,
    /// Where every measurement is written as it is made.
    pub(crate) record: Option<PathBuf>,
    /// A record to print instead of measuring.
    pub(crate) from: Option<PathBuf>,
    programs: Vec<String>,
    threads: Vec<usize>,
    workloads: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rounds: 15,
            profile: "release".to_owned(),
            is_smoke: false,
            times: 1,
            counts_instructions: false,
            charts: None,
            record: None,
            from: None,
            programs: Vec::new(),
            threads: Vec::new(),
            workloads: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| format!("what follows {argument} is missing"));
            match argument.as_str() {
                "--rounds" => options.rounds = positive(&value()?)?,
                "--profile" => options.profile = value()?,
                "--peers" => {
                    options.programs = listed(&value()?, |name| match program(name) {
                        Some(_) => Ok(name.to_owned()),
                        None => Err(format!("{name} is no program here")),
                    })?;
                }
                "--threads" => {
                    options.threads = listed(&value()?, |number| {
                        let number = positive(number)?;
                        let is_known = THREADS.contains(&number);
                        is_known.then_some(number).ok_or(format!("none runs on {number} threads"))
                    })?;
                }
                "--times" => options.times = positive(&value()?)?,
                "--smoke" => options.is_smoke = true,
                "--instructions" => options.counts_instructions = true,
                "--charts" => options.charts = Some(value()?.into()),
                "--record" => options.record = Some(value()?.into()),
                "--from" => options.from = Some(value()?.into()),
                name if WORKLOADS.iter().any(|known| known.name == name) => {
                    options.workloads.push(argument);
                }
                other => return Err(format!("{other} is neither an option nor a workload")),
            }
        }
        Ok(options)
    }

    pub(crate) fn programs(&self) -> Vec<&'static Program> {
        if self.programs.is_empty() {
            return PROGRAMS.iter().collect();
        }
        self.programs.iter().filter_map(|name| program(name)).collect()
    }

    /// What is measured: each workload on each of its counts of threads. Under test once is enough,
    /// on two; instructions are counted on the fewest, for threads that wait count differently.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let is_wanted = |workload: &&Workload| {
            self.workloads.is_empty() || self.workloads.iter().any(|name| name == workload.name)
        };
        let threads = |workload: &'static Workload| match workload.threads {
            all if !self.threads.is_empty() => {
                all.iter().copied().filter(|count| self.threads.contains(count)).collect()
            }
            all if self.counts_instructions => all[..1].to_vec(),
            all if self.is_smoke => all.iter().copied().filter(|&count| count == 2).collect(),
            all => all.to_vec(),
        };
        WORKLOADS
            .iter()
            .filter(is_wanted)
            .flat_map(|workload| {
                threads(workload).into_iter().map(move |threads| Row { workload, threads })
            })
            .collect()
    }
}

fn program(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name == name)
}

fn listed<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(read).collect()
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| format!("{text}: how many?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let line =
            "--rounds 3 --times 9 --peers system,floor --threads 1,8 --charts a/b tree foreign";
        let options = parse(line).expect("a good line");
        assert_eq!((options.rounds, options.times), (3, 9));
        let names: Vec<&str> = options.programs().iter().map(|program| program.name).collect();
        assert_eq!(names, ["system", "floor"]);
        let rows: Vec<String> = options.rows().iter().map(Row::to_string).collect();
        assert_eq!(rows, ["foreign, 8 threads", "tree, 1 thread", "tree, 8 threads"]);
        assert_eq!(options.charts, Some(PathBuf::from("a/b")));
    }

    #[test]
    fn without_options_every_row_is_measured() {
        let options = parse("").expect("nothing");
        let all: usize = WORKLOADS.iter().map(|workload| workload.threads.len()).sum();
        assert_eq!((options.rows().len(), options.programs().len()), (all, PROGRAMS.len()));
        let smoke = parse("--smoke").expect("a good line").rows();
        assert_eq!(smoke.len(), WORKLOADS.len());
        assert!(smoke.iter().all(|row| row.threads == 2));
        let counted = parse("--instructions").expect("a good line").rows();
        assert_eq!(counted.len(), WORKLOADS.len());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--rounds",
            "--rounds 0",
            "--rounds x",
            "--times 0",
            "--round 1",
            "trees",
            "--threads 3",
            "--peers nobody",
            "--threads 1,",
            "--charts",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

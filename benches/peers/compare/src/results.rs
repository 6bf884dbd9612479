//! What was measured: by row and program, one measurement a round.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use workloads::{Measured, WORKLOADS, Workload};

use crate::programs::{PROGRAMS, Program};
use crate::statistics::Figure;

/// A workload on so many threads.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) workload: &'static Workload,
    pub(crate) threads: usize,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.threads == 1 { "" } else { "s" };
        write!(f, "{}, {} thread{plural}", self.workload.name, self.threads)
    }
}

/// One of the numbers that are compared.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// In that unit.
    pub(crate) of: fn(&Measured) -> f64,
}

pub(crate) const PROCESSOR_TIME: Measure =
    Measure { name: "CPU time", unit: "ms", of: |measured| measured.processor_seconds * 1e3 };
pub(crate) const WALL_TIME: Measure =
    Measure { name: "wall time", unit: "ms", of: |measured| measured.wall_seconds * 1e3 };
pub(crate) const PEAK: Measure =
    Measure { name: "peak RSS", unit: "MiB", of: |measured| measured.peak_kib as f64 / 1024.0 };
/// What the system could take back costs nobody anything, so it stands apart.
pub(crate) const KEPT: Measure = Measure {
    name: "private dirty memory at the end",
    unit: "MiB",
    of: |measured| measured.private_dirty_kib as f64 / 1024.0,
};
pub(crate) const LAZY: Measure = Measure {
    name: "of it lazily freed",
    unit: "MiB",
    of: |measured| measured.lazy_free_kib as f64 / 1024.0,
};

/// Everything measured, and by which versions.
pub(crate) struct Results {
    /// What they were measured on.
    pub(crate) machine: String,
    rounds: BTreeMap<(&'static str, usize, &'static str), Vec<Measured>>,
    versions: BTreeMap<&'static str, String>,
}

impl Results {
    pub(crate) fn on(machine: String) -> Self {
        Self { machine, rounds: BTreeMap::new(), versions: BTreeMap::new() }
    }

    /// # Errors
    /// The program was of another version before.
    pub(crate) fn add(
        &mut self,
        row: Row,
        program: &'static Program,
        version: &str,
        measured: Measured,
    ) -> Result<(), String> {
        let before = self.versions.entry(program.name).or_insert_with(|| version.to_owned());
        if before != version {
            return Err(format!("{} was {before} and is {version}", program.name));
        }
        let key = (row.workload.name, row.threads, program.name);
        self.rounds.entry(key).or_default().push(measured);
        Ok(())
    }

    /// The line of a record that [`Results::read`] reads, after a first one about the machine.
    pub(crate) fn line(row: Row, program: &Program, version: &str, measured: Measured) -> String {
        format!("{} {} {} {version} {measured}\n", row.workload.name, row.threads, program.name)
    }

    pub(crate) fn read(record: &str) -> Result<Self, String> {
        let mut lines = record.lines();
        let machine = lines.next().ok_or("an empty record")?;
        let mut results = Self::on(machine.to_owned());
        for line in lines {
            let wrong = || format!("no line of a record: {line}");
            let parts: Vec<&str> = line.splitn(5, ' ').collect();
            let &[name, threads, program, version, measured] = parts.as_slice() else {
                return Err(wrong());
            };
            let workload = WORKLOADS.iter().find(|known| known.name == name).ok_or_else(wrong)?;
            let program = PROGRAMS.iter().find(|known| known.name == program).ok_or_else(wrong)?;
            let threads = threads.parse().map_err(|_| wrong())?;
            results.add(Row { workload, threads }, program, version, measured.parse()?)?;
        }
        Ok(results)
    }

    pub(crate) fn versions(&self) -> String {
        let mut text = String::from("| program | version |\n|---|---|\n");
        for (program, version) in &self.versions {
            let _infallible = writeln!(text, "| {program} | {version} |");
        }
        text
    }

    fn rounds(&self, row: Row, program: &Program) -> Option<&Vec<Measured>> {
        self.rounds.get(&(row.workload.name, row.threads, program.name))
    }

    /// The median of a measure; none where the program does not run the row.
    pub(crate) fn figure(&self, row: Row, program: &Program, measure: Measure) -> Option<Figure> {
        let rounds: Vec<f64> = self.rounds(row, program)?.iter().map(measure.of).collect();
        // A seed for each row, so that rows are drawn apart, and programs alike.
        let place = WORKLOADS.iter().position(|known| known.name == row.workload.name);
        let seed = 1000 * place.unwrap_or(0) + row.threads;
        Some(Figure::median(&rounds, seed as u64))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn measured(seconds: f64) -> Measured {
        let kib = (seconds * 1024.0) as u64;
        Measured {
            wall_seconds: seconds,
            processor_seconds: seconds,
            peak_kib: kib,
            private_dirty_kib: kib,
            lazy_free_kib: 0,
        }
    }

    /// Every row by every program, each of which takes as many seconds as given.
    pub(crate) fn sample(seconds: impl Fn(Row, &Program) -> f64) -> Results {
        let mut record = String::from("a machine\n");
        for workload in WORKLOADS {
            for &threads in workload.threads {
                let row = Row { workload, threads };
                for program in PROGRAMS.iter().filter(|program| program.runs(workload)) {
                    record += &Results::line(row, program, "1.0", measured(seconds(row, program)));
                }
            }
        }
        Results::read(&record).expect("what was written is read back")
    }

    #[test]
    fn a_program_that_changes_its_version_is_refused() {
        let row = Row { workload: &WORKLOADS[0], threads: 1 };
        let line = |version| Results::line(row, &PROGRAMS[2], version, measured(1.0));
        let read = |lines: &str| Results::read(&format!("a machine\n{lines}"));
        assert!(read(&(line("2.1") + &line("2.1"))).is_ok());
        assert!(read(&(line("2.1") + &line("2.2"))).is_err());
        for bad in ["x", "pairs 1 nobody 1.0 1 1 1 1 1", "pair 1 system 1.0 1 1 1 1 1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

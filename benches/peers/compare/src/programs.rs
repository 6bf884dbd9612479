//! The programs: one an allocator, built each alone, and run each in a process of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use workloads::{Kind, Measured, Workload};

use crate::options::Options;
use crate::results::Row;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its folder beside this one, and its own name for itself.
    pub(crate) name: &'static str,
    pub(crate) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Compared with the peers.
    Subject,
    /// The subject where requests have heaps of their own: as the subject otherwise.
    SubjectOfRequests,
    /// Every other allocator.
    Peer,
    /// The least that an allocator can do, for loops over small objects.
    Floor,
}

pub(crate) const PROGRAMS: &[Program] = &[
    Program { name: "heapswitch", role: Role::Subject },
    Program { name: "context", role: Role::SubjectOfRequests },
    Program { name: "mimalloc2", role: Role::Peer },
    Program { name: "mimalloc3", role: Role::Peer },
    Program { name: "snmalloc", role: Role::Peer },
    Program { name: "jemalloc", role: Role::Peer },
    Program { name: "rpmalloc", role: Role::Peer },
    Program { name: "system", role: Role::Peer },
    Program { name: "floor", role: Role::Floor },
];

impl Program {
    pub(crate) fn runs(&self, workload: &Workload) -> bool {
        match self.role {
            Role::Subject | Role::Peer => true,
            Role::SubjectOfRequests => workload.name == "request",
            Role::Floor => workload.kind == Kind::SmallLoop,
        }
    }
}

/// A program that is built, and serves.
pub(crate) struct Built {
    pub(crate) program: &'static Program,
    path: PathBuf,
}

impl Built {
    /// Builds a program and finds it. Each is built alone: built together, the two mimallocs would
    /// share one set of features and be one version.
    pub(crate) fn of(program: &'static Program, profile: &str) -> Result<Self, String> {
        let name = program.name;
        let manifest = format!("{}/../{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--locked", "--message-format=json-render-diagnostics"])
            .args(["--profile", profile, "--manifest-path", &manifest])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        if !output.status.success() {
            return Err(format!("{name} does not build"));
        }
        // The one line about an executable holds its path as a plain JSON string.
        let messages = String::from_utf8_lossy(&output.stdout);
        let path = messages
            .split("\"executable\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .ok_or_else(|| format!("cargo names no program of {name}"))?;
        Ok(Self { program, path: PathBuf::from(path) })
    }

    /// Runs one row: the version that served, and what it took.
    pub(crate) fn measured(
        &self,
        row: Row,
        options: &Options,
    ) -> Result<(String, Measured), String> {
        let times = options.times.to_string();
        let extent: &[&str] = if options.is_smoke { &["--smoke"] } else { &["--times", &times] };
        let output = self.started(Command::new(&self.path).args(extent), row)?;
        self.read(row, &String::from_utf8_lossy(&output.stdout))
    }

    /// Runs one row under callgrind and gives the instructions of the whole program, its start
    /// included.
    pub(crate) fn instructions(&self, row: Row) -> Result<(String, u64), String> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(&self.path);
        let output = self.started(valgrind.arg("--smoke"), row)?;
        let (version, _) = self.read(row, &String::from_utf8_lossy(&output.stdout))?;
        let told = String::from_utf8_lossy(&output.stderr);
        let count = told
            .split("Collected : ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next().and_then(|number| number.parse().ok()));
        let count = count.ok_or_else(|| format!("callgrind counts nothing: {told}"))?;
        Ok((version, count))
    }

    fn started(&self, command: &mut Command, row: Row) -> Result<std::process::Output, String> {
        let name = self.program.name;
        let output = command
            .args([row.workload.name, "--threads", &row.threads.to_string()])
            .output()
            .map_err(|error| format!("{name} does not start: {error}"))?;
        if output.status.success() {
            return Ok(output);
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(format!("{name}, {row}: {}, {told}", output.status))
    }

    /// Reads what the program printed, and sees that it is the right one.
    fn read(&self, row: Row, text: &str) -> Result<(String, Measured), String> {
        let name = self.program.name;
        let other = || format!("{name}, {row}: it printed {text:?}");
        let (first, second) = text.split_once('\n').ok_or_else(other)?;
        let version = first.strip_prefix(&format!("allocator {name} ")).ok_or_else(other)?;
        let start = format!("{} {} ", row.workload.name, row.threads);
        let measured = second.strip_prefix(&start).ok_or_else(other)?;
        Ok((version.to_owned(), measured.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workloads::WORKLOADS;

    #[test]
    fn output_of_another_program_or_row_is_refused() {
        let row = Row { workload: &WORKLOADS[0], threads: 2 };
        let built = Built { program: &PROGRAMS[2], path: PathBuf::new() };
        let good = "allocator mimalloc2 2.2.4\npairs 2 0.5 1.0 100 50 0\n";
        let (version, measured) = built.read(row, good).expect("good output");
        assert_eq!((version.as_str(), measured.peak_kib), ("2.2.4", 100));
        for (from, to) in [("mimalloc2", "system"), ("pairs", "lifo"), ("pairs 2", "pairs 1")] {
            assert!(built.read(row, &good.replacen(from, to, 1)).is_err(), "{from} as {to}");
        }
    }
}

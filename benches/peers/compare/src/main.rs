//! Builds the peers, runs them in turn, and prints how they compare.
//!
//! `compare [--rounds N] [--profile NAME] [--smoke] [--peers A,B] [WORKLOAD...]`
//!
//! Each run is a process of its own, so that no workload inherits another's heap. Within a round
//! every peer runs a workload before any runs the next, in an order that turns from round to round:
//! what the machine does meanwhile hits them all alike.

mod options;
mod statistics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use options::Options;
use statistics::Quartiles;

/// The one that is compared with the others.
const SUBJECTS: &[&str] = &["heapswitch", "context"];
/// Whose programs are built and run, unless others are named: folders beside this one.
const PEERS: &[&str] = &[
    "heapswitch",
    "context",
    "mimalloc2",
    "mimalloc3",
    "snmalloc",
    "jemalloc",
    "rpmalloc",
    "system",
];

/// The seconds of every run, by workload and peer.
type Times = BTreeMap<(String, String), Vec<f64>>;

fn main() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let peers = options.peers();
    let programs: Vec<(String, PathBuf)> = peers
        .iter()
        .map(|peer| Ok((peer.clone(), built(peer, &options)?)))
        .collect::<Result<_, String>>()?;
    let workloads = options.workloads();
    let mut times = Times::new();
    for round in 0..options.rounds {
        for workload in &workloads {
            for turn in 0..programs.len() {
                let (peer, program) = &programs[(turn + round) % programs.len()];
                let seconds = measured(program, workload, options.is_smoke)?;
                times.entry((workload.clone(), peer.clone())).or_default().push(seconds);
            }
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    print!("{}", machine(&options));
    print!("{}", table(&workloads, &peers, &times));
    Ok(())
}

/// Builds a peer and finds its program. Each is built alone: built together, the two mimallocs
/// would share one set of features and be one version.
fn built(peer: &str, options: &Options) -> Result<PathBuf, String> {
    let manifest = format!("{}/../{peer}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--message-format=json-render-diagnostics"])
        .args(["--profile", &options.profile, "--manifest-path", &manifest])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("{peer} does not build"));
    }
    // The one line about an executable holds its path as a plain JSON string.
    let messages = String::from_utf8_lossy(&output.stdout);
    let path = messages
        .split("\"executable\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .ok_or_else(|| format!("cargo names no program of {peer}"))?;
    Ok(PathBuf::from(path))
}

fn measured(program: &PathBuf, workload: &str, is_smoke: bool) -> Result<f64, String> {
    let output = Command::new(program)
        .arg(workload)
        .args(is_smoke.then_some("--smoke"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{} does not start: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds = text.strip_prefix(workload).and_then(|rest| rest.trim().parse().ok());
    match seconds {
        Some(seconds) if output.status.success() => Ok(seconds),
        _ => Err(format!("{} {workload}: {}, {text:?}", program.display(), output.status)),
    }
}

fn machine(options: &Options) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<&str> =
        processors.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(": ")).map_or("unknown", |m| m.1);
    format!(
        "{model}, {} processors, Linux {}, profile {}, {} rounds{}\n\n",
        models.len(),
        read("/proc/sys/kernel/osrelease").trim(),
        options.profile,
        options.rounds,
        if options.is_smoke { ", SMOKE TEST: these figures mean nothing" } else { "" },
    )
}

/// A row a workload: the best peer's median in milliseconds, then every peer's time as a ratio to
/// it: the median and, in brackets, the quartiles.
fn table(workloads: &[String], peers: &[String], times: &Times) -> String {
    let mut text = String::from("| workload | best |");
    text.extend(peers.iter().map(|peer| format!(" {peer} |")));
    text += "\n|---|---|";
    text.extend(peers.iter().map(|_| "---|"));
    text += "\n";
    for workload in workloads {
        let all: Vec<(&String, Quartiles)> = peers
            .iter()
            .map(|peer| (peer, Quartiles::of(&times[&(workload.clone(), peer.clone())])))
            .collect();
        // The subject is not its own peer, unless it runs alone.
        let best = all
            .iter()
            .filter(|(peer, _)| !SUBJECTS.contains(&peer.as_str()) || peers.len() == 1)
            .map(|(_, quartiles)| quartiles.median)
            .fold(f64::INFINITY, f64::min);
        text += &format!("| {workload} | {:.1} ms |", best * 1e3);
        for (_, Quartiles { low, median, high }) in all {
            let (low, median, high) = (low / best, median / best, high / best);
            text += &format!(" {median:.2} [{low:.2}, {high:.2}] |");
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_best_peer_and_not_to_the_subject() {
        let peers = [SUBJECTS[0], "a", "b"].map(str::to_owned);
        let times = peers.iter().zip([0.5, 1.0, 2.0]);
        let times =
            times.map(|(peer, time)| (("w".to_owned(), peer.clone()), vec![time])).collect();
        let text = table(&["w".to_owned()], &peers, &times);
        let row = "| w | 1000.0 ms | 0.50 [0.50, 0.50] | 1.00 [1.00, 1.00] | 2.00 [2.00, 2.00] |";
        assert_eq!(text.lines().last(), Some(row));
    }
}

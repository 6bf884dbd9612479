//! The service tests itself: as a process of its own, under load by HTTP clients, beside the same
//! service on mimalloc without limits; the rounds of both alternate. Prints one JSON object.

pub mod client;
pub mod hostile;
pub mod load;
pub mod programs;
pub mod server;

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use self::load::{Load, Outcome};
use self::server::Server;
use crate::options::Options;

/// Requests that each gets before anything is counted.
const WARM_UP: usize = 2000;

/// How long the resident memory may take to settle.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// A service under test, and what was seen of it.
struct Subject {
    name: &'static str,
    server: Server,
    has_budgets: bool,
    mixed: Outcome,
    polite: Outcome,
    start_kb: u64,
    peak_kb: u64,
    end_kb: u64,
}

/// Runs it all; whether everything was as it must be. How fast either was is told and not judged.
///
/// # Errors
/// A process or the clients' runtime cannot be started.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    let arguments = [
        ("--port", 0),
        ("--workers", options.workers),
        ("--budget", options.budget_bytes),
        ("--at-once", options.at_once),
    ];
    let arguments: Vec<String> = arguments
        .iter()
        .flat_map(|(name, number)| [(*name).to_owned(), number.to_string()])
        .collect();
    let mut subjects =
        vec![Subject::start("heapswitch", &std::env::current_exe()?, &arguments, true)?];
    if !options.is_alone {
        let peer = programs::beside("service_on_mimalloc", &["--features", "mimalloc"])?;
        subjects.push(Subject::start("mimalloc", &peer, &arguments, false)?);
    }
    let load = Load::new(options.budget_bytes);
    runtime.block_on(async {
        // Each kind twice, so that what is made once and kept is there: the chunk table of where
        // 1 GiB lay, 2 MiB, and of where it lies beside what came meanwhile.
        let address = subjects[0].server.address();
        hostile::try_all(address, options.budget_bytes).await;
        for subject in &subjects {
            load.run(subject.server.address(), WARM_UP, Some(100), subject.has_budgets).await;
        }
        hostile::try_all(address, options.budget_bytes).await;
        for subject in &mut subjects {
            subject.start_kb = subject.server.settled_kb(SETTLES_WITHIN).await?;
            subject.server.forget_peak()?;
        }
        under_load(&load, &mut subjects, options).await;
        for subject in &mut subjects {
            subject.peak_kb = subject.server.peak_kb()?;
        }
        let hostile = hostile::try_all(address, options.budget_bytes).await;
        for subject in &mut subjects {
            subject.end_kb = subject.server.settled_kb(SETTLES_WITHIN).await?;
        }
        let (told, is_right) = verdict(&subjects, &hostile, options);
        println!("{told:#}");
        Ok(is_right)
    })
}

/// The rounds, those with hostile requests and those without, each service in turn.
async fn under_load(load: &Load, subjects: &mut [Subject], options: &Options) {
    let requests = options.requests.div_ceil(options.rounds);
    for round in 0..options.rounds {
        if round % 2 == 1 {
            subjects.reverse();
        }
        for hostile_every in [Some(100), None] {
            for subject in &mut *subjects {
                let address = subject.server.address();
                let outcome = load.run(address, requests, hostile_every, subject.has_budgets).await;
                match hostile_every {
                    Some(_) => subject.mixed.add(&outcome),
                    None => subject.polite.add(&outcome),
                }
            }
        }
        if round % 2 == 1 {
            subjects.reverse();
        }
    }
}

fn verdict(subjects: &[Subject], hostile: &[hostile::Seen], options: &Options) -> (Value, bool) {
    let ours = &subjects[0];
    let budgets_kb = (options.budget_bytes * options.at_once / 1024) as u64;
    let mut wrong: Vec<String> = Vec::new();
    let mut want = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    want(ours.mixed.failed_neighbours == 0, "a polite request failed beside hostile ones");
    want(ours.polite.failed_neighbours == 0, "a polite request failed");
    want(ours.mixed.hostile > 0, "no request was hostile");
    want(ours.mixed.over_budget == ours.mixed.hostile, "a hostile request was not ended");
    want(ours.peak_kb * 10 <= budgets_kb * 11, "more than the sum of the budgets and a tenth");
    want(is_back(ours.start_kb, ours.end_kb), "the memory did not come back");
    hostile.iter().for_each(|seen| want(seen.is_as_stated, seen.name));
    let mut told = ours.told();
    told["budgets_kb"] = budgets_kb.into();
    told["hostile_kinds"] =
        hostile.iter().map(|seen| (seen.name.to_owned(), seen.told.clone())).collect::<Value>();
    if let Some(peer) = subjects.get(1) {
        let ratio = |one: &Outcome, other: &Outcome| {
            (one.requests_per_s() / other.requests_per_s() * 1000.0).round() / 1000.0
        };
        told["throughput_ratio"] = ratio(&ours.mixed, &peer.mixed).into();
        told["polite_throughput_ratio"] = ratio(&ours.polite, &peer.polite).into();
        told[peer.name] = peer.told();
    }
    told["wrong"] = wrong.clone().into();
    (told, wrong.is_empty())
}

/// Whether resident memory ended where it began: within a sixteenth, or 1 MiB.
pub fn is_back(start_kb: u64, end_kb: u64) -> bool {
    end_kb <= start_kb + (start_kb / 16).max(1024)
}

impl Subject {
    fn start(
        name: &'static str,
        program: &std::path::Path,
        arguments: &[String],
        has_budgets: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            name,
            server: Server::start(program, arguments)?,
            has_budgets,
            mixed: Outcome::default(),
            polite: Outcome::default(),
            start_kb: 0,
            peak_kb: 0,
            end_kb: 0,
        })
    }

    fn told(&self) -> Value {
        json!({
            "requests": self.mixed.requests + self.polite.requests,
            "hostile": self.mixed.hostile,
            "over_budget": self.mixed.over_budget,
            "failed_neighbours": self.mixed.failed_neighbours + self.polite.failed_neighbours,
            "rss_start_kb": self.start_kb,
            "rss_peak_kb": self.peak_kb,
            "rss_end_kb": self.end_kb,
            "requests_per_s": self.mixed.requests_per_s().round(),
            "polite_requests_per_s": self.polite.requests_per_s().round(),
        })
    }
}

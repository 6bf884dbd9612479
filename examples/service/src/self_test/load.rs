//! A crowd of clients: polite requests, whose answers are checked against what this process
//! computes, and among them hostile ones, which must be ended, and alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use crate::join::{Joined, Tables};

/// Connections, each with one request at a time.
pub const CONNECTIONS: usize = 32;

/// Different polite requests.
const VARIANTS: usize = 8;

/// A request and the right answer.
#[derive(Debug)]
struct Polite {
    body: Bytes,
    answer: Value,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Load(Arc<Requests>);

#[derive(Debug)]
struct Requests {
    polite: Vec<Polite>,
    hostile: Vec<Bytes>,
    budget_bytes: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// All requests.
    pub requests: usize,
    /// Of those, hostile ones.
    pub hostile: usize,
    /// Hostile ones that were answered with 503 and the figures.
    pub over_budget: usize,
    /// Polite ones that were not answered as they should be.
    pub failed_neighbours: usize,
    /// How long it took.
    pub time: Duration,
}

impl Outcome {
    /// Adds another round.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.hostile += other.hostile;
        self.over_budget += other.over_budget;
        self.failed_neighbours += other.failed_neighbours;
        self.time += other.time;
    }

    /// All of them by the time.
    pub fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// A request to `/join`: two tables of so many rows, whose keys are below `keys`.
pub fn join_request(pace: &str, rows: usize, keys: usize, seed: usize) -> Value {
    let table = |side: &str| -> Vec<Value> {
        (0..rows)
            .map(|row| json!([row * 7 % keys, format!("{side} {}", row * 31 + seed)]))
            .collect()
    };
    json!({ "pace": pace, "left": table("left"), "right": table("right") })
}

/// What is to be answered to such a request.
pub fn right_answer(request: &Value) -> Value {
    let joined = Tables::read(request).map(|tables| tables.join(|| Ok::<(), ()>(())));
    joined.and_then(Result::ok).map_or(Value::Null, |joined: Joined| joined.to_json())
}

impl Load {
    /// The requests, for a service with such a budget: a hostile one wants some eight times that.
    pub fn new(budget_bytes: usize) -> Self {
        let polite = (0..VARIANTS).map(|seed| {
            let request = join_request("await", 48, 8, seed);
            Polite { body: request.to_string().into(), answer: right_answer(&request) }
        });
        let rows = ((budget_bytes * 8 / 64) as f64).sqrt() as usize;
        let hostile = ["await", "checkpoint", "try_reserve"]
            .map(|pace| Bytes::from(join_request(pace, rows, 1, 0).to_string()));
        let (polite, hostile) = (polite.collect(), hostile.to_vec());
        Self(Arc::new(Requests { polite, hostile, budget_bytes }))
    }

    /// Sends so many requests, one in `hostile_every` hostile. `has_budgets`: those are to be
    /// ended; otherwise they are to be served.
    pub async fn run(
        &self,
        address: SocketAddr,
        requests: usize,
        hostile_every: Option<usize>,
        has_budgets: bool,
    ) -> Outcome {
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (load, next) = (self.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    load.client(address, requests, hostile_every, has_budgets, &next).await
                })
            })
            .collect();
        let mut outcome = Outcome { requests, ..Outcome::default() };
        for client in clients {
            // A client that panicked shows as requests that failed.
            match client.await {
                Ok(one) => outcome.add(&one),
                Err(_) => outcome.failed_neighbours += 1,
            }
        }
        outcome.time = start.elapsed();
        outcome
    }

    async fn client(
        &self,
        address: SocketAddr,
        requests: usize,
        hostile_every: Option<usize>,
        has_budgets: bool,
        next: &AtomicUsize,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut client = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= requests {
                return outcome;
            }
            let is_hostile = hostile_every.is_some_and(|every| number % every == every / 2);
            outcome.hostile += usize::from(is_hostile);
            if client.is_none() {
                client = Client::connect(address).await.ok();
            }
            let body = self.body(number, is_hostile, hostile_every);
            let answer = match &mut client {
                Some(client) => client.post("/join", body).await.ok(),
                None => None,
            };
            let Some(answer) = answer else {
                client = None;
                outcome.failed_neighbours += usize::from(!is_hostile);
                continue;
            };
            if !is_hostile {
                let is_right = answer.is(200) && answer.json() == self.polite(number).answer;
                outcome.failed_neighbours += usize::from(!is_right);
            } else if has_budgets {
                let is_ended = tells_of_budget(&answer, self.0.budget_bytes);
                outcome.over_budget += usize::from(is_ended);
            }
        }
    }

    fn polite(&self, number: usize) -> &Polite {
        &self.0.polite[number % VARIANTS]
    }

    fn body(&self, number: usize, is_hostile: bool, hostile_every: Option<usize>) -> Bytes {
        let kinds = &self.0.hostile;
        match hostile_every {
            Some(every) if is_hostile => kinds[number / every % kinds.len()].clone(),
            _ => self.polite(number).body.clone(),
        }
    }
}

/// Whether it is 503 with figures that make sense: a limit of the budget or below, and more used,
/// or as much as that could be had.
pub fn tells_of_budget(answer: &Answer, budget_bytes: usize) -> bool {
    let told = answer.json();
    let number = |name: &str| told[name].as_u64().unwrap_or(0);
    let (used, limit) = (number("used_bytes"), number("limit_bytes"));
    let is_refused = told["context"] == "rows";
    answer.is(503)
        && told["error"].is_string()
        && (1..=budget_bytes as u64).contains(&limit)
        && if is_refused { used * 4 > limit } else { used > limit }
}

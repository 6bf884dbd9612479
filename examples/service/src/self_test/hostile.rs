//! Each kind of hostile request, alone with a polite neighbour: what comes of it is as the README
//! states, and the neighbour is served.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::load::{join_request, right_answer, tells_of_budget};

/// What came of one kind.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The kind.
    pub name: &'static str,
    /// Whether it was as stated.
    pub is_as_stated: bool,
    /// Status and figures.
    pub told: Value,
}

/// What is stated.
#[derive(Clone, Copy, Debug)]
enum Stated {
    /// 503 with figures; at least and at most so much used.
    Ended { least_bytes: usize, most_bytes: usize },
    /// Served: nothing ended it.
    Served,
    /// Refused as a bad request.
    Refused(u16),
}

struct Kind {
    name: &'static str,
    path: &'static str,
    body: String,
    stated: Stated,
}

const GIB: usize = 1 << 30;

/// The kinds, for a service with such a budget.
fn kinds(budget: usize) -> Vec<Kind> {
    let join = |name, pace, stated| {
        let rows = ((budget * 4 / 64) as f64).sqrt() as usize;
        Kind { name, path: "/join", body: join_request(pace, rows, 1, 0).to_string(), stated }
    };
    // Up to the reserve, a tenth, and what is taken between two looks: a vector that doubles.
    let soon = Stated::Ended { least_bytes: budget, most_bytes: budget * 2 };
    let refused = Stated::Ended { least_bytes: 1, most_bytes: budget / 2 };
    let bomb = format!("[0{}]", ",0".repeat(budget / 8));
    let kind = |name, path, body: String, stated| Kind { name, path, body, stated };
    let allocate = |may_fail: bool| {
        json!({ "bytes": GIB, "touch_bytes": 1 << 20, "may_fail": may_fail }).to_string()
    };
    let depth =
        |levels: usize| json!({ "levels": levels, "level_bytes": budget / 100 }).to_string();
    vec![
        join("small allocations across awaits", "await", soon),
        join("a loop with checkpoints", "checkpoint", soon),
        join("a loop with try_reserve", "try_reserve", refused),
        join("a loop that neither awaits nor checks", "unchecked", Stated::Served),
        kind(
            "1 GiB in one poll",
            "/allocate",
            allocate(false),
            Stated::Ended { least_bytes: GIB, most_bytes: GIB + budget },
        ),
        kind(
            "1 GiB by try_reserve",
            "/allocate",
            allocate(true),
            Stated::Ended { least_bytes: 0, most_bytes: 128 << 10 },
        ),
        kind(
            "a JSON bomb",
            "/count",
            bomb.clone(),
            Stated::Ended {
                // Sixteen times its length.
                least_bytes: bomb.len() * 16,
                most_bytes: bomb.len() * 100,
            },
        ),
        kind(
            "a JSON bomb read with checkpoints",
            "/count/checked",
            bomb,
            Stated::Ended { least_bytes: budget, most_bytes: budget * 4 },
        ),
        kind("JSON nested too deep", "/count", "[".repeat(100_000), Stated::Refused(400)),
        kind("a deep recursion that allocates", "/depth", depth(1000), soon),
        kind("a recursion too deep", "/depth", depth(1_000_000), Stated::Refused(400)),
    ]
}

/// Tries each.
pub async fn try_all(address: SocketAddr, budget_bytes: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    for kind in kinds(budget_bytes) {
        seen.push(try_one(address, budget_bytes, kind).await);
    }
    seen
}

async fn try_one(address: SocketAddr, budget_bytes: usize, kind: Kind) -> Seen {
    let Kind { name, path, body, stated } = kind;
    let neighbour = tokio::spawn(async move {
        let request = join_request("await", 48, 8, 1);
        let mut client = Client::connect(address).await.ok()?;
        for _ in 0..20 {
            let answer = client.post("/join", request.to_string()).await.ok()?;
            if !answer.is(200) || answer.json() != right_answer(&request) {
                return None;
            }
        }
        Some(())
    });
    let answer = match Client::connect(address).await {
        Ok(mut client) => client.post(path, body).await,
        Err(error) => Err(error),
    };
    let is_neighbour_served = matches!(neighbour.await, Ok(Some(())));
    match answer {
        Err(error) => {
            Seen { name, is_as_stated: false, told: json!({ "error": error.to_string() }) }
        }
        Ok(answer) => {
            let told = answer.json();
            let is_as_stated = is_neighbour_served && holds(stated, &answer, budget_bytes);
            Seen {
                name,
                is_as_stated,
                told: json!({
                    "status": answer.status.as_u16(),
                    "used_bytes": told["used_bytes"],
                    "is_neighbour_served": is_neighbour_served,
                }),
            }
        }
    }
}

fn holds(stated: Stated, answer: &Answer, budget_bytes: usize) -> bool {
    match stated {
        Stated::Served => answer.is(200),
        Stated::Refused(status) => answer.is(status),
        Stated::Ended { least_bytes, most_bytes } => {
            let used = answer.json()["used_bytes"].as_u64().unwrap_or(u64::MAX);
            let is_within = (least_bytes as u64..=most_bytes as u64).contains(&used);
            is_within
                && (tells_of_budget(answer, budget_bytes) || (least_bytes == 0 && answer.is(503)))
        }
    }
}

//! The memory-hungry query: two tables of keys and texts, joined by key, all rows kept and sorted.
//!
//! Two tables of a thousand rows with one key make a million rows. How the loop that makes them
//! gives the service a chance to end it is the request's choice, so that each can be tried.

use std::collections::{HashMap, TryReserveError};

use heapswitch::{ContextError, checkpoint};
use serde_json::Value;

/// Rows of the left table between two awaits.
const ROWS_A_STEP: usize = 8;

/// What the loop does between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It awaits.
    Await,
    /// It never awaits, and calls `checkpoint`.
    Checkpoint,
    /// It never awaits, and asks for memory with `try_reserve`.
    TryReserve,
    /// Nothing at all.
    Unchecked,
}

impl Pace {
    /// By its name in requests.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "await" => Some(Self::Await),
            "checkpoint" => Some(Self::Checkpoint),
            "try_reserve" => Some(Self::TryReserve),
            "unchecked" => Some(Self::Unchecked),
            _ => None,
        }
    }
}

/// A row of the result.
type Row = (u64, String);

/// The tables of a request.
#[derive(Debug)]
pub struct Tables<'a> {
    left: Vec<(u64, &'a str)>,
    right: HashMap<u64, Vec<&'a str>>,
}

/// What a join found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Rows of the result.
    pub rows: usize,
    /// Bytes of their texts.
    pub bytes: usize,
    /// A number made of all of them in their order.
    pub digest: u64,
}

impl Joined {
    /// As the answer says it.
    pub fn to_json(&self) -> Value {
        serde_json::json!({ "rows": self.rows, "bytes": self.bytes, "digest": self.digest })
    }

    /// Of the rows in any order. `sort_unstable`, as it allocates nothing.
    fn of(mut rows: Vec<Row>) -> Self {
        rows.sort_unstable();
        let mut joined = Self { rows: rows.len(), bytes: 0, digest: 0xCBF2_9CE4_8422_2325 };
        for (key, text) in &rows {
            joined.bytes += text.len();
            for byte in key.to_le_bytes().iter().chain(text.as_bytes()) {
                joined.digest = (joined.digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
            }
        }
        joined
    }
}

impl<'a> Tables<'a> {
    /// Reads `left` and `right`, arrays of `[key, text]`.
    pub fn read(request: &'a Value) -> Option<Self> {
        let left = table(request.get("left")?)?;
        let mut right: HashMap<u64, Vec<&str>> = HashMap::new();
        for (key, text) in table(request.get("right")?)? {
            right.entry(key).or_default().push(text);
        }
        Some(Self { left, right })
    }

    /// The texts on the right for a key.
    fn matches(&self, key: u64) -> impl Iterator<Item = &'a str> {
        self.right.get(&key).into_iter().flatten().copied()
    }

    /// Joins, and awaits now and then.
    pub async fn join_and_await(&self) -> Joined {
        let mut rows: Vec<Row> = Vec::new();
        for some in self.left.chunks(ROWS_A_STEP) {
            for &(key, text) in some {
                rows.extend(self.matches(key).map(|other| (key, format!("{text} {other}"))));
            }
            tokio::task::yield_now().await;
        }
        Joined::of(rows)
    }

    /// Joins, and calls `check` after each row of the left table.
    ///
    /// # Errors
    /// The check's.
    pub fn join<E>(&self, mut check: impl FnMut() -> Result<(), E>) -> Result<Joined, E> {
        let mut rows: Vec<Row> = Vec::new();
        for &(key, text) in &self.left {
            rows.extend(self.matches(key).map(|other| (key, format!("{text} {other}"))));
            check()?;
        }
        Ok(Joined::of(rows))
    }

    /// Joins, and is ended at a checkpoint where the budget says so.
    ///
    /// # Errors
    /// The checkpoint's.
    pub fn join_and_check(&self) -> Result<Joined, ContextError> {
        self.join(checkpoint)
    }

    /// Joins where memory may be refused. Everything here asks before it takes.
    ///
    /// # Errors
    /// It was refused.
    pub fn try_join(&self) -> Result<Joined, TryReserveError> {
        let mut rows: Vec<Row> = Vec::new();
        for &(key, text) in &self.left {
            for other in self.matches(key) {
                let mut joined = String::new();
                joined.try_reserve_exact(text.len() + 1 + other.len())?;
                joined.push_str(text);
                joined.push(' ');
                joined.push_str(other);
                rows.try_reserve(1)?;
                rows.push((key, joined));
            }
        }
        Ok(Joined::of(rows))
    }
}

fn table(value: &Value) -> Option<Vec<(u64, &str)>> {
    let rows = value.as_array()?.iter();
    rows.map(|row| Some((row.get(0)?.as_u64()?, row.get(1)?.as_str()?))).collect()
}

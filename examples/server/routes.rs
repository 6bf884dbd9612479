//! What the paths do. Plain code with plain collections: which heap serves it is decided elsewhere.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::Shared;
use crate::http::{Answer, Head, Status};

/// How many of the most frequent words are told.
const MOST_FREQUENT: usize = 10;

/// Answers a request.
pub(crate) fn answer(shared: &Shared, head: &Head<'_>, body: &[u8]) -> Answer {
    let result = match (head.path, head.method) {
        ("/", "GET" | "HEAD") => Ok(json!({ "paths": ["/heaps", "/words", "/numbers"] })),
        ("/heaps", "GET" | "HEAD") => Ok(heaps(shared)),
        ("/words", "POST") => json_of(body).and_then(|value| words(&value)),
        ("/numbers", "POST") => json_of(body).and_then(|value| numbers(&value)),
        ("/" | "/heaps", _) => return not_allowed("GET, HEAD"),
        ("/words" | "/numbers", _) => return not_allowed("POST"),
        _ => return Answer::error(Status::NOT_FOUND, "there is no such path"),
    };
    match result {
        Ok(value) => Answer { status: Status::OK, allow: None, body: value.to_string() },
        Err(why) => Answer::error(Status::BAD_REQUEST, &why),
    }
}

fn not_allowed(methods: &'static str) -> Answer {
    let answer = Answer::error(Status::METHOD_NOT_ALLOWED, "the path has no such method");
    Answer { allow: Some(methods), ..answer }
}

fn json_of(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))
}

fn heaps(shared: &Shared) -> Value {
    let usage = heapswitch::process_usage();
    json!({
        "connections": shared.connections.load(Ordering::Relaxed),
        "requests": shared.requests.load(Ordering::Relaxed),
        "held_bytes": usage.region.taken_bytes,
        "leaked_heaps": usage.leaked_heaps,
    })
}

fn words(value: &Value) -> Result<Value, String> {
    let text = value.get("text").and_then(Value::as_str).ok_or("there is no string `text`")?;
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in text.split(|character: char| !character.is_alphanumeric()) {
        if !word.is_empty() {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let mut ranked: Vec<(&String, &usize)> = counts.iter().collect();
    ranked.sort_unstable_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    ranked.truncate(MOST_FREQUENT);
    Ok(json!({
        "words": counts.values().sum::<usize>(),
        "different": counts.len(),
        "most_frequent": ranked,
    }))
}

fn numbers(value: &Value) -> Result<Value, String> {
    let items = value.as_array().ok_or("there is no array")?;
    let numbers: Option<Vec<f64>> = items.iter().map(Value::as_f64).collect();
    let mut numbers = numbers.ok_or("an item is no number")?;
    numbers.sort_unstable_by(f64::total_cmp);
    let sum: f64 = numbers.iter().sum();
    let mean = if numbers.is_empty() { Value::Null } else { json!(sum / numbers.len() as f64) };
    Ok(json!({ "count": numbers.len(), "sum": sum, "mean": mean, "sorted": numbers }))
}

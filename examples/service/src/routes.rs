//! What is answered: the work of each request in its context, and what came of it as HTTP.
//!
//! Answers and errors are made into HTTP outside the context. The error that tells of a budget is
//! allocated there in the first place.

use std::hint::black_box;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use heapswitch::{ContextError, HeapError};
use serde_json::{Value, json};

use crate::contexts::Contexts;
use crate::deep::{self, MOST_LEVELS};
use crate::join::{Pace, Tables};
use crate::json::{self, MOST_BODY_BYTES, ReadError};
use crate::metrics;

/// Most bytes that a request may ask for in one allocation: above it, it is no test of a budget.
const MOST_ALLOCATED_BYTES: u64 = 4 << 30;

type Shared = State<Arc<Contexts>>;

/// What a request's work comes to: an answer, or why there is none.
type Answer = Result<Vec<u8>, Refused>;

/// Why there is no answer.
#[derive(Debug)]
enum Refused {
    /// Its body could not be read.
    Read(ReadError),
    /// It asks for what is not there.
    Asked(&'static str),
    /// It was ended at a checkpoint, or had no heap.
    Ended(ContextError),
    /// Memory was refused where it asked for it.
    Memory { used_bytes: usize, limit_bytes: usize },
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<ContextError> for Refused {
    fn from(error: ContextError) -> Self {
        Self::Ended(error)
    }
}

impl From<HeapError> for Refused {
    fn from(error: HeapError) -> Self {
        Self::Ended(error.into())
    }
}

/// The service.
pub(crate) fn router(contexts: Arc<Contexts>) -> Router {
    Router::new()
        .route("/join", post(join))
        .route("/count", post(count))
        .route("/count/checked", post(count_checked))
        .route("/allocate", post(allocate))
        .route("/depth", post(depth))
        .route("/metrics", get(show_metrics))
        .route("/heap.svg", get(show_heap))
        .with_state(contexts)
}

/// `{"pace": "await", "left": [[1, "a"], ...], "right": [[1, "x"], ...]}`: the query.
async fn join(State(contexts): Shared, request: Request) -> Response {
    let work = async {
        let value = json::parse(&json::read_body(request.into_body()).await?)?;
        let pace = value.get("pace").and_then(Value::as_str).and_then(Pace::named);
        let (Some(pace), Some(tables)) = (pace, Tables::read(&value)) else {
            return Err(Refused::Asked("wanted are `pace`, and `left` and `right` of [key, text]"));
        };
        let joined = match pace {
            Pace::Await => tables.join_and_await().await,
            Pace::Checkpoint => tables.join_and_check()?,
            Pace::Unchecked => tables.join(|| Ok::<(), Refused>(()))?,
            Pace::TryReserve => strictly(&contexts, || tables.try_join().ok())?,
        };
        Ok(contexts.leave(joined.to_json().to_string().into_bytes())?)
    };
    respond(&contexts, contexts.run(work).await)
}

/// Runs what asks for memory before it takes it, and gets none above the limit.
fn strictly<T>(contexts: &Contexts, body: impl FnOnce() -> Option<T>) -> Result<T, Refused> {
    let Some(heap) = contexts.strict_heap()? else {
        return body().ok_or(Refused::Memory { used_bytes: 0, limit_bytes: 0 });
    };
    heap.run(body)?.ok_or_else(|| {
        let usage = heap.account();
        Refused::Memory {
            used_bytes: usage.peak_bytes,
            limit_bytes: usage.hard_limit_bytes.unwrap_or(usize::MAX),
        }
    })
}

/// How many values any JSON has. Parsed in one go, then awaited.
async fn count(State(contexts): Shared, request: Request) -> Response {
    let work = async {
        let value = json::parse(&json::read_body(request.into_body()).await?)?;
        tokio::task::yield_now().await;
        counted(&contexts, &value)
    };
    respond(&contexts, contexts.run(work).await)
}

/// The same, but the parser looks at the budget as it reads.
async fn count_checked(State(contexts): Shared, request: Request) -> Response {
    let work = async {
        let value = json::parse_checked(&json::read_body(request.into_body()).await?)?;
        counted(&contexts, &value)
    };
    respond(&contexts, contexts.run(work).await)
}

fn counted(contexts: &Contexts, value: &Value) -> Answer {
    let answer = json!({ "values": json::count(value) });
    Ok(contexts.leave(answer.to_string().into_bytes())?)
}

/// `{"bytes": 1073741824, "touch_bytes": 0, "may_fail": false}`: one allocation, in one poll.
async fn allocate(State(contexts): Shared, request: Request) -> Response {
    let work = async {
        let value = json::parse(&json::read_body(request.into_body()).await?)?;
        let number = |name| value.get(name).and_then(Value::as_u64);
        let (bytes, touched) = (number("bytes"), number("touch_bytes").unwrap_or(0));
        let Some(bytes) = bytes.filter(|&bytes| bytes <= MOST_ALLOCATED_BYTES) else {
            return Err(Refused::Asked("wanted is `bytes`, at most 4 GiB"));
        };
        let (bytes, touched) = (bytes as usize, touched.min(bytes) as usize);
        if value.get("may_fail").and_then(Value::as_bool) == Some(true) {
            strictly(&contexts, || Vec::<u8>::new().try_reserve_exact(bytes).ok())?;
        } else {
            let mut block = vec![0_u8; bytes];
            block[..touched].iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            black_box(&mut block);
            tokio::task::yield_now().await;
        }
        Ok(contexts.leave(json!({ "bytes": bytes }).to_string().into_bytes())?)
    };
    respond(&contexts, contexts.run(work).await)
}

/// `{"levels": 100, "level_bytes": 1000}`: a recursion that allocates.
async fn depth(State(contexts): Shared, request: Request) -> Response {
    let work = async {
        let value = json::parse(&json::read_body(request.into_body()).await?)?;
        let number = |name| value.get(name).and_then(Value::as_u64);
        let levels = number("levels").filter(|&levels| levels <= MOST_LEVELS as u64);
        let bytes = number("level_bytes").filter(|&bytes| bytes <= MOST_BODY_BYTES as u64);
        let (Some(levels), Some(bytes)) = (levels, bytes) else {
            return Err(Refused::Asked("wanted are `levels`, at most 1000, and `level_bytes`"));
        };
        let held = deep::descend(levels as usize, bytes as usize)?;
        Ok(contexts.leave(json!({ "bytes": held }).to_string().into_bytes())?)
    };
    respond(&contexts, contexts.run(work).await)
}

async fn show_metrics(State(contexts): Shared) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, metrics::text(&contexts)).into_response()
}

/// What each chunk of the region is now, as a picture.
async fn show_heap() -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], heapswitch::HeapMap::now().to_svg()).into_response()
}

/// What came of a request, as HTTP.
fn respond(contexts: &Contexts, result: Result<Answer, ContextError>) -> Response {
    let refused = match result {
        Ok(Ok(answer)) => return json_response(StatusCode::OK, answer),
        Ok(Err(refused)) => refused,
        Err(error) => Refused::Ended(error),
    };
    match refused {
        Refused::Ended(error) | Refused::Read(ReadError::Ended(error)) => ended(contexts, &error),
        Refused::Memory { used_bytes, limit_bytes } => {
            contexts.count_over_budget();
            let told = json!({
                "error": "memory was refused: the limit is reached",
                "context": "rows",
                "used_bytes": used_bytes,
                "limit_bytes": limit_bytes,
            });
            told_with(StatusCode::SERVICE_UNAVAILABLE, &told)
        }
        Refused::Asked(what) => told_with(StatusCode::BAD_REQUEST, &json!({ "error": what })),
        Refused::Read(ReadError::NoJson(error)) => {
            told_with(StatusCode::BAD_REQUEST, &json!({ "error": error.to_string() }))
        }
        Refused::Read(ReadError::Broken) => {
            told_with(StatusCode::BAD_REQUEST, &json!({ "error": "the body broke off" }))
        }
        Refused::Read(ReadError::TooLong) => {
            let told = json!({ "error": format!("a body has at most {MOST_BODY_BYTES} bytes") });
            told_with(StatusCode::PAYLOAD_TOO_LARGE, &told)
        }
    }
}

/// 503, with the figures where a budget is the reason.
fn ended(contexts: &Contexts, error: &ContextError) -> Response {
    let mut told = json!({ "error": error.to_string() });
    if let Some(over) = error.over_budget() {
        contexts.count_over_budget();
        told["context"] = over.context.as_str().into();
        told["account"] = over.name.as_str().into();
        told["used_bytes"] = over.used_bytes.into();
        told["limit_bytes"] = over.limit_bytes.into();
        let largest = over.largest.iter();
        told["largest"] = largest
            .map(|one| json!({ "context": one.name.as_str(), "bytes": one.bytes }))
            .collect();
    }
    told_with(StatusCode::SERVICE_UNAVAILABLE, &told)
}

fn told_with(status: StatusCode, told: &Value) -> Response {
    json_response(status, told.to_string().into_bytes())
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

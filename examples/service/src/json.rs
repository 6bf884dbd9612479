//! JSON that came from a client: read from its body, parsed, and parsed with a budget in mind.

use std::io::{self, Read};

use axum::body::Body;
use heapswitch::{ContextError, checkpoint};
use http_body_util::BodyExt as _;
use serde_json::Value;

/// What a body may have at most. A value made of it may take sixteen times as much, or more.
pub(crate) const MOST_BODY_BYTES: usize = 1 << 20;

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The body is longer than that.
    TooLong,
    /// The client stopped, or sent what is no HTTP.
    Broken,
    /// It is no JSON, or nested too deep: serde_json refuses more than 128 levels.
    NoJson(serde_json::Error),
    /// The context was ended meanwhile.
    Ended(ContextError),
}

/// Reads a body into the current context, which may be ended at each await.
pub(crate) async fn read_body(mut body: Body) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        if bytes.len() + data.len() > MOST_BODY_BYTES {
            return Err(ReadError::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Parses in one go: nothing ends it before it is done.
pub(crate) fn parse(text: &[u8]) -> Result<Value, ReadError> {
    serde_json::from_slice(text).map_err(ReadError::NoJson)
}

/// Parses from a reader that looks at the budget each time it is asked for more: a value that
/// grows too large ends in its middle.
pub(crate) fn parse_checked(text: &[u8]) -> Result<Value, ReadError> {
    let mut reader = CheckedReader { text, ended: None };
    let parsed = serde_json::from_reader(io::BufReader::with_capacity(4096, &mut reader));
    match (parsed, reader.ended) {
        (_, Some(error)) => Err(ReadError::Ended(error)),
        (Ok(value), None) => Ok(value),
        (Err(error), None) => Err(ReadError::NoJson(error)),
    }
}

struct CheckedReader<'a> {
    text: &'a [u8],
    ended: Option<ContextError>,
}

impl Read for CheckedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match checkpoint() {
            Ok(()) => self.text.read(buffer),
            Err(error) => {
                self.ended = Some(error);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }
}

/// How many values a value has, itself included.
pub(crate) fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(values) => values.values().map(count).sum(),
        _ => 0,
    }
}

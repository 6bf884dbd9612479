//! As much HTTP/1.1 as is needed: heads of requests, and answers.

use std::fmt::Write;

/// A request's head may be so long.
pub(crate) const MOST_HEAD_BYTES: usize = 16 << 10;
/// A request's body may be so long.
pub(crate) const MOST_BODY_BYTES: usize = 1 << 20;

/// What the head of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    pub(crate) body_bytes: usize,
    /// Whether the connection stays open after the answer.
    pub(crate) is_kept: bool,
    /// Whether the client waits for a word before it sends the body.
    pub(crate) expects_continue: bool,
}

/// A status, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const OK: Self = Self(200);
    pub(crate) const BAD_REQUEST: Self = Self(400);
    pub(crate) const NOT_FOUND: Self = Self(404);
    pub(crate) const METHOD_NOT_ALLOWED: Self = Self(405);
    pub(crate) const REQUEST_TIMEOUT: Self = Self(408);
    pub(crate) const LENGTH_REQUIRED: Self = Self(411);
    pub(crate) const CONTENT_TOO_LARGE: Self = Self(413);
    pub(crate) const EXPECTATION_FAILED: Self = Self(417);
    pub(crate) const HEAD_TOO_LARGE: Self = Self(431);
    pub(crate) const VERSION_NOT_SUPPORTED: Self = Self(505);

    fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            411 => "Length Required",
            413 => "Content Too Large",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            505 => "HTTP Version Not Supported",
            _ => "Error",
        }
    }
}

/// Where a head ends in `bytes`: behind its empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

/// Reads a head.
///
/// # Errors
/// The status to answer with, and why. The connection is of no use any more then: where the next
/// request begins is unknown.
pub(crate) fn parse(head: &[u8]) -> Result<Head<'_>, (Status, &'static str)> {
    let bad = |why| (Status::BAD_REQUEST, why);
    let head = str::from_utf8(head).map_err(|_| bad("the head is not UTF-8"))?;
    let mut lines = head.split("\r\n");
    let request_line = lines.next().unwrap_or_default();
    let mut parts = request_line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line is not METHOD TARGET VERSION"));
    };
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(bad("the method is not a word"));
    }
    let is_kept = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ if version.starts_with("HTTP/") => {
            return Err((Status::VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are spoken"));
        }
        _ => return Err(bad("the version is not HTTP/1.1")),
    };
    if !target.starts_with('/') {
        return Err(bad("the target does not begin with a slash"));
    }
    let path = target.split('?').next().unwrap_or_default();
    let mut parsed = Head { method, path, body_bytes: 0, is_kept, expects_continue: false };
    let mut length = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(bad("a header has no colon"))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(bad("a header's name is empty or holds blanks"));
        }
        read_header(&mut parsed, &mut length, name, value.trim())?;
    }
    parsed.body_bytes = length.unwrap_or(0);
    if parsed.body_bytes > MOST_BODY_BYTES {
        return Err((Status::CONTENT_TOO_LARGE, "the body is longer than 1 MiB"));
    }
    Ok(parsed)
}

fn read_header(
    head: &mut Head<'_>,
    length: &mut Option<usize>,
    name: &str,
    value: &str,
) -> Result<(), (Status, &'static str)> {
    let bad = |why| (Status::BAD_REQUEST, why);
    if name.eq_ignore_ascii_case("content-length") {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad("the Content-Length is no number"));
        }
        // One that no integer holds is too large all the more.
        let bytes = value.parse().unwrap_or(usize::MAX);
        if length.replace(bytes).is_some_and(|before| before != bytes) {
            return Err(bad("there are two different Content-Lengths"));
        }
    } else if name.eq_ignore_ascii_case("transfer-encoding") {
        return Err((Status::LENGTH_REQUIRED, "chunked bodies are refused: send a Content-Length"));
    } else if name.eq_ignore_ascii_case("expect") {
        if !value.eq_ignore_ascii_case("100-continue") {
            return Err((Status::EXPECTATION_FAILED, "only 100-continue can be expected"));
        }
        head.expects_continue = true;
    } else if name.eq_ignore_ascii_case("connection") {
        for option in value.split(',').map(str::trim) {
            if option.eq_ignore_ascii_case("close") {
                head.is_kept = false;
            } else if option.eq_ignore_ascii_case("keep-alive") {
                head.is_kept = true;
            }
        }
    }
    Ok(())
}

/// An answer without its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// The methods that the path has, where another was used.
    pub(crate) allow: Option<&'static str>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn error(status: Status, why: &str) -> Self {
        let body = serde_json::json!({ "error": why }).to_string();
        Self { status, allow: None, body }
    }

    /// The bytes to send. `heaps` are headers that tell of the heaps.
    pub(crate) fn bytes(&self, is_kept: bool, has_body: bool, heaps: &[(&str, usize)]) -> Vec<u8> {
        let mut text = String::with_capacity(self.body.len() + 256);
        let Self { status, allow, body } = self;
        // Writing to a string cannot fail.
        let _ = write!(text, "HTTP/1.1 {} {}\r\n", status.0, status.reason());
        let _ =
            write!(text, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in heaps {
            let _ = write!(text, "X-Heap-{name}: {value}\r\n");
        }
        if let Some(methods) = allow {
            let _ = write!(text, "Allow: {methods}\r\n");
        }
        let connection = if is_kept { "keep-alive" } else { "close" };
        let _ = write!(text, "Connection: {connection}\r\n\r\n");
        if has_body {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

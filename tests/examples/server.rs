//! `server`, over the loopback: good and bad requests, crowds, slow clients and rude ones.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::example;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// As long, for the server: on a busy machine a crowd's requests take many seconds.
const SERVERS_PATIENCE: [&str; 2] = ["--timeout", "120"];

/// A server that is ended with the test.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command: Command = example("server");
        // Of two timeouts the later one holds.
        command.args(SERVERS_PATIENCE).args(arguments).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the server starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its first line");
        let address = line.trim().rsplit('/').next().and_then(|address| address.parse().ok());
        Self { process, address: address.expect("its address") }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Sends a request on a connection of its own.
    fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it is sent");
        Answer::read(&mut BufReader::new(stream)).expect("an answer")
    }

    fn heaps(&self) -> Value {
        self.ask("GET /heaps HTTP/1.1\r\n\r\n").json()
    }

    /// Asks until `wanted` holds of the heaps.
    fn wait_until(&self, wanted: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let heaps = self.heaps();
            if wanted(&heaps) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{heaps}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// `None` where the connection was closed instead.
    fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut answer = Self { status, headers, body: Vec::new() };
        let length = answer.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        answer.body.resize(length, 0);
        stream.read_exact(&mut answer.body).ok()?;
        Some(answer)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn good_requests_are_answered() {
    let server = Server::start(&[]);
    let answer = server.ask(&post("/words", r#"{"text": "To be, or not to be"}"#));
    assert_eq!(answer.status, 200, "{answer:?}");
    let most_frequent = json!([["be", 2], ["to", 2], ["not", 1], ["or", 1]]);
    let counted = json!({ "words": 6, "different": 4, "most_frequent": most_frequent });
    assert_eq!(answer.json(), counted);
    let bytes = |name| answer.header(name).expect(name).parse::<usize>().expect("a number");
    #[cfg(not(heapswitch_pass_through))]
    assert!(bytes("X-Heap-Connection-Bytes") > 0 && bytes("X-Heap-Request-Bytes") > 0);
    #[cfg(heapswitch_pass_through)]
    let _ = (bytes("X-Heap-Connection-Bytes"), bytes("X-Heap-Request-Bytes"));

    let answer = server.ask(&post("/numbers", "[3, 1, 2]"));
    let sorted = json!({ "count": 3, "sum": 6.0, "mean": 2.0, "sorted": [1.0, 2.0, 3.0] });
    assert_eq!(answer.json(), sorted);
    assert_eq!(server.ask("GET / HTTP/1.0\r\n\r\n").header("Connection"), Some("close"));
}

#[test]
fn connections_are_kept_and_requests_may_be_sent_ahead() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let ahead = (0..50).map(|number| post("/numbers", &format!("[{number}]"))).collect::<String>();
    stream.write_all(ahead.as_bytes()).expect("they are sent");
    let mut reader = BufReader::new(stream);
    for number in 0..50 {
        let answer = Answer::read(&mut reader).expect("an answer");
        assert_eq!(answer.json()["sum"], json!(f64::from(number)));
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
    }
}

#[test]
fn bad_requests_are_refused() {
    let server = Server::start(&[]);
    let long_header = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(20_000));
    let chunked =
        "POST /numbers HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n";
    let too_long = "POST /words HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    let cases: [(&str, u16); 15] = [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("GET / SPDY\r\n\r\n", 400),
        ("GET no-slash HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("\u{0}\u{1}\r\n\r\n", 400),
        ("POST /words HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /words HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (&post("/words", "{"), 400),
        (&post("/numbers", "{\"text\": 1}"), 400),
        ("GET /nowhere HTTP/1.1\r\n\r\n", 404),
        ("DELETE /words HTTP/1.1\r\n\r\n", 405),
        (chunked, 411),
        (too_long, 413),
        (&long_header, 431),
    ];
    for (request, status) in cases {
        let answer = server.ask(request);
        assert_eq!(answer.status, status, "{request:.60} {answer:?}");
        assert!(answer.json()["error"].is_string(), "{answer:?}");
    }
    let answer = server.ask("PUT /heaps HTTP/1.1\r\n\r\n");
    assert_eq!(answer.header("Allow"), Some("GET, HEAD"));
    assert_eq!(server.heaps()["leaked_heaps"], 0);
}

#[test]
fn a_body_may_be_one_mebibyte_long_and_no_longer() {
    const MOST: usize = 1 << 20;
    let server = Server::start(&[]);
    let body = |length: usize| format!("[1{}]", " ".repeat(length - 3));
    let answer = server.ask(&post("/numbers", &body(MOST)));
    assert_eq!((answer.status, &answer.json()["count"]), (200, &json!(1)));
    let request_bytes = answer.header("X-Heap-Request-Bytes").expect("the heap's use");
    #[cfg(not(heapswitch_pass_through))]
    assert!(request_bytes.parse::<usize>().expect("a number") >= MOST);
    #[cfg(heapswitch_pass_through)]
    let _ = request_bytes;
    let answer = server.ask(&post("/numbers", &body(MOST + 1)));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.header("Connection"), Some("close"));
}

#[test]
fn nested_json_does_not_overflow_the_stack() {
    let server = Server::start(&[]);
    let answer = server.ask(&post("/numbers", &"[".repeat(100_000)));
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[test]
fn a_client_may_wait_for_a_word_before_the_body() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let head = "POST /numbers HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    assert_eq!(Answer::read(&mut reader).expect("a word").status, 100);
    stream.write_all(b"[7]").expect("it is sent");
    assert_eq!(Answer::read(&mut reader).expect("an answer").json()["sum"], json!(7.0));
}

#[test]
fn slow_clients_are_served_and_silent_ones_closed() {
    let server = Server::start(&["--timeout", "3"]);
    let mut slow = server.connect();
    for byte in post("/numbers", "[1, 2]").bytes() {
        slow.write_all(&[byte]).expect("a byte is sent");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(Answer::read(&mut BufReader::new(slow)).expect("an answer").json()["count"], 2);

    let mut half = server.connect();
    half.write_all(b"POST /words HTTP/1.1\r\nContent-Length: 10\r\n\r\n123").expect("half is sent");
    assert_eq!(Answer::read(&mut BufReader::new(half)).expect("an answer").status, 408);
    let silent = server.connect();
    assert!(Answer::read(&mut BufReader::new(silent)).is_none());
}

/// Connects so many times and sends a request that takes much memory, or half of it.
fn crowd(server: &Server, count: usize, is_polite: bool) {
    let request = post("/numbers", &format!("[{}1]", "1,".repeat(20_000)));
    let mut streams: Vec<TcpStream> = (0..count).map(|_| server.connect()).collect();
    for stream in &mut streams {
        let end = if is_polite { request.len() } else { request.len() / 2 };
        stream.write_all(&request.as_bytes()[..end]).expect("it is sent");
    }
    for stream in streams {
        if is_polite {
            let answer = Answer::read(&mut BufReader::new(stream)).expect("an answer");
            assert_eq!(answer.json()["count"], 20_001);
        } else {
            // The server is left with half a request, or with an answer that nobody takes.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn memory_returns_when_connections_are_closed() {
    // On a busy machine the last of a crowd waits long before it is read.
    let server = Server::start(&["--timeout", "60"]);
    // Up to here the server keeps heaps, stacks and tables for the next connections: as many as
    // were there at once, which differs from crowd to crowd.
    for is_polite in [true, false, true, false, true, false] {
        crowd(&server, 60, is_polite);
        server.wait_until(|heaps| heaps["connections"] == 1);
    }
    let before = server.heaps()["held_bytes"].as_u64().expect("bytes");
    for is_polite in [true, false, true, false] {
        crowd(&server, 60, is_polite);
        // Crowds that are there at once would leave as much for the next as all of them need.
        server.wait_until(|heaps| heaps["connections"] == 1);
    }
    let allowed = before + (4 << 20);
    server.wait_until(|heaps| {
        heaps["connections"] == 1
            && heaps["held_bytes"].as_u64().is_some_and(|held| held <= allowed)
    });
    assert_eq!(server.heaps()["leaked_heaps"], 0);
}

#[test]
fn it_stops_by_itself() {
    let mut server = Server::start(&["--requests", "5"]);
    for _ in 0..5 {
        assert_eq!(server.ask("GET / HTTP/1.1\r\n\r\n").status, 200);
    }
    let start = Instant::now();
    while server.process.try_wait().expect("its status").is_none() {
        assert!(start.elapsed() < PATIENCE, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.process.wait().expect("its status").success());
}

#[test]
fn wrong_arguments_are_refused() {
    for arguments in [&["--port", "65536"][..], &["--port"], &["--frobnicate"], &["--timeout", "x"]]
    {
        let output = example("server").args(arguments).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("server: "), "{output:?}");
    }
    let taken = Server::start(&[]);
    let port = taken.address.port().to_string();
    let output = example("server").args(["--port", &port]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be listened on"));
}

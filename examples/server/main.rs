//! A thread-per-core HTTP server: an event loop on each processor, a coroutine for each connection,
//! a heap for each connection and one for each request.
//!
//! `cargo run --release --example server -- --port 8080`, then
//! `curl -i -d '{"text": "to be or not to be"}' http://127.0.0.1:8080/words`
//!
//! | what | where it lives |
//! |---|---|
//! | event loop, table of connections | the worker's thread heap |
//! | what was read and not yet parsed | the connection's heap, used again by the next connection |
//! | head, body, JSON, answer | the request's heap, from a pool; reset when the answer is sent |
//!
//! So a request's memory is bounded and counted (see the answers' `X-Heap-` headers), and is back
//! in one step when it ends, whichever library made it. It speaks as much HTTP/1.1 as `curl` and
//! `wrk` need, on the loopback address only: it is an example, not a server for the internet.

mod connection;
mod event_loop;
mod http;
mod options;
mod routes;

use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;

use event_loop::EventLoop;
use heapswitch::WorkerBuilder;
use options::{Options, USAGE};

heapswitch::global_thread_and_coroutine_switchable_allocator!();

/// What the workers share.
#[derive(Debug)]
struct Shared {
    options: Options,
    connections: AtomicUsize,
    requests: AtomicUsize,
    is_stopping: AtomicBool,
    pollers: Vec<polling::Poller>,
}

/// Why the server cannot run.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprint!("server: {mistake}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("server: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options) -> Result<(), Failure> {
    let address = (Ipv4Addr::LOCALHOST, options.port);
    let listener = TcpListener::bind(address)
        .map_err(|error| format!("port {}: cannot be listened on: {error}", options.port))?;
    listener.set_nonblocking(true)?;
    println!("listening on http://{}", listener.local_addr()?);

    let builders = worker_builders();
    let pollers = builders.iter().map(|_| polling::Poller::new()).collect::<Result<_, _>>()?;
    let shared = Arc::new(Shared {
        options,
        connections: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
        is_stopping: AtomicBool::new(false),
        pollers,
    });
    let mut workers = Vec::new();
    for (number, builder) in builders.into_iter().enumerate() {
        let (shared, listener) = (Arc::clone(&shared), listener.try_clone()?);
        let body = move || EventLoop::new(&shared, number, &listener).run();
        workers.push(builder.spawn(body)?);
    }
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

/// For a worker pinned to each processor; where the system cannot pin, as many that are not.
fn worker_builders() -> Vec<WorkerBuilder> {
    let builder = |number| WorkerBuilder::new().name(format!("server-{number}"));
    match heapswitch::processors() {
        Ok(processors) => {
            processors.into_iter().map(|number| builder(number).processor(number)).collect()
        }
        Err(_) => {
            (0..thread::available_parallelism().map_or(1, NonZero::get)).map(builder).collect()
        }
    }
}

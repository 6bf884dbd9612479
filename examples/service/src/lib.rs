//! An HTTP service that gives each request a heap of its own with a budget.
//!
//! A request over its budget ends at its next await or checkpoint, with 503 and the figures, and no
//! other request notices. `README.md` says what happens to each kind of hostile request.
#![forbid(unsafe_code)]

pub mod contexts;
mod deep;
pub mod join;
mod json;
mod metrics;
mod options;
mod routes;
pub mod self_test;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;

use contexts::Contexts;
pub use contexts::Kind;
use options::{Command, Options};

/// How often unused memory is looked for.
const PURGE_EVERY: Duration = Duration::from_millis(500);

/// What the examples do: serves, or tests itself, as the arguments say.
pub fn main(kind: Kind) -> ExitCode {
    if heapswitch::is_installed() != (kind == Kind::Budgets) {
        eprintln!("service: budgets are for heapswitch as the allocator, and only for that");
        return ExitCode::FAILURE;
    }
    // A request that panics is not charged for the symbols that its backtrace is printed with.
    heapswitch::run_panic_hook_outside();
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("service: {error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let result = match options.command {
        Command::Help => {
            println!("{}", options::USAGE);
            Ok(true)
        }
        Command::Serve => serve(kind, &options).map(|()| true),
        Command::SelfTest => self_test::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the process is ended.
fn serve(kind: Kind, options: &Options) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(options.workers).enable_all().build()?;
    runtime.block_on(async {
        let contexts = Arc::new(Contexts::new(kind, options.budget_bytes, options.at_once));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let listener = tokio::net::TcpListener::bind(address).await?;
        println!("listening on http://{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        if let Kind::Budgets = kind {
            tokio::spawn(purge_when_idle(Arc::clone(&contexts)));
        }
        // An answer goes out at once. Where that cannot be had, later.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, routes::router(contexts)).await
    })
}

/// Gives free memory back to the kernel once nothing was asked for some time.
async fn purge_when_idle(contexts: Arc<Contexts>) {
    let mut seen = contexts.started();
    loop {
        tokio::time::sleep(PURGE_EVERY).await;
        let now = contexts.started();
        if now == seen && contexts.is_idle() {
            heapswitch::purge();
        }
        seen = now;
    }
}

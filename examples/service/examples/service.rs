//! The service, each request in a context with a budget. See the README beside `Cargo.toml`.

use std::process::ExitCode;

heapswitch::global_thread_and_coroutine_switchable_allocator!();

fn main() -> ExitCode {
    heapswitch_service::main(heapswitch_service::Kind::Budgets)
}

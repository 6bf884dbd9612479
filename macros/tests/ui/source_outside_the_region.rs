#[path = "../stand_in/mod.rs"]
mod stand_in;

struct Elsewhere;

static ELSEWHERE: Elsewhere = Elsewhere;

heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    crate = crate::stand_in,
    thread_source = ELSEWHERE,
}

fn main() {}

//! What a random program is made of; `run` has it run, and looks at what is left.

mod block;
mod carried;
mod contexts;
mod end;
mod heaps;
mod questions;
mod random;
mod thread;
mod world;

use std::sync::Arc;

pub(crate) use end::{Baseline, warm_up};
use random::Random;
use thread::Thread;
use world::World;

/// A program of `seed`, of some threads that each take `steps`.
pub(crate) fn run(seed: u64, steps: usize) {
    let random = Random::new(seed);
    let world = Arc::new(World::new(&random));
    let threads: Vec<_> = (0..1 + random.below(3))
        .map(|_| {
            let (world, random) = (Arc::clone(&world), random.split());
            std::thread::spawn(move || Thread::run(world, random, steps))
        })
        .collect();
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    let failed = ends.iter().filter(|end| end.is_err()).count();
    assert_eq!(failed, 0, "threads of program {seed} failed");
    world.clear();
}

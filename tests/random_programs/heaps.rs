//! Heaps: made in every way, pooled, shared out, reset, detached, closed, sent to other threads.

use std::rc::Rc;

use heapswitch::__private::{settings, strategy};
use heapswitch::{Fit, Heap, HeapBuilder, HeapError, LifetimeHint, LimitPolicy, SiteSampling};

use super::block::Block;
use super::contexts::tolerate;
use super::random::Random;
use super::thread::{Frame, Thread, note_disorder, panic_with};
use super::world::{Kept, World};

pub(crate) fn step(frame: Frame<'_>) {
    let thread = frame.thread;
    match thread.random.below(12) {
        0..4 => {
            if let Some(kept) = make(thread) {
                thread.keep_heap(Rc::new(kept));
            }
        }
        4 => pool(thread),
        5 => {
            if let Some(kept) = thread.world.heaps.take(&thread.random) {
                thread.keep_heap(Rc::new(kept));
            }
        }
        6 => call_at_end(thread),
        _ => end(thread),
    }
}

/// Keeps a heap; `flags` as in [`Kept`]: whether it refuses, and whether it spills.
pub(crate) fn keep(thread: &Thread, heap: Heap, flags: (bool, bool)) {
    let (refuses, spills) = flags;
    thread.keep_heap(Rc::new(Kept { heap, refuses, spills }));
}

fn any_hint(random: &Random) -> LifetimeHint {
    [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long][random.below(3)]
}

fn build(builder: HeapBuilder<'_>, random: &Random) -> Result<Heap, HeapError> {
    let hint = any_hint(random);
    match random.below(20) {
        0..9 => builder.hint(hint).build(),
        9 => builder.build(),
        10 => builder.build_kind::<strategy::Bump>(()),
        11 => builder.build_kind::<strategy::Slab>(()),
        12 => builder.build_kind::<strategy::Buddy>(()),
        13 => builder.build_kind::<strategy::Stripes>(()),
        14 => builder.build_kind::<strategy::MemoryMap>(()),
        15 => builder.build_kind::<strategy::FreeList>(settings::free_list(Fit::Best)),
        16 => builder.build_kind::<strategy::MultipleBinarySearchTree>(()),
        17 => builder.build_kind::<strategy::BitSet>(settings::bit_set(64)),
        18 => builder.build_kind::<strategy::FreeList>(settings::free_list(Fit::First)),
        _ => {
            let sampling =
                [SiteSampling::All, SiteSampling::EveryNth(7), SiteSampling::EveryBytes(1000)];
            builder.hint(hint).call_sites(sampling[random.below(3)]).build()
        }
    }
}

/// Any heap.
pub(crate) fn make(thread: &Thread) -> Option<Kept> {
    let (world, random): (&World, _) = (&thread.world, &thread.random);
    let mut builder = Heap::builder().name("random heap");
    let (mut refuses, mut spills) = (false, false);
    let parent = thread.share_heap();
    match random.below(6) {
        0 => {
            let above = &world.accounts[random.below(world.accounts.len())];
            builder = builder.charged_to(&above.account);
            (refuses, spills) = (above.refuses, above.spills);
        }
        1 | 2 => {
            if let Some(parent) = &parent {
                builder = builder.parent(&parent.heap);
                (refuses, spills) = (parent.refuses, parent.spills);
            }
        }
        // Of that nobody knows here whether it spills.
        3 => (builder, spills) = (builder.parent_current(), true),
        _ => {}
    }
    if random.once_in(4) {
        builder = builder.unbatched();
    }
    if random.once_in(3) {
        builder = builder.soft_limit(random.below(1 << 18));
    }
    if random.once_in(3) {
        let policy = [LimitPolicy::Overdraft, LimitPolicy::Fail, LimitPolicy::Spill];
        let policy = policy[random.below(3)];
        builder = builder.limit(random.below(1 << 19)).policy(policy);
        refuses |= policy == LimitPolicy::Fail;
        spills |= policy == LimitPolicy::Spill;
    }
    match build(builder, random) {
        Ok(heap) => Some(Kept { heap, refuses, spills }),
        Err(error) => {
            tolerate(error);
            None
        }
    }
}

fn pool(thread: &Thread) {
    let (world, random) = (&thread.world, &thread.random);
    match random.below(6) {
        0 => world.pool.fill(random.below(10)).unwrap(),
        1 => drop(world.pool.clear()),
        2 => keep(thread, world.pool.take().unwrap().into_heap(), (false, false)),
        3 => world.pooled.put(world.pool.take_shared().unwrap()),
        4 => drop(world.pooled.take(random)),
        _ => {
            let heap = world.pool.take().unwrap();
            assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
            heap.run(|| thread.keep_block(Block::make(random).unwrap())).unwrap();
        }
    }
}

/// What is called at a heap's end may end others, free, allocate, or panic.
fn call_at_end(thread: &Thread) {
    let Some(kept) = thread.share_heap() else { return };
    let (world, random) = (std::sync::Arc::clone(&thread.world), thread.random.split());
    let block = Block::make(&random).unwrap();
    let registered = kept.heap.on_end(move |_| {
        note_disorder();
        match random.below(5) {
            0 => drop(world.heaps.take(&random)),
            1 => drop(world.blocks.take(&random)),
            2 => panic_with(block),
            3 => world.blocks.put(Block::make(&random).unwrap()),
            _ => drop(block),
        };
    });
    registered.unwrap_or_else(tolerate);
}

/// What only the heap's owner may do.
fn end(thread: &Thread) {
    let random = &thread.random;
    let Some(kept) = thread.take_heap() else { return };
    let mut kept = match Rc::try_unwrap(kept) {
        Ok(kept) => kept,
        Err(shared) => return thread.keep_heap(shared),
    };
    // It may be current here, by a guard that was forgotten.
    note_disorder();
    match random.below(7) {
        0 => drop(kept),
        1 => {
            let report = kept.heap.close();
            assert!(report.blocks == 0 || report.bytes >= 8 * report.blocks, "{report:?}");
            assert!(report.kept_bytes >= report.bytes, "{report:?}");
        }
        2 | 3 => {
            match kept.heap.reset() {
                Ok(report) => assert!(report.kept_bytes >= report.bytes, "{report:?}"),
                Err(error) => tolerate(error),
            }
            thread.keep_heap(Rc::new(kept));
        }
        4 => {
            kept.heap.detach().unwrap_or_else(tolerate);
            thread.keep_heap(Rc::new(kept));
        }
        _ => thread.world.heaps.put(kept),
    }
}

//! Everything that only asks, tidies up, or tells others to end.

use allocator_api2::vec::Vec as VecIn;
use heapswitch::{
    Account, HeapMap, LiveSites, MemoryReport, Timeline, checkpoint, collect, copy_out, current,
    flush_foreign_frees, in_child as child_of_current, owner_of, process_usage, purge, reconcile,
    rehome_thread, thread_heap_id, usage_change, usage_of,
};

use super::block::Block;
use super::contexts::tolerate;
use super::thread::{Frame, Thread, note_disorder};
use super::world::is_child;

pub(crate) fn step(frame: Frame<'_>) {
    let thread = frame.thread;
    match thread.random.below(16) {
        0..5 => of_heap(thread),
        5..7 => of_account(thread),
        7 => drop(checkpoint()),
        8 => flush_foreign_frees(),
        9 => {
            collect();
        }
        10 => of_process(thread),
        11 => pressure(thread),
        12 => as_allocator(thread),
        13 => copies(thread),
        14 => of_thread(thread),
        _ => fork(frame),
    }
}

fn of_heap(thread: &Thread) {
    let Some(kept) = thread.share_heap() else { return };
    let (heap, random) = (&kept.heap, &thread.random);
    let result = match random.below(7) {
        0 => heap.verify(),
        1 => heap.release_unused().map(drop),
        2 => heap.call_sites().map(|sites| assert!(sites.bytes() >= sites.blocks())),
        3 => heap.memory_usage().map(|usage| {
            assert!(usage.allocated_bytes >= 8 * usage.allocated_blocks, "{usage:?}");
        }),
        4 => {
            let usage = heap.account();
            assert!(usage.own_bytes <= usage.total_bytes as usize, "{usage:?}");
            Ok(())
        }
        5 => {
            let blocks = thread.blocks.borrow();
            for block in &*blocks {
                let is_in = block.owner() == Some(heap.id());
                assert_eq!(heap.contains(block.address()), is_in);
            }
            Ok(())
        }
        _ => {
            drop((heap.strategy(), heap.residence()));
            Ok(())
        }
    };
    result.unwrap_or_else(tolerate);
}

fn of_account(thread: &Thread) {
    let random = &thread.random;
    let shared = thread.share_heap();
    let account = match &shared {
        Some(kept) if random.once_in(2) => kept.heap.account_handle(),
        _ => thread.world.accounts[random.below(thread.world.accounts.len())].account.clone(),
    };
    match random.below(7) {
        0 => drop(account.usage()),
        1 => drop(account.largest(3)),
        2 => {
            let report = MemoryReport::of(&account);
            assert_eq!(report.accounts.first().map(|first| first.id), Some(account.id()));
            drop((report.by_name(), report.to_json()));
        }
        3 => account.cancel(),
        4 => assert!(account.children().all(|child| child.is_within(&account))),
        5 => {
            let mut timeline = Timeline::of(&account);
            timeline.sample();
            drop(timeline.to_svg());
        }
        _ => drop((account.named("random heap").count(), format!("{account:?}"))),
    }
}

fn of_process(thread: &Thread) {
    match thread.random.below(20) {
        0 => drop(HeapMap::now().to_svg()),
        1 => drop(reconcile()),
        2 => drop(LiveSites::now()),
        3 => drop(MemoryReport::now().to_json()),
        4 => {
            purge();
        }
        _ => drop(process_usage()),
    }
}

/// Callbacks for limits, which free, and end others.
fn pressure(thread: &Thread) {
    let (world, random) = (&thread.world, &thread.random);
    if random.once_in(2) {
        return drop(world.watches.take(random));
    }
    let account = match thread.share_heap() {
        Some(kept) => kept.heap.account_handle(),
        None => Account::process(),
    };
    let (theirs, seed) = (std::sync::Arc::downgrade(world), random.next());
    world.watches.put(account.on_pressure(move |pressure| {
        note_disorder();
        let random = super::random::Random::new(seed ^ pressure.account.usage.charges);
        let Some(world) = theirs.upgrade() else { return };
        match random.below(5) {
            0 => drop(world.blocks.take(&random)),
            1 => drop(world.heaps.take(&random)),
            2 => world.accounts[random.below(4)].account.cancel(),
            3 => world.blocks.put(Block::make(&random).unwrap()),
            _ => super::thread::panic_with(Block::make(&random).unwrap()),
        }
    }));
}

/// A collection in a heap that is named, whatever is current.
fn as_allocator(thread: &Thread) {
    let Some(kept) = thread.share_heap() else { return };
    let mut numbers = VecIn::new_in(&kept.heap);
    for number in 0..thread.random.below(3000) {
        if numbers.try_reserve(1).is_err() {
            break;
        }
        numbers.push(number);
    }
    assert!(numbers.iter().enumerate().all(|(index, &number)| index == number));
    // To be shortened it may have to move, and above a limit it cannot.
    if !kept.refuses && !kept.spills {
        numbers.shrink_to_fit();
    }
}

fn copies(thread: &Thread) {
    let text: Vec<String> = (0..thread.random.below(20)).map(|number| number.to_string()).collect();
    let (copy, _) = usage_change(|| copy_out(&text));
    assert!(copy.is_ok_and(|copy| copy == text));
    if let Some(kept) = thread.share_heap().filter(|kept| !kept.refuses) {
        match kept.heap.copy_in(&text) {
            Ok(copy) => assert_eq!(copy, text),
            Err(error) => tolerate(error),
        }
    }
}

fn of_thread(thread: &Thread) {
    match thread.random.below(4) {
        0 => drop(rehome_thread()),
        1 => drop(usage_of(current())),
        2 => {
            let on_stack = 0_u8;
            assert_eq!(owner_of(&raw const on_stack), None);
            assert!(owner_of(core::ptr::null()).is_none());
            let _ = thread_heap_id();
        }
        _ => match child_of_current("random child", || 1) {
            Ok(call) => drop(call()),
            Err(error) => tolerate(error),
        },
    }
}

/// A child of the process has everything as it was, and ends all that this thread has.
#[cfg(not(heapswitch_tsan))]
fn fork(frame: Frame<'_>) {
    let thread = frame.thread;
    if is_child() || !thread.random.once_in(16) {
        return;
    }
    crate::child::in_child(|| {
        super::world::note_child();
        thread.blocks.borrow().iter().for_each(Block::check);
        frame.steps_on_this_stack();
        drop(thread.tasks.take());
        drop(thread.coroutines.take());
        drop(thread.contexts.take());
        drop(thread.heaps.take());
        drop(thread.blocks.take());
        collect();
        true
    });
}

#[cfg(heapswitch_tsan)]
fn fork(_: Frame<'_>) {
    let _ = is_child();
}

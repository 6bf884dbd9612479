//! Scopes: entered by guards and closures, left in order or not, forgotten, swapped, saved.

use std::mem::forget;
use std::rc::Rc;

use heapswitch::CurrentAllocatorInUse::{self, CoroutineLocal, Global, ThreadLocal};
use heapswitch::{
    HeapError, SavedContext, Scope, current, replace_current, swap_coroutine_local, use_allocator,
    with_global, with_outer, with_thread_local,
};

use super::block::Block;
use super::heaps;
use super::random::Random;
use super::thread::{Frame, Saved, disorder, note_disorder};
use super::world::Kept;

/// An error that a program may meet at any time.
pub(crate) fn tolerate(error: HeapError) {
    let is_known = matches!(
        error,
        HeapError::Running | HeapError::Closed | HeapError::Held | HeapError::NoHeap
    );
    assert!(is_known, "{error:?}");
}

fn any_allocator(random: &Random) -> CurrentAllocatorInUse {
    [ThreadLocal, CoroutineLocal, Global][random.below(3)]
}

pub(crate) fn step(frame: Frame<'_>) {
    let thread = frame.thread;
    let (before, disorder_before) = (current(), disorder());
    match thread.random.below(12) {
        0..3 => closure(frame),
        3..6 => guard(frame),
        6 => several(frame),
        7 => other_allocator(frame),
        8 => replaced(frame),
        9 => swapped(frame),
        10 => saved(frame),
        _ => stray(frame),
    }
    if disorder() == disorder_before {
        assert_eq!(current(), before, "a scope that was left is still in use");
    }
}

/// What is allocated now lies in the heap that was just entered.
fn serves(frame: Frame<'_>, kept: &Kept) {
    assert_eq!(current(), CoroutineLocal);
    let block = Block::make(&frame.thread.random).unwrap();
    if !kept.spills && !heapswitch::sys::IS_PASS_THROUGH {
        assert!(kept.heap.contains(block.address()), "another heap than that entered serves");
        assert_eq!(block.owner(), Some(kept.heap.id()));
    }
    frame.thread.keep_block(block);
}

fn closure(frame: Frame<'_>) {
    let Some(kept) = frame.thread.share_heap() else { return };
    if kept.refuses {
        return refusing(frame, &kept);
    }
    let run = kept.heap.run(|| {
        serves(frame, &kept);
        frame.deeper().steps();
    });
    run.unwrap_or_else(tolerate);
}

/// A heap that gives null is asked by whoever can take that, and by nobody else.
fn refusing(frame: Frame<'_>, kept: &Kept) {
    let random = &frame.thread.random;
    let mut made: [Option<Block>; 16] = [const { None }; 16];
    let run = kept.heap.run(|| {
        for _ in 0..40 {
            let place = &mut made[random.below(16)];
            match (place.as_mut(), random.below(3)) {
                (Some(block), 0) => block.resize(random),
                (Some(_), 1) => *place = None,
                _ => *place = Block::make(random).map(Block::of_refusing),
            }
        }
    });
    run.unwrap_or_else(tolerate);
    made.into_iter().flatten().for_each(|block| frame.thread.keep_block(block));
}

fn guard(frame: Frame<'_>) {
    let thread = frame.thread;
    let Some(kept) = thread.share_heap() else { return };
    if kept.refuses {
        return refusing(frame, &kept);
    }
    let scope = match kept.heap.enter() {
        Ok(scope) => scope,
        Err(error) => return tolerate(error),
    };
    serves(frame, &kept);
    if thread.random.once_in(6) && frame.may_forget() {
        note_disorder();
        forget(scope);
        frame.rooted().steps();
        return;
    }
    frame.deeper().steps();
    drop(scope);
}

/// Guards of which the newest is dropped first, also by a panic.
struct Newest<'a>(Vec<Scope<'a>>);

impl Drop for Newest<'_> {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// Several guards, dropped in any order.
fn several(frame: Frame<'_>) {
    let thread = frame.thread;
    let kept: Vec<Rc<Kept>> = (0..3).filter_map(|_| thread.share_heap()).collect();
    let mut all = Newest(Vec::new());
    let scopes = &mut all.0;
    for kept in kept.iter().filter(|kept| !kept.refuses) {
        match kept.heap.enter() {
            Ok(scope) => scopes.push(scope),
            Err(error) => tolerate(error),
        }
        if thread.random.once_in(3)
            && let Ok(scope) = use_allocator(any_allocator(&thread.random))
        {
            scopes.push(scope);
        }
    }
    frame.deeper().steps();
    if cfg!(heapswitch_check) || thread.random.once_in(2) {
        while scopes.pop().is_some() {}
        return;
    }
    note_disorder();
    while let Some(scope) = thread.random.take(scopes) {
        match thread.random.below(8) {
            0 => forget(scope),
            _ => drop(scope),
        }
        if thread.random.once_in(4) {
            frame.deeper().steps();
        }
    }
}

fn other_allocator(frame: Frame<'_>) {
    let below = frame.deeper();
    let result = match frame.thread.random.below(4) {
        0 => with_global(|| below.steps()),
        1 => with_thread_local(|| below.steps()),
        2 => with_outer(|| below.steps()),
        _ => use_allocator(any_allocator(&frame.thread.random)).map(|scope| {
            below.steps();
            drop(scope);
        }),
    };
    result.unwrap_or_else(tolerate);
}

fn replaced(frame: Frame<'_>) {
    let thread = frame.thread;
    note_disorder();
    match replace_current(any_allocator(&thread.random)) {
        Ok(old) => {
            frame.deeper().steps();
            if thread.random.once_in(2) {
                replace_current(old).map_or_else(tolerate, drop);
            }
        }
        Err(error) => tolerate(error),
    }
}

fn swapped(frame: Frame<'_>) {
    let thread = frame.thread;
    note_disorder();
    let new = match thread.take_heap().map(Rc::try_unwrap) {
        Some(Ok(kept)) if !kept.refuses => Some(kept.heap),
        Some(Ok(kept)) => return thread.keep_heap(Rc::new(kept)),
        Some(Err(shared)) => return thread.keep_heap(shared),
        None => None,
    };
    let old = match swap_coroutine_local(new) {
        Ok(old) => old,
        Err(refused) => {
            tolerate(refused.error);
            refused.heap
        }
    };
    // It is not known which it was.
    if let Some(heap) = old {
        heaps::keep(thread, heap, (false, true));
    }
    frame.deeper().steps();
    if thread.random.once_in(2)
        && let Ok(Some(heap)) = swap_coroutine_local(None)
    {
        heaps::keep(thread, heap, (false, true));
    }
}

/// What hooks for a runtime do: contexts that are resumed and suspended.
fn saved(frame: Frame<'_>) {
    let thread = frame.thread;
    let taken = thread.random.take(&mut thread.contexts.borrow_mut());
    let mut saved = taken.unwrap_or_else(|| Saved {
        context: SavedContext::new(),
        kept: thread.share_heap().filter(|kept| !kept.refuses),
    });
    // Heaps that it had swapped in are closed with it; guards may be forgotten in it.
    note_disorder();
    let Saved { context, kept } = &mut saved;
    let steps = || frame.rooted().steps();
    let result = match kept {
        Some(kept) => context.run_in(&kept.heap, steps),
        None => context.run(steps),
    };
    result.unwrap_or_else(tolerate);
    match thread.random.below(6) {
        0 => context.discard(),
        1 => return,
        _ => {}
    }
    thread.contexts.borrow_mut().push(saved);
}

/// Guards that are kept aside, and dropped wherever the thread is then.
fn stray(frame: Frame<'_>) {
    let thread = frame.thread;
    if cfg!(heapswitch_check) {
        return other_allocator(frame);
    }
    note_disorder();
    if thread.random.once_in(2) {
        match use_allocator(any_allocator(&thread.random)) {
            Ok(scope) => thread.strays.borrow_mut().push(scope),
            Err(error) => tolerate(error),
        }
    } else {
        let scope = thread.random.take(&mut thread.strays.borrow_mut());
        drop(scope);
    }
}

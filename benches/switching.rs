//! What switching costs: entering and leaving a heap, beside a corosensei resume and suspend; a
//! pooled heap used for one allocation; polling a future in a heap, with a budget or without;
//! freeing a heap's blocks from outside, and collecting them.
//!
//! Run with `cargo bench --bench switching`, or with `--profile lto`. Each figure is the fastest of
//! many rounds, in nanoseconds: on a shared machine the fastest is what repeats. The rounds of all
//! cases are interleaved, so that a change of the processor's clock meets all alike.

#![expect(clippy::vec_box, reason = "each box is a block that is allocated and freed")]

use std::cell::RefCell;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bumpalo::Bump;
use corosensei::{Coroutine, CoroutineResult};
use heapswitch::strategy::slab::Slab;
use heapswitch::{Account, FutureExt, Heap, HeapPool, HeapSwitch};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// Calls a round.
const CALLS: u32 = 20_000;
/// Rounds of each case.
const ROUNDS: u32 = 300;

struct Case<'a> {
    name: &'static str,
    call: Box<dyn FnMut(u32) -> Duration + 'a>,
    best_nanoseconds: f64,
}

impl<'a> Case<'a> {
    /// A case whose `call` is inlined into the loop.
    fn new(name: &'static str, mut call: impl FnMut() + 'a) -> Self {
        Self::repeating(name, move |calls| (0..calls).for_each(|_| call()))
    }

    /// A case that does as many calls as it is told itself.
    fn repeating(name: &'static str, mut call: impl FnMut(u32) + 'a) -> Self {
        Self::timed(name, move |calls| {
            let start = Instant::now();
            call(calls);
            start.elapsed()
        })
    }

    /// A case that tells itself which time counts.
    fn timed(name: &'static str, call: impl FnMut(u32) -> Duration + 'a) -> Self {
        Self { name, call: Box::new(call), best_nanoseconds: f64::INFINITY }
    }

    fn round(&mut self) {
        let nanoseconds = (self.call)(CALLS).as_nanos() as f64 / f64::from(CALLS);
        self.best_nanoseconds = self.best_nanoseconds.min(nanoseconds);
    }
}

/// An empty body that the compiler cannot see through.
#[inline(always)] // measured: it stands for a body inlined into its scope
fn body() {
    black_box(());
}

/// A future that is never done.
struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        body();
        Poll::Pending
    }
}

/// Polls a future that is done at once.
#[inline(always)] // measured: a call of its own would be most of what the bare poll costs
fn poll_ready<F: Future>(future: F) {
    let poll = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(black_box(poll.is_ready()));
}

/// The time of allocating boxes, a thousand after each other, by `allocate`; what else they need is
/// done by `free` and not counted.
fn only_allocating(
    calls: u32,
    mut allocate: impl FnMut() -> Duration,
    mut free: impl FnMut(),
) -> Duration {
    (0..calls / 1000).map(|_| (allocate(), free()).0).sum()
}

/// How blocks are freed that a heap served.
#[derive(Clone, Copy, PartialEq)]
enum Freed {
    Within,
    Outside,
    OutsideFlushingEach,
}

/// Makes boxes in the heap and frees them as told, a thousand at a time; the time of freeing, and
/// of collecting what was freed outside, which is done when the heap is entered again.
fn freeing(heap: &Heap, boxes: &mut Vec<Box<[u8; 64]>>, calls: u32, freed: Freed) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..calls / 1000 {
        heap.run(|| boxes.extend((0..1000).map(|_| black_box(Box::new([1_u8; 64]))))).unwrap();
        let start = Instant::now();
        match freed {
            Freed::Within => heap.run(|| boxes.clear()).unwrap(),
            Freed::Outside => boxes.clear(),
            Freed::OutsideFlushingEach => boxes.drain(..).for_each(|block| {
                drop(block);
                heapswitch::flush_foreign_frees();
            }),
        }
        heap.run(body).unwrap();
        time += start.elapsed();
    }
    time
}

/// Freeing a heap's blocks within it and from outside.
fn freeing_cases<'a>(
    [slab, unbatched]: &'a [Heap; 2],
    [within, in_batches, at_once, one_by_one]: &'a mut [Vec<Box<[u8; 64]>>; 4],
) -> [Case<'a>; 4] {
    [
        Case::timed("free a box of a slab heap in it", |calls| {
            freeing(slab, within, calls, Freed::Within)
        }),
        Case::timed("free it outside in batches, collect it", |calls| {
            freeing(slab, in_batches, calls, Freed::Outside)
        }),
        Case::timed("free one of an unbatched heap outside, collect it", |calls| {
            freeing(unbatched, at_once, calls, Freed::Outside)
        }),
        Case::timed("free one outside, flush, collect it", |calls| {
            freeing(slab, one_by_one, calls, Freed::OutsideFlushingEach)
        }),
    ]
}

/// A heap with a budget, below an account with one, and a child of a heap.
fn budget_heaps(parent: &Heap) -> (Heap, Heap) {
    let group = Account::new("group").unwrap().with_limit(1 << 30);
    let limited = Heap::builder().charged_to(&group).limit(16 << 20).build().unwrap();
    let child = Heap::builder().parent(parent).build().unwrap();
    assert_serves(&limited);
    assert_serves(&child);
    (limited, child)
}

/// Futures that are done at once, and what budgets and parents cost.
fn budget_cases<'a>(heap: &'a Heap, limited: &'a Heap, child: &'a Heap) -> [Case<'a>; 6] {
    [
        Case::new("poll a ready future", || poll_ready(std::future::ready(black_box(1)))),
        Case::new("wrap a ready future in a heap, poll it", move || {
            poll_ready(std::future::ready(black_box(1)).in_heap(heap));
        }),
        Case::new("wrap a ready future in a heap with a budget, poll it", move || {
            poll_ready(std::future::ready(black_box(1)).in_heap(limited));
        }),
        Case::new("enter, empty body, leave, of a child", move || child.run(body).unwrap()),
        Case::repeating("enter, empty body, leave, within another heap", move |calls| {
            heap.run(|| (0..calls).for_each(|_| limited.run(body).unwrap())).unwrap();
        }),
        Case::new("enter, checkpoint, leave, with a budget", move || {
            limited.run(|| heapswitch::checkpoint().unwrap()).unwrap();
        }),
    ]
}

/// Makes sure that the heap serves what is allocated while it is entered.
fn assert_serves(heap: &Heap) {
    let block = heap.run(|| Box::new([1_u8; 64])).unwrap();
    assert!(heap.contains(block.as_ptr()), "another allocator serves: nothing would be measured");
}

fn main() {
    let heap = Heap::new().unwrap();
    let pool = HeapPool::new();
    assert_serves(&heap);
    assert_serves(&pool.take().unwrap());
    let (limited, child) = budget_heaps(&heap);
    let slabs = [Heap::builder(), Heap::builder().unbatched()]
        .map(|builder| builder.build_kind::<Slab>(()).unwrap());
    slabs.iter().for_each(assert_serves);
    let kept = RefCell::new(Vec::with_capacity(1000));
    let bump = RefCell::new(Bump::with_capacity(1 << 20));
    let mut boxes = [(); 4].map(|()| Vec::with_capacity(1000));
    let mut coroutine = Coroutine::<(), (), ()>::new(|yielder, ()| {
        loop {
            yielder.suspend(());
        }
    });
    let (mut plain, mut wrapped) = (pin!(Never), pin!(Never.in_heap(Heap::new().unwrap())));
    let mut context = Context::from_waker(Waker::noop());
    let mut context_in_heap = Context::from_waker(Waker::noop());
    let mut cases = vec![
        Case::new("an empty body", body),
        Case::new("enter, empty body, leave", || heap.run(body).unwrap()),
        Case::new("corosensei resume and suspend", || {
            assert!(matches!(coroutine.resume(()), CoroutineResult::Yield(())));
        }),
        Case::new("box and drop in the thread's heap", || drop(black_box(Box::new([1_u8; 64])))),
        Case::new("enter, box and drop, leave", || {
            heap.run(|| drop(black_box(Box::new([1_u8; 64])))).unwrap();
        }),
        Case::new("take, enter, leave, give back", || pool.take().unwrap().run(body).unwrap()),
        Case::new("take, enter, box and drop, leave, give back", || {
            pool.take().unwrap().run(|| drop(black_box(Box::new([1_u8; 64])))).unwrap();
        }),
        Case::new("poll a future", || assert!(plain.as_mut().poll(&mut context).is_pending())),
        Case::new("poll a future in its heap", || {
            assert!(wrapped.as_mut().poll(&mut context_in_heap).is_pending());
        }),
        Case::timed("allocate in a bump context through Box", |calls| {
            let allocate = || {
                heap.run(|| {
                    let start = Instant::now();
                    kept.borrow_mut().extend((0..1000).map(|_| Box::new([1_u8; 64])));
                    start.elapsed()
                })
                .unwrap()
            };
            only_allocating(calls, allocate, || heap.run(|| kept.borrow_mut().clear()).unwrap())
        }),
        Case::timed("allocate with bumpalo called directly", |calls| {
            let allocate = || {
                let (bump, mut blocks) = (bump.borrow(), Vec::<&[u8; 64]>::with_capacity(1000));
                let start = Instant::now();
                blocks.extend((0..1000).map(|_| &*bump.alloc([1_u8; 64])));
                let time = start.elapsed();
                black_box(blocks);
                time
            };
            only_allocating(calls, allocate, || bump.borrow_mut().reset())
        }),
    ];
    cases.extend(budget_cases(&heap, &limited, &child));
    cases.extend(freeing_cases(&slabs, &mut boxes));
    for _ in 0..ROUNDS {
        cases.iter_mut().for_each(Case::round);
    }
    for case in &cases {
        println!("{:7.2} ns  {}", case.best_nanoseconds, case.name);
    }
}

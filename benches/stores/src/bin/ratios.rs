//! Ratios of interleaved rounds, in one run. `--smoke` only shows that everything works.

use std::time::{Duration, Instant};

use heapswitch::store::GravityStore;
use stores::gravity::{Filled, Lengths, Store, ends, sum};
use stores::pool::{self, Peer, Pool, Raw, Safe, Slots};
use stores::port::Port;

/// Does its work once and tells how long that took.
type Run<'a> = Box<dyn FnMut() -> Duration + 'a>;

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The medians of the seconds that each takes; they take turns in each round.
fn interleave<const N: usize>(rounds: usize, mut runs: [(&str, Run<'_>); N]) -> [f64; N] {
    let mut figures = vec![Vec::new(); N];
    for round in 0..=rounds {
        for turn in 0..N {
            let which = (turn + round) % N;
            let seconds = (runs[which].1)().as_secs_f64();
            // The first round warms up.
            if round > 0 || rounds == 0 {
                figures[which].push(seconds);
            }
        }
    }
    std::array::from_fn(|which| median(&mut figures[which]))
}

struct Scale {
    rounds: usize,
    operations: usize,
    /// The blocks in a full store, about.
    blocks: usize,
}

impl Scale {
    fn capacity(&self, lengths: Lengths) -> usize {
        self.blocks * (lengths.0 + lengths.1) / 2
    }
}

fn reads(scale: &Scale) {
    println!("reads by two threads, as a multiple of the reads by one in the same time");
    for (name, lengths) in [("64 to 256 B", Lengths(64, 256)), ("1 to 4 KiB", Lengths(1024, 4096))]
    {
        let mut one = Filled::<GravityStore>::new(scale.capacity(lengths), lengths, 1);
        let mut two = Filled::<GravityStore>::new(scale.capacity(lengths), lengths, 2);
        let [alone, both] = interleave(
            scale.rounds,
            [
                ("one", Box::new(|| one.read(scale.operations, sum))),
                ("two", Box::new(|| two.read(scale.operations, sum))),
            ],
        );
        println!("  {name:<12} {:.2}", 2.0 * alone / both);
    }
}

type Work<S> = fn(&mut Filled<S>, usize) -> Duration;

fn beside_port(scale: &Scale) {
    println!("\ntwo threads at 90 % fill: the port's time as a multiple of the store's");
    let works: [(&str, Work<GravityStore>, Work<Port>); 4] = [
        ("read, ends", |s, n| s.read(n, ends), |s, n| s.read(n, ends)),
        ("read, every byte", |s, n| s.read(n, sum), |s, n| s.read(n, sum)),
        ("9 reads, 1 replaced", |s, n| s.mixed(n, ends), |s, n| s.mixed(n, ends)),
        ("replaced", |s, n| s.replace(n / 10), |s, n| s.replace(n / 10)),
    ];
    for (size, lengths) in [
        ("64 to 256 B", Lengths(64, 256)),
        ("1 to 4 KiB", Lengths(1024, 4096)),
        ("64 B to 16 KiB", Lengths(64, 16_384)),
    ] {
        let mut store = Filled::<GravityStore>::new(scale.capacity(lengths), lengths, 2);
        let mut port = Filled::<Port>::new(scale.capacity(lengths), lengths, 2);
        for (name, on_store, on_port) in works {
            let [ours, theirs] = interleave(
                scale.rounds,
                [
                    ("store", Box::new(|| on_store(&mut store, scale.operations))),
                    ("port", Box::new(|| on_port(&mut port, scale.operations))),
                ],
            );
            println!("  {size:<14} {name:<20} {:.2}", theirs / ours);
        }
    }
}

fn moved<S: Store>(capacity: usize, lengths: Lengths, count: usize) -> f64 {
    let mut filled = Filled::<S>::new(capacity, lengths, 1);
    let before = filled.store.moved_bytes();
    filled.replace(count);
    let written = count * (lengths.0 + lengths.1) / 2;
    (filled.store.moved_bytes() - before) as f64 / written as f64
}

fn moves(scale: &Scale) {
    println!("\nbytes moved for each byte written, at 90 % fill: store, port");
    for (name, lengths) in [
        ("64 to 256 B", Lengths(64, 256)),
        ("1 to 4 KiB", Lengths(1024, 4096)),
        ("64 B to 16 KiB", Lengths(64, 16_384)),
    ] {
        let count = scale.operations / 4;
        let ours = moved::<GravityStore>(scale.capacity(lengths), lengths, count);
        let theirs = moved::<Port>(scale.capacity(lengths), lengths, count);
        println!("  {name:<14} {ours:.4}, {theirs:.4}");
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Churn, get, sort and walk of one kind of pool.
fn pool_works<P: Pool>(mut pool: P, blocks: usize, operations: usize) -> [Duration; 4] {
    let mut handles = pool::fill(&mut pool, blocks);
    let churned = timed(|| pool::churn(&mut pool, &mut handles, operations));
    let got = timed(|| pool::gets(&pool, &handles, operations));
    pool::shuffle(&mut pool, &mut handles);
    let sorted = timed(|| pool.sort());
    let walked = timed(|| {
        std::hint::black_box(pool.in_order());
    });
    [churned, got, sorted, walked]
}

fn pools(scale: &Scale) {
    let blocks = scale.operations / 4;
    println!(
        "\npools of {blocks} blocks of 64 bytes: time as a multiple of ordered-pool-allocator's"
    );
    println!("  {:<14} {:>8} {:>8} {:>8}", "", "handles", "raw", "slotmap");
    let mut figures: [[Vec<f64>; 4]; 4] = Default::default();
    for _ in 0..=scale.rounds {
        let mut memory = pool::memory(blocks);
        let rounds = [
            pool_works(Peer::new(&mut memory, blocks), blocks, scale.operations),
            pool_works(Safe::new(&mut memory, blocks), blocks, scale.operations),
            pool_works(Raw::new(&mut memory, blocks), blocks, scale.operations),
            pool_works(Slots::new(&mut memory, blocks), blocks, scale.operations),
        ];
        for (figures, times) in figures.iter_mut().zip(rounds) {
            for (figures, time) in figures.iter_mut().zip(times) {
                figures.push(time.as_secs_f64());
            }
        }
    }
    for (work, name) in ["free, allocate", "get", "sort", "walk"].iter().enumerate() {
        let [peer, safe, raw, slots] =
            std::array::from_fn(|which| median(&mut figures[which][work]));
        println!("  {name:<14} {:>8.2} {:>8.2} {:>8.2}", safe / peer, raw / peer, slots / peer);
    }
}

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let scale = if is_smoke {
        Scale { rounds: 1, operations: 2000, blocks: 500 }
    } else {
        Scale { rounds: 9, operations: 200_000, blocks: 8000 }
    };
    reads(&scale);
    beside_port(&scale);
    moves(&scale);
    pools(&scale);
}

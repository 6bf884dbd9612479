//! Ratios of interleaved rounds, in one run. `--smoke` only shows that everything works; `--part
//! reads|writes|port|moves|pools` leaves in one table, `--pool NAME` one pool and only its churn,
//! `--work read|mixed|replace|port-read|...` one work of one store, by `--threads` threads, and
//! `--free N` fills all but the Nth part of stores, for `port` and `--work`.

use std::time::{Duration, Instant};

use heapswitch::store::GravityStore;
use stores::gravity::{Filled, Lengths, Store, ends, sum};
use stores::pool::{self, Peer, Pool, Raw, Safe, Slots};
use stores::port::Port;
use stores::scaling::{self, Bursts, Keys, Mix};

/// Does its work once and tells how long that took.
type Run<'a> = Box<dyn FnMut() -> Duration + 'a>;

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A figure of each round: the median, and between which values half of the rounds are.
struct Spread {
    median: f64,
    quartiles: [f64; 2],
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Self {
        let median = median(&mut figures);
        let last = figures.len() - 1;
        Self { median, quartiles: [figures[last / 4], figures[last - last / 4]] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, high] = self.quartiles;
        write!(formatter, "{:5.2}  ({low:.2} to {high:.2})", self.median)
    }
}

/// What follows an option on the command line.
fn following(option: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != option).nth(1)
}

/// The second's time by the first's in each round; they take turns.
fn ratio(rounds: usize, mut first: Run<'_>, mut second: Run<'_>) -> Spread {
    let mut figures = Vec::new();
    for round in 0..=rounds {
        let mut times = [Duration::ZERO; 2];
        for turn in 0..2 {
            let which = (turn + round) % 2;
            times[which] = if which == 0 { first() } else { second() };
        }
        // The first round warms up.
        if round > 0 || rounds == 0 {
            figures.push(times[1].as_secs_f64() / times[0].as_secs_f64());
        }
    }
    Spread::of(figures)
}

#[derive(Clone, Copy)]
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

fn reads(scale: &Scale, is_smoke: bool) {
    println!("reads by two threads, as a multiple of the reads by one in the same time, each on a");
    println!("processor of its own; the ceiling is a store for each; then the port's time of the");
    println!("same reads by two, as a multiple of the store's. (bursts that counted)");
    let Some(processors) = scaling::two_processors() else {
        println!("  the process may not use two processors");
        return;
    };
    let wanted = if is_smoke { 1 } else { 100 };
    let most = Duration::from_secs(3);
    // The first fits the caches of each processor, so that memory is not what is measured.
    for (name, lengths, blocks, count) in [
        ("16 to 48 B, few", Lengths(16, 48), 500, 30_000),
        ("64 to 256 B", Lengths(64, 256), scale.blocks, 8000),
        ("1 to 4 KiB", Lengths(1024, 4096), scale.blocks, 2000),
    ] {
        let bursts = Bursts { mix: Mix::Reads, lengths, blocks, count, wanted, most };
        for (how, look) in [("ends", ends as fn(&[u8]) -> u64), ("every byte", sum)] {
            print!("  {name:<16} {how:<11}");
            let of_store = |keys| scaling::measure::<GravityStore>(bursts, keys, processors, look);
            let halves = of_store(Keys::Halves);
            for (whose, medians) in [
                ("halves of the keys", halves),
                ("the same keys", of_store(Keys::Same)),
                ("ceiling", of_store(Keys::Apart)),
            ] {
                match medians {
                    Some(it) => print!("  {whose} {:.2} {:?}", it.scaling(), it.counted),
                    None => print!("  {whose}: all were disturbed"),
                }
            }
            let port = scaling::measure::<Port>(bursts, Keys::Halves, processors, look);
            if let (Some(store), Some(port)) = (halves, port) {
                let ratio = port.two.as_secs_f64() / store.two.as_secs_f64();
                print!("  port {ratio:.2} {:?}", port.counted);
            }
            println!();
        }
    }
}

fn writes(scale: &Scale, is_smoke: bool) {
    println!(
        "\ntwo threads with half of the keys each, at 90 % fill, each on a processor of its own:"
    );
    println!(
        "what they do as a multiple of what one does in the same time, and the same with a store"
    );
    println!("each; then the port's time as a multiple of the store's, one thread and two at once");
    let Some(processors) = scaling::two_processors() else {
        println!("  the process may not use two processors");
        return;
    };
    let wanted = if is_smoke { 1 } else { 100 };
    let most = Duration::from_secs(3);
    // Longer values for fewer of them, so that a burst takes a millisecond or less.
    for (name, lengths, replaced) in [
        ("64 to 256 B", Lengths(64, 256), 1000),
        ("1 to 4 KiB", Lengths(1024, 4096), 300),
        ("64 B to 16 KiB", Lengths(64, 16_384), 100),
    ] {
        for (mix, how, count) in [
            (Mix::Mixed, "9 reads, 1 replaced", 3 * replaced),
            (Mix::Replaced, "replaced", replaced),
        ] {
            let bursts = Bursts { mix, lengths, blocks: scale.blocks, count, wanted, most };
            let of_store = |keys| scaling::measure::<GravityStore>(bursts, keys, processors, ends);
            let (halves, apart) = (of_store(Keys::Halves), of_store(Keys::Apart));
            let port = scaling::measure::<Port>(bursts, Keys::Halves, processors, ends);
            print!("  {name:<14} {how:<19}");
            let (Some(halves), Some(apart), Some(port)) = (halves, apart, port) else {
                println!("  all bursts of one kind were disturbed");
                continue;
            };
            let ratio = |port: Duration, store: Duration| port.as_secs_f64() / store.as_secs_f64();
            println!(
                "  one {:.0} two {:.0} ns  two {:.2} {:?}  apart {:.2}  port {:.2}, {:.2} {:?}",
                halves.one.as_secs_f64() * 1e9 / count as f64,
                halves.two.as_secs_f64() * 1e9 / count as f64 / 2.0,
                halves.scaling(),
                halves.counted,
                apart.scaling(),
                ratio(port.one, halves.one),
                ratio(port.two, halves.two),
                port.counted,
            );
        }
    }
}

type Work<S> = fn(&mut Filled<S>, usize) -> Duration;

const WORKS: [(&str, Work<GravityStore>, Work<Port>); 4] = [
    ("read, ends", |s, n| s.read(n, ends), |s, n| s.read(n, ends)),
    ("read, every byte", |s, n| s.read(n, sum), |s, n| s.read(n, sum)),
    ("9 reads, 1 replaced", |s, n| s.mixed(n, ends), |s, n| s.mixed(n, ends)),
    ("replaced", |s, n| s.replace(n / 10), |s, n| s.replace(n / 10)),
];

fn beside_port(scale: &Scale) {
    println!("\ntwo threads at 90 % fill (--free N: all but the Nth part): the port's time");
    println!("as a multiple of the store's");
    let mut all = Vec::new();
    for (size, lengths) in [
        ("64 to 256 B", Lengths(64, 256)),
        ("1 to 4 KiB", Lengths(1024, 4096)),
        ("64 B to 16 KiB", Lengths(64, 16_384)),
    ] {
        all.extend(each_beside_port(scale, (size, lengths, 8), &WORKS));
    }
    let mean = all.iter().map(|figure| figure.ln()).sum::<f64>() / all.len() as f64;
    println!("  geometric mean of these {}: {:.2}", all.len(), mean.exp());
    println!("the store in granules of about a sixteenth of the mean length, 3 % of its memory");
    for of in
        [("1 to 4 KiB", Lengths(1024, 4096), 128), ("64 B to 16 KiB", Lengths(64, 16_384), 512)]
    {
        each_beside_port(scale, of, &WORKS[2..]);
    }
}

/// All but which part of a store is filled.
fn free_part() -> usize {
    following("--free").map_or(10, |part| part.parse().expect("a number"))
}

/// The medians, of values of some lengths in a store of some granule.
fn each_beside_port(
    scale: &Scale,
    (size, lengths, granule): (&str, Lengths, usize),
    works: &[(&str, Work<GravityStore>, Work<Port>)],
) -> Vec<f64> {
    let capacity = scale.capacity(lengths);
    let free = free_part();
    let mut store = Filled::<GravityStore>::with_free_part(free, granule, capacity, lengths, 2);
    let mut port = Filled::<Port>::with_free_part(free, granule, capacity, lengths, 2);
    let of_work = |(name, on_store, on_port): &(&str, Work<GravityStore>, Work<Port>)| {
        let spread = ratio(
            scale.rounds,
            Box::new(|| on_store(&mut store, scale.operations)),
            Box::new(|| on_port(&mut port, scale.operations)),
        );
        println!("  {size:<14} {name:<20} {spread}");
        spread.median
    };
    works.iter().map(of_work).collect()
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
    // The first fit a processor's nearest cache, so that what is done is measured, not memory.
    for blocks in [scale.operations / 400, scale.operations / 4] {
        pools_of(blocks, scale);
    }
}

fn pools_of(blocks: usize, scale: &Scale) {
    println!(
        "\npools of {blocks} blocks of 64 bytes: time as a multiple of ordered-pool-allocator's"
    );
    println!("  {:<14} {:>8} {:>8} {:>8}", "", "handles", "raw", "slotmap");
    let mut figures: [[Vec<f64>; 4]; 4] = Default::default();
    for round in 0..=scale.rounds {
        let mut memory = pool::memory(blocks);
        // They take turns within a round too.
        for turn in 0..4 {
            let which = (turn + round) % 4;
            let operations = scale.operations;
            let times = match which {
                0 => pool_works(Peer::new(&mut memory, blocks), blocks, operations),
                1 => pool_works(Safe::new(&mut memory, blocks), blocks, operations),
                2 => pool_works(Raw::new(&mut memory, blocks), blocks, operations),
                _ => pool_works(Slots::new(&mut memory, blocks), blocks, operations),
            };
            // The first round warms up.
            if round > 0 || scale.rounds == 0 {
                for (figures, time) in figures[which].iter_mut().zip(times) {
                    figures.push(time.as_secs_f64());
                }
            }
        }
    }
    for (work, name) in ["free, allocate", "get", "sort", "walk"].iter().enumerate() {
        let [peer, safe, raw, slots] =
            std::array::from_fn(|which| median(&mut figures[which][work]));
        println!("  {name:<14} {:>8.2} {:>8.2} {:>8.2}", safe / peer, raw / peer, slots / peer);
    }
}

/// Only one work of one store, by as many threads: for profiles and counts of instructions.
fn one_work(name: &str, threads: usize, scale: &Scale) {
    fn run<S: Store>(work: &str, lengths: Lengths, threads: usize, scale: &Scale) {
        let capacity = scale.capacity(lengths);
        let mut filled = Filled::<S>::with_free_part(free_part(), 8, capacity, lengths, threads);
        let time = match work {
            "read" => filled.read(scale.operations, ends),
            "mixed" => filled.mixed(scale.operations, ends),
            "replace" => filled.replace(scale.operations),
            _ => panic!("there is no work {work}"),
        };
        let each = |sum: f64| sum / scale.operations as f64;
        let moved = each(filled.store.moved_bytes() as f64);
        println!("{work}: {:.1} ns each, {moved:.1} bytes moved", each(time.as_secs_f64() * 1e9));
    }
    let lengths = Lengths(64, 256);
    match name.strip_prefix("port-") {
        Some(work) => run::<Port>(work, lengths, threads, scale),
        None => run::<GravityStore>(name, lengths, threads, scale),
    }
}

/// Only the churn of one pool: for counts of instructions.
fn one_pool(name: &str, scale: &Scale) {
    fn churn<P: Pool>(mut pool: P, blocks: usize, operations: usize) {
        let mut handles = pool::fill(&mut pool, blocks);
        pool::churn(&mut pool, &mut handles, operations);
    }
    let (blocks, operations) = (scale.operations / 4, scale.operations);
    let mut memory = pool::memory(blocks);
    match name {
        "handles" => churn(Safe::new(&mut memory, blocks), blocks, operations),
        "raw" => churn(Raw::new(&mut memory, blocks), blocks, operations),
        "slotmap" => churn(Slots::new(&mut memory, blocks), blocks, operations),
        "ordered-pool-allocator" => churn(Peer::new(&mut memory, blocks), blocks, operations),
        _ => panic!("there is no pool {name}"),
    }
}

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let scale = if is_smoke {
        Scale { rounds: 1, operations: 2000, blocks: 500 }
    } else {
        Scale { rounds: 9, operations: 200_000, blocks: 8000 }
    };
    if let Some(name) = following("--pool") {
        return one_pool(&name, &scale);
    }
    if let Some(name) = following("--work") {
        let threads = following("--threads").and_then(|count| count.parse().ok());
        return one_work(&name, threads.unwrap_or(1), &scale);
    }
    type Part<'a> = (&'static str, &'a dyn Fn(&Scale));
    let reads = |scale: &Scale| reads(scale, is_smoke);
    let writes = |scale: &Scale| writes(scale, is_smoke);
    let parts: [Part<'_>; 5] = [
        ("reads", &reads),
        ("writes", &writes),
        ("port", &beside_port),
        ("moves", &moves),
        ("pools", &pools),
    ];
    let wanted = following("--part");
    for (name, part) in parts {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            part(&scale);
        }
    }
}

//! The strategies, used by themselves, beside other allocators in Rust. See README.md.

mod table;

use std::time::Duration;

use strategies::many::{self, Work};
use strategies::peers::{self, Buffer};
use strategies::{published, requests, workloads};
use table::Row;

/// One peer's run of a workload.
type Run<'a> = (&'static str, Box<dyn Fn(&mut Buffer) -> f64 + 'a>);

/// Whether the command line leaves a peer's run of a workload in: `--row TEXT` leaves in those
/// whose name has the text, `--peer NAMES` the named peers, with commas between.
fn is_wanted(row: &str, peer: &str) -> bool {
    let following = |option: &str| {
        let mut arguments = std::env::args().skip_while(|argument| argument != option).skip(1);
        arguments.next()
    };
    following("--row").is_none_or(|text| row.contains(&text))
        && following("--peer").is_none_or(|names| names.split(',').any(|name| name == peer))
}

/// Runs each in turn, in turning order, so that what else the machine does hits them alike.
fn interleave(name: String, rounds: usize, buffer: &mut Buffer, runs: &[Run<'_>]) -> Row {
    let runs: Vec<_> = runs.iter().filter(|(peer, _)| is_wanted(&name, peer)).collect();
    let mut columns: Vec<_> = runs.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..=rounds {
        for turn in 0..runs.len() {
            let index = (turn + round) % runs.len();
            let figure = (runs[index].1)(buffer);
            // The first round warms up.
            if round > 0 {
                columns[index].1.push(figure);
            }
        }
    }
    if !columns.is_empty() {
        eprintln!("{name}");
    }
    Row { name, columns }
}

/// What is counted, and so the same in each round.
fn once(name: String, buffer: &mut Buffer, runs: &[Run<'_>]) -> Row {
    let runs = runs.iter().filter(|(peer, _)| is_wanted(&name, peer));
    let columns = runs.map(|(peer, run)| (*peer, vec![run(buffer)])).collect();
    Row { name, columns }
}

/// The same workload for each of the named constructors.
macro_rules! runs {
    ($work:expr; $($name:literal $make:path),* $(,)?) => {
        [$(($name, Box::new(|buffer: &mut Buffer| {
            let addresses = buffer.addresses();
            let peer = $make(buffer);
            $work(&peer, &addresses)
        }) as Box<dyn Fn(&mut Buffer) -> f64 + '_>)),*]
    };
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn random_actions(rounds: usize, buffer: &mut Buffer) -> Vec<Row> {
    let mut rows = Vec::new();
    for with_resize in [false, true] {
        for most in [256, 1000, 10_000, 100_000] {
            let name = format!("random{} to {most} B", if with_resize { ", resize" } else { "" });
            let runs = runs!(
                |peer: &_, range: &_| {
                    seconds(workloads::random_actions(peer, range, most, with_resize, 0))
                };
                "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
                "heapswitch-first-fit" peers::first_fit, "heapswitch-free-list" peers::free_list,
                "heapswitch-buddy" peers::our_buddy, "heapswitch-stripes" peers::stripes,
                "heapswitch-trees-reserved" peers::reserved_trees,
                "heapswitch-bits-reserved" peers::reserved_bits,
                "heapswitch-free-list-reserved" peers::reserved_free_list,
                "talc" peers::talc, "buddy" peers::buddy, "linked-list" peers::linked_list,
            );
            rows.push(interleave(name, rounds, buffer, &runs));
        }
    }
    rows
}

/// talc's published random actions.
fn published_actions(rounds: usize, buffer: &mut Buffer) -> Vec<Row> {
    let mut rows = Vec::new();
    for with_resize in [false, true] {
        for most in published::MOST_BYTES {
            let name = format!("talc's{} to {most} B", if with_resize { ", resize" } else { "" });
            let runs = runs!(
                |peer: &_, range: &_| {
                    seconds(published::random_actions(peer, range, most, with_resize))
                };
                "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
                "heapswitch-free-list" peers::free_list, "heapswitch-buddy" peers::our_buddy,
                "heapswitch-trees-reserved" peers::reserved_trees,
                "heapswitch-bits-reserved" peers::reserved_bits,
                "heapswitch-free-list-reserved" peers::reserved_free_list,
                "heapswitch-buddy-reserved" peers::reserved_buddy,
                "talc" peers::talc, "buddy" peers::buddy, "linked-list" peers::linked_list,
            );
            rows.push(interleave(name, rounds, buffer, &runs));
        }
    }
    rows
}

fn pairs(rounds: usize, buffer: &mut Buffer) -> Vec<Row> {
    let small = runs!(
        |peer: &_, range: &_| seconds(workloads::pairs(peer, range, 8));
        "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
        "heapswitch-slab" peers::slab, "heapswitch-first-fit" peers::first_fit,
        "heapswitch-buddy" peers::our_buddy, "heapswitch-stripes" peers::stripes,
        "talc" peers::talc, "buddy" peers::buddy, "linked-list" peers::linked_list,
    );
    let large = runs!(
        |peer: &_, range: &_| seconds(workloads::pairs(peer, range, 1 << 20));
        "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
        "heapswitch-first-fit" peers::first_fit, "heapswitch-buddy" peers::our_buddy,
        "talc" peers::talc, "buddy" peers::buddy, "linked-list" peers::linked_list,
    );
    let threads = runs!(
        |peer: &_, range: &_| seconds(workloads::threads(peer, range));
        "heapswitch-trees" peers::locked_trees, "heapswitch-slab" peers::locked_slab,
        "heapswitch-buddy" peers::locked_buddy,
        "talc" peers::locked_talc, "buddy" peers::spin_locked_buddy,
        "linked-list" peers::spin_locked_linked_list,
    );
    vec![
        interleave("pairs of 8 B".into(), rounds, buffer, &small),
        interleave("pairs of 1 MiB".into(), rounds, buffer, &large),
        interleave("two threads, locked".into(), rounds, buffer, &threads),
    ]
}

fn objects(rounds: usize, buffer: &mut Buffer) -> Row {
    let runs: [Run<'_>; 2] = [
        ("heapswitch-bump", Box::new(|buffer| seconds(requests::in_bump(buffer)))),
        ("bumpalo", Box::new(|_| seconds(requests::in_bumpalo()))),
    ];
    interleave("2000 objects, all dropped".into(), rounds, buffer, &runs)
}

/// Powers of two, the buddies' ground: allocated until many live, and freed in random order.
fn powers(rounds: usize, buffer: &mut Buffer) -> Vec<Row> {
    let runs = runs!(
        |peer: &_, range: &_| seconds(workloads::powers(peer, range));
        "heapswitch-buddy" peers::our_buddy, "buddy" peers::buddy,
    );
    vec![interleave("20,000 of 32 B to 4 KiB".into(), rounds, buffer, &runs)]
}

/// Many live blocks with holes among them, a free list's ground.
fn holes(rounds: usize, buffer: &mut Buffer) -> Vec<Row> {
    let runs = runs!(
        |peer: &_, range: &_| seconds(workloads::nested(peer, range));
        "heapswitch-first-fit" peers::first_fit, "heapswitch-free-list" peers::free_list,
        "talc" peers::talc, "linked-list" peers::linked_list,
    );
    vec![interleave("nested scopes of 16 to 512 B".into(), rounds, buffer, &runs)]
}

/// A million entries of 64 bytes: the slab crate hands out numbers, the stripes addresses.
fn million(rounds: usize, buffer: &mut Buffer) -> Vec<Row> {
    let works = [
        ("a million of 64 B, filled and emptied", Work::FillAndEmpty),
        ("a million of 64 B, random ones replaced", Work::Replace),
    ];
    let mut rows = Vec::new();
    for (name, work) in works {
        let mut runs = Vec::from(runs!(
            |peer: &_, range: &_| seconds(many::in_peer(peer, range, work));
            "heapswitch-stripes" peers::stripes, "heapswitch-slab" peers::slab,
        ));
        runs.push(("slab-crate", Box::new(move |_| seconds(many::in_slab_crate(work)))));
        rows.push(interleave(name.into(), rounds, buffer, &runs));
    }
    let mut runs = Vec::from(runs!(
        |peer: &_, range: &_| seconds(many::sixteen_in_peer(peer, range));
        "heapswitch-stripes" peers::stripes, "heapswitch-slab" peers::slab,
    ));
    runs.push(("slab-crate", Box::new(|_| seconds(many::sixteen_in_slab_crate()))));
    rows.push(interleave("a million of 64 B, sixteen at a time".into(), rounds, buffer, &runs));
    rows
}

fn shares(buffer: &mut Buffer) -> Vec<Row> {
    let mut rows = Vec::new();
    for most in [256, 1000, 10_000, 100_000] {
        let runs = runs!(
            |peer: &_, range: &_| workloads::efficiency(peer, range, most);
            "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
            "heapswitch-first-fit" peers::first_fit, "heapswitch-free-list" peers::free_list,
            "heapswitch-buddy" peers::our_buddy, "heapswitch-stripes" peers::stripes,
            "heapswitch-trees-reserved" peers::reserved_trees,
            "heapswitch-bits-reserved" peers::reserved_bits,
            "heapswitch-free-list-reserved" peers::reserved_free_list,
            "talc" peers::talc, "buddy" peers::buddy, "linked-list" peers::linked_list,
        );
        rows.push(once(format!("share at refusal to {most} B"), buffer, &runs));
    }
    rows
}

/// talc's published heap efficiency. Without the linked list, which takes minutes for it.
fn published_share(buffer: &mut Buffer) -> Row {
    let runs = runs!(
        |peer: &_, range: &_| published::efficiency(peer, range);
        "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
        "heapswitch-free-list" peers::free_list, "heapswitch-buddy" peers::our_buddy,
        "heapswitch-trees-reserved" peers::reserved_trees,
        "heapswitch-bits-reserved" peers::reserved_bits,
        "heapswitch-free-list-reserved" peers::reserved_free_list,
        "heapswitch-buddy-reserved" peers::reserved_buddy,
        "talc" peers::talc, "buddy" peers::buddy,
    );
    once("talc's share at refusal".into(), buffer, &runs)
}

/// How many pages random actions write to, on average of some sequences.
fn written_pages(sequences: u64, buffer: &mut Buffer) -> Vec<Row> {
    macro_rules! runs_of_pages {
        ($most:expr; $($name:literal $make:path),* $(,)?) => {
            [$(($name, Box::new(|buffer: &mut Buffer| {
                let addresses = buffer.addresses();
                let pages = (0..sequences).map(|sequence| {
                    buffer.mark();
                    let peer = $make(buffer);
                    workloads::random_actions(&peer, &addresses, $most, false, sequence);
                    drop(peer);
                    buffer.written_pages()
                });
                pages.sum::<usize>() as f64 / sequences as f64
            }) as Box<dyn Fn(&mut Buffer) -> f64 + '_>)),*]
        };
    }
    let mut rows = Vec::new();
    for most in [10_000, 30_000, 100_000] {
        let runs = runs_of_pages!(
            most;
            "heapswitch-trees" peers::trees, "heapswitch-bits" peers::bits,
            "heapswitch-free-list" peers::free_list, "heapswitch-buddy" peers::our_buddy,
            "heapswitch-trees-reserved" peers::reserved_trees,
            "heapswitch-bits-reserved" peers::reserved_bits,
            "heapswitch-free-list-reserved" peers::reserved_free_list,
            "talc" peers::talc, "buddy" peers::buddy,
        );
        rows.push(once(format!("pages written to, to {most} B"), buffer, &runs));
    }
    rows
}

fn main() {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let rounds = if is_smoke { 1 } else { 7 };
    let mut buffer = Buffer::new(128 << 20);
    let mut times = pairs(rounds, &mut buffer);
    times.push(objects(rounds, &mut buffer));
    times.extend(powers(rounds, &mut buffer));
    times.extend(holes(rounds, &mut buffer));
    times.extend(million(rounds, &mut buffer));
    times.extend(random_actions(rounds, &mut buffer));
    times.extend(published_actions(rounds, &mut buffer));
    table::print_times(&times);
    // A smoke run shows that it runs, in less memory.
    let mut small = Buffer::new(8 << 20);
    let mut all = shares(&mut small);
    all.push(published_share(if is_smoke { &mut small } else { &mut buffer }));
    table::print_shares(&all);
    drop(buffer);
    let sequences = if is_smoke { 1 } else { 8 };
    table::print_pages(&written_pages(sequences, &mut Buffer::new(64 << 20)));
}

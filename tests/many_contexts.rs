//! Contexts by the hundred thousand: how many mappings they take, what each costs beside what was
//! asked for, and what those keep that were closed with a survivor.
//!
//! `cargo test` runs them scaled down; at full scale, with the figures:
//! `cargo test --release --test many_contexts -- --ignored full_scale --nocapture`
//! Not in the check build, whose own notes on each block would be counted.
//! Nor under ThreadSanitizer, whose records of each page would be.
#![cfg(not(any(heapswitch_check, heapswitch_tsan, heapswitch_pass_through, loom)))]

#[path = "support/memory.rs"]
mod memory;

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use heapswitch::{Heap, HeapSwitch, LifetimeHint, process_usage, purge};
use memory::resident_bytes;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The share of the full scale, as a divisor.
const DIVISOR: &str = "HEAPSWITCH_TEST_DIVISOR";
const HINT: &str = "HEAPSWITCH_TEST_HINT";
const HINTS: [&str; 3] = ["short", "medium", "long"];

fn scaled(count: usize) -> usize {
    count / std::env::var(DIVISOR).map_or(100, |divisor| divisor.parse().unwrap())
}

fn hint() -> LifetimeHint {
    match std::env::var(HINT).as_deref() {
        Ok("medium") => LifetimeHint::Medium,
        Ok("long") => LifetimeHint::Long,
        _ => LifetimeHint::Short,
    }
}

/// Runs one of the ignored tests in a process of its own, and prints what it found.
fn run_case(test: &str, divisor: usize, hint: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"])
        .env(DIVISOR, divisor.to_string())
        .env(HINT, hint)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    for line in printed.lines().filter(|line| line.contains("contexts")) {
        println!("{hint}: {line}");
    }
    assert!(output.status.success(), "{hint} {printed}{}", String::from_utf8_lossy(&output.stderr));
}

fn run_all(divisor: usize) {
    for hint in HINTS {
        run_case("mappings", divisor, hint);
        run_case("suspended", divisor, hint);
        run_case("survivors", divisor, hint);
    }
}

#[test]
fn a_hundredth_of_the_full_scale() {
    run_all(if cfg!(debug_assertions) { 200 } else { 20 });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn full_scale() {
    run_all(1);
}

fn mapping_count() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// A cheap generator; the order has to be without a pattern, no more.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
#[ignore = "a case: run by the tests above"]
fn mappings() {
    let count = scaled(200_000);
    let mut random = Random(0x9E37_79B9);
    let mut live: Vec<Option<(Heap, Box<[u8]>)>> = (0..count).map(|_| None).collect();
    let mut escapees: Vec<Box<[u8]>> = Vec::new();
    let before = mapping_count();
    let mut most = 0;
    let started = Instant::now();
    for step in 0..4 * count {
        let slot = random.below(count);
        match live[slot].take() {
            Some((heap, block)) => {
                drop(heap);
                if step % 8 == 0 {
                    escapees.push(block);
                }
            }
            None => {
                let heap = Heap::with_hint(hint()).unwrap();
                let block = heap.run(|| vec![1; 100 + slot % 1000].into()).unwrap();
                live[slot] = Some((heap, block));
            }
        }
        if step % (count / 4) == 0 {
            most = most.max(mapping_count());
            escapees.truncate(count / 20);
        }
    }
    most = most.max(mapping_count());
    println!("{count} contexts: at most {most} mappings, {:?}", started.elapsed());
    assert!(most < 1000, "{most}");
    // Scaled down, too: a mapping a context would show.
    assert!(most < before + 64 + count / 100, "{before} {most}");
}

#[test]
#[ignore = "a case: run by the tests above"]
fn suspended() {
    const BLOCKS: usize = 20;
    let count = scaled(100_000);
    let mut random = Random(0xB504_F333);
    let mut heaps: Vec<Heap> = Vec::with_capacity(count);
    let mut blocks: Vec<Box<[u8]>> = Vec::with_capacity(count * BLOCKS);
    // What the lists themselves need is touched before the first look.
    blocks.resize_with(count * BLOCKS, Default::default);
    heaps.extend((0..count).map(|_| Heap::with_hint(hint()).unwrap()));
    let made = heaps.len();
    drop(std::mem::take(&mut heaps));
    assert_eq!(made, count);
    let before = resident_bytes();
    let mut requested = 0;
    for index in 0..count {
        let heap = Heap::with_hint(hint()).unwrap();
        heap.run(|| {
            for block in &mut blocks[index * BLOCKS..][..BLOCKS] {
                let size = 16 + random.below(1985);
                *block = vec![0xAB; size].into_boxed_slice();
                requested += size;
            }
        })
        .unwrap();
        heaps.push(heap);
    }
    let resident = resident_bytes().saturating_sub(before);
    let each = resident.saturating_sub(requested) / count;
    let (mappings, tables) = (mapping_count(), memory::status_bytes("VmPTE"));
    println!(
        "{count} suspended contexts: {each} bytes each beside {} requested; {mappings} mappings, \
         {tables} bytes of page tables, {} of records",
        requested / count,
        process_usage().metadata_bytes,
    );
    assert!(blocks.iter().all(|block| block.iter().all(|&byte| byte == 0xAB)));
    let most = if hint() == LifetimeHint::Short { 4 << 10 } else { 16 << 10 };
    assert!(each <= most, "{each}");
    assert!(mappings < 1000);
}

/// Closes `count` contexts of 40 KiB, each with one survivor of 32 bytes.
#[expect(clippy::vec_box, reason = "each box is a block in a heap of its own")]
fn close_with_survivors(count: usize, escapees: &mut Vec<Box<[u8; 32]>>) {
    for number in 0..count {
        let heap = Heap::with_hint(hint()).unwrap();
        let escapee = heap
            .run(|| {
                let mut blocks: Vec<Box<[u8]>> = Vec::with_capacity(39);
                let mut escapee = None;
                for index in 0..39 {
                    blocks.push(vec![1; 1024].into());
                    if index == number % 39 {
                        escapee = Some(Box::new([0xCD; 32]));
                    }
                }
                black_box(&blocks);
                escapee.unwrap()
            })
            .unwrap();
        escapees.push(escapee);
        assert!(heap.close().blocks <= 1);
    }
}

/// `process_usage`'s figures that tell whether contexts fit in the region.
fn overflowed() -> u64 {
    process_usage().overflow_blocks
}

#[test]
#[ignore = "a case: run by the tests above"]
fn survivors() {
    let count = scaled(1_000_000);
    let mut escapees = Vec::with_capacity(count);
    close_with_survivors(100, &mut escapees);
    escapees.clear();
    escapees.extend((0..count).map(|_| Box::new([0; 32])));
    escapees.clear();
    purge();
    let before = resident_bytes();
    let started = Instant::now();
    close_with_survivors(count, &mut escapees);
    let took = started.elapsed();
    let at_once = (resident_bytes() - before) / count;
    thread::sleep(Duration::from_millis(1100));
    let each = (resident_bytes() - before) / count;
    let mappings = mapping_count();
    assert!(escapees.iter().all(|escapee| **escapee == [0xCD; 32]));
    let overflow = overflowed();
    drop(escapees.drain(..));
    // Decay is seen by whoever takes and gives back: some contexts go on.
    let mut others = Vec::with_capacity(10_000);
    for _ in 0..25 {
        thread::sleep(Duration::from_millis(100));
        close_with_survivors(20, &mut others);
        others.clear();
    }
    let left = resident_bytes().saturating_sub(before) / count;
    purge();
    let purged = resident_bytes().saturating_sub(before) / count;
    println!(
        "{count} closed contexts: {at_once} bytes each at once, {each} after a second, {left} \
         after the frees and 2.5 seconds, {purged} after a purge; {mappings} mappings, \
         {overflow} blocks from the global allocator, closed in {took:?}",
    );
    assert!(each <= 8 << 10, "{each}");
    // Records and page tables stay; what the contexts held is back.
    assert!(left <= 5 << 9, "{left}");
}

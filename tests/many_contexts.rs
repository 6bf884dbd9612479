//! Contexts by the hundred thousand: how many mappings they take, what each costs beside what was
//! asked for, and what those keep that were closed with a survivor.
//!
//! `cargo test` runs them scaled down, `tests/numa/run` where huge pages are made everywhere, and
//! where they are made when asked for; at full scale, with the figures:
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

use heapswitch::{Heap, HeapSwitch, LifetimeHint, process_usage, purge, reconcile};
use memory::resident_bytes;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The share of the full scale, as a divisor.
const DIVISOR: &str = "HEAPSWITCH_TEST_DIVISOR";
const HINT: &str = "HEAPSWITCH_TEST_HINT";
const HINTS: [&str; 3] = ["short", "medium", "long"];

/// What the environment says, or this.
fn divisor_or(default: usize) -> usize {
    std::env::var(DIVISOR).map_or(default, |divisor| divisor.parse().unwrap())
}

fn scaled(count: usize) -> usize {
    count / divisor_or(100)
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

/// Whether the kernel makes huge pages where nobody asked for them: `[always]`, say.
fn print_huge_pages() {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    println!("transparent huge pages: {}", setting.as_deref().unwrap_or("none").trim());
}

fn run_all(divisor: usize, hint: &str) {
    run_case("mappings", divisor, hint);
    run_case("suspended", divisor, hint);
    run_case("survivors", divisor, hint);
}

#[test]
fn a_hundredth_of_the_full_scale() {
    print_huge_pages();
    let divisor = divisor_or(if cfg!(debug_assertions) { 200 } else { 20 });
    // At once: for most of the time they wait for what is given back by and by.
    thread::scope(|scope| {
        for hint in HINTS {
            scope.spawn(move || run_all(divisor, hint));
        }
    });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn full_scale() {
    print_huge_pages();
    HINTS.into_iter().for_each(|hint| run_all(1, hint));
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
    let start = Left::now();
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
    let left = Left::since(&start);
    purge();
    let purged = Left::since(&start);
    println!(
        "{count} closed contexts: {at_once} bytes each at once, {each} after a second; \
         {mappings} mappings, {overflow} blocks from the global allocator, closed in {took:?}"
    );
    println!("{count} contexts, after the frees and 2.5 seconds: {left:?}");
    println!("{count} contexts, after a purge: {purged:?}");
    assert!(each <= 8 << 10, "{each}");
    left.is_explained(count, DIRTY);
    purged.is_explained(count, 0);
}

/// What free runs may keep in memory until a purge.
const DIRTY: usize = 4 << 20;

/// What is in memory, by what the allocator and the kernel say it is for, in bytes; beside an
/// earlier look, what is there more.
#[derive(Clone, Copy, Debug)]
struct Left {
    resident: usize,
    /// Chunks that heaps hold: of those of contexts none.
    taken: usize,
    /// Pages of the region, whoever has them.
    pages: usize,
    /// Of the chunk table and of records: used again, and never given back.
    records: usize,
    /// Of the kernel's, for addresses that were used.
    page_tables: usize,
}

impl Left {
    fn now() -> Self {
        let census = reconcile().unwrap().census;
        Self {
            resident: resident_bytes(),
            taken: process_usage().region.taken_bytes,
            pages: census.held_resident_bytes + census.free_resident_bytes,
            records: census.table_resident_bytes + census.metadata_resident_bytes,
            page_tables: memory::status_bytes("VmPTE"),
        }
    }

    fn since(before: &Self) -> Self {
        let now = Self::now();
        Self {
            resident: now.resident.saturating_sub(before.resident),
            taken: now.taken.saturating_sub(before.taken),
            pages: now.pages.saturating_sub(before.pages),
            records: now.records.saturating_sub(before.records),
            page_tables: now.page_tables.saturating_sub(before.page_tables),
        }
    }

    /// All is back but what is stated to stay: no context's chunk is held, no page is in memory
    /// beyond `dirty` bytes, and what is there beside is records, of a bounded size each.
    fn is_explained(&self, contexts: usize, dirty: usize) {
        /// What the test's own thread and the C library have meanwhile.
        const SLACK: usize = 1 << 20;
        /// And that is a whole one, where the kernel makes huge pages of everything.
        const HUGE_PAGE: usize = 2 << 20;
        assert!(self.taken <= SLACK / 2, "chunks are held: {self:?}");
        assert!(self.pages <= dirty + HUGE_PAGE + SLACK, "pages stay: {self:?}");
        let explained = self.pages + self.records + self.page_tables;
        assert!(self.resident <= explained + HUGE_PAGE + SLACK, "unexplained: {self:?}");
        let most = match hint() {
            LifetimeHint::Short => 1 << 10,
            LifetimeHint::Medium => 2 << 10,
            LifetimeHint::Long => 4 << 10,
        };
        assert!(self.records + self.page_tables <= contexts * most + SLACK, "{self:?}");
    }
}

//! What stays resident: of memory that was freed, whoever sleeps, and over long runs. One process,
//! so these run one after the other.
#![cfg(not(any(heapswitch_pass_through, loom)))]
// The sanitizers keep what is freed, and their own records of each page count as resident.
#![cfg(not(any(heapswitch_asan, heapswitch_tsan)))]

#[path = "support/memory.rs"]
mod memory;
#[path = "resident/mix.rs"]
mod mix;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use heapswitch::{HeapSwitch, collect, flush_foreign_frees, purge};
use memory::resident_bytes;
use mix::Blocks;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The figures asserted on are the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const OWNERS: usize = 4;
const MIB: usize = 1 << 20;

/// What each owner allocates at its peak.
const OWNER_BYTES: usize = 48 * MIB;

/// Owners that have allocated, and sleep until they are dropped.
struct Sleepers {
    wake: Vec<Sender<()>>,
    threads: Vec<thread::JoinHandle<()>>,
    blocks: Receiver<Blocks>,
    before_bytes: usize,
    peak_bytes: usize,
}

/// Who frees what the owners allocated.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FreedBy {
    Owners,
    Another,
}

impl Sleepers {
    /// All owners have allocated, and if they are to free it, freed; and sleep.
    fn after(freed_by: FreedBy) -> Self {
        purge();
        let before_bytes = resident_bytes();
        let (full, measured, done) =
            [OWNERS + 1; 3].map(|count| &*Box::leak(Box::new(Barrier::new(count)))).into();
        let (sender, blocks) = channel();
        let (mut wake, mut threads) = (Vec::new(), Vec::new());
        for owner in 0..OWNERS {
            let (waker, sleep) = channel::<()>();
            let sender = sender.clone();
            wake.push(waker);
            threads.push(thread::spawn(move || {
                let mut blocks = Blocks::of(OWNER_BYTES, owner as u64 + 1);
                full.wait();
                measured.wait();
                match freed_by {
                    FreedBy::Owners => blocks.free_in_random_order(),
                    FreedBy::Another => sender.send(blocks).unwrap(),
                }
                done.wait();
                // Nobody ever sends: it sleeps until the sender is dropped.
                let _ = sleep.recv();
            }));
        }
        full.wait();
        let peak_bytes = resident_bytes() - before_bytes;
        measured.wait();
        done.wait();
        assert!(peak_bytes >= OWNERS * OWNER_BYTES, "{peak_bytes}");
        Self { wake, threads, blocks, before_bytes, peak_bytes }
    }

    fn free_here(&self) {
        while let Ok(mut blocks) = self.blocks.try_recv() {
            blocks.free_in_random_order();
        }
        flush_foreign_frees();
    }

    /// The part of the peak that is resident.
    fn resident_part(&self) -> f64 {
        resident_bytes().saturating_sub(self.before_bytes) as f64 / self.peak_bytes as f64
    }

    fn wake(self) {
        drop(self.wake);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Waits for decay to come to its end, a few periods of a second: until so little is resident, or
/// for a minute. What is measured is whether it comes to pass, and not how fast.
fn wait_for(sleepers: &Sleepers, most: f64, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    while sleepers.resident_part() > most && start.elapsed() < Duration::from_secs(60) {
        work();
    }
    sleepers.resident_part()
}

const MOST_RESIDENT: f64 = 0.05;

fn decays_while(work: fn()) {
    for freed_by in [FreedBy::Owners, FreedBy::Another] {
        let sleepers = Sleepers::after(freed_by);
        sleepers.free_here();
        let part = wait_for(&sleepers, MOST_RESIDENT, work);
        println!("freed by {freed_by:?}: {part:.4} of {} bytes", sleepers.peak_bytes);
        assert!(part <= MOST_RESIDENT, "freed by {freed_by:?}: {part} is resident");
        sleepers.wake();
    }
}

#[test]
fn what_sleeping_owners_freed_decays_while_another_thread_works() {
    let _alone = alone();
    decays_while(|| {
        // Small blocks that come and go: no run is taken or given back for them.
        let texts: Vec<String> = (0..4000).map(|number| format!("{number}")).collect();
        assert_eq!(texts.iter().map(String::len).sum::<usize>(), 14_890);
        thread::sleep(Duration::from_millis(1));
    });
}

#[test]
fn a_purge_gives_back_what_sleeping_owners_hold() {
    let _alone = alone();
    for freed_by in [FreedBy::Owners, FreedBy::Another] {
        let sleepers = Sleepers::after(freed_by);
        sleepers.free_here();
        assert!(collect() > 0 || freed_by == FreedBy::Owners);
        purge();
        let part = sleepers.resident_part();
        println!("freed by {freed_by:?}: {part:.4} of {} bytes", sleepers.peak_bytes);
        assert!(part <= MOST_RESIDENT, "freed by {freed_by:?}: {part} is resident");
        sleepers.wake();
    }
}

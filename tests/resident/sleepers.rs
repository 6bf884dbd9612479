//! Threads that allocated much, which is freed, and that sleep now.

use std::io::Read;
use std::sync::Barrier;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heapswitch::{flush_foreign_frees, purge};

use crate::mix::Blocks;

const OWNERS: usize = 4;

/// The part of the peak that may be resident when all was freed. The `check` build's records of
/// each chunk are nine times as long, and stay: 1.8 % of it.
pub(crate) const MOST_RESIDENT: f64 = if cfg!(heapswitch_check) { 0.07 } else { 0.05 };

/// Who frees what the owners allocated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FreedBy {
    Owners,
    Another,
}

/// The owners. They neither allocate nor free before they are woken.
pub(crate) struct Sleepers {
    wake: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    before_bytes: usize,
    pub(crate) peak_bytes: usize,
}

/// Resident memory but for pages of files, as the program's own code, in bytes. Allocates nothing.
fn resident_bytes() -> usize {
    let mut text = [0; 128];
    let length = std::fs::File::open("/proc/self/statm").unwrap().read(&mut text).unwrap();
    let numbers = std::str::from_utf8(&text[..length]).unwrap();
    let mut pages = numbers.split(' ').skip(1).map(|number| number.parse::<usize>().unwrap());
    let (resident, of_files) = (pages.next().unwrap(), pages.next().unwrap());
    (resident - of_files) * 4096
}

impl Sleepers {
    /// All have allocated so much, all is freed, and all sleep.
    pub(crate) fn after(freed_by: FreedBy, owner_bytes: usize) -> Self {
        purge();
        let before_bytes = resident_bytes();
        let step: &'static Barrier = Box::leak(Box::new(Barrier::new(OWNERS + 1)));
        let (sender, blocks) = channel();
        let (mut wake, mut threads) = (Vec::new(), Vec::new());
        for owner in 0..OWNERS {
            let (waker, sleep) = channel::<()>();
            let sender = sender.clone();
            wake.push(waker);
            threads.push(thread::spawn(move || {
                let mut blocks = Blocks::of(owner_bytes, owner as u64 + 1);
                step.wait(); // All are full.
                step.wait(); // That was measured.
                match freed_by {
                    FreedBy::Owners => blocks.free_in_random_order(),
                    FreedBy::Another => sender.send(blocks).unwrap(),
                }
                step.wait();
                // Nobody sends: it sleeps until the sender is dropped.
                let _ = sleep.recv();
            }));
        }
        step.wait();
        let peak_bytes = resident_bytes() - before_bytes;
        step.wait();
        step.wait();
        assert!(peak_bytes >= OWNERS * owner_bytes, "{peak_bytes}");
        while let Ok(mut blocks) = blocks.try_recv() {
            blocks.free_in_random_order();
        }
        flush_foreign_frees();
        Self { wake, threads, before_bytes, peak_bytes }
    }

    /// The part of the peak that is resident.
    pub(crate) fn resident_part(&self) -> f64 {
        resident_bytes().saturating_sub(self.before_bytes) as f64 / self.peak_bytes as f64
    }

    /// Works and waits until no more than a part is resident, or for a minute. What is measured is
    /// whether that comes to pass, and not when. The part.
    pub(crate) fn wait_until(&self, most: f64, mut work: impl FnMut()) -> f64 {
        let start = Instant::now();
        while self.resident_part() > most && start.elapsed() < Duration::from_secs(60) {
            work();
            thread::sleep(Duration::from_millis(1));
        }
        self.resident_part()
    }

    pub(crate) fn wake(self) {
        drop(self.wake);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

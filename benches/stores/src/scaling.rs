//! How the work of two threads compares with that of one, on a machine that others use as well.
//!
//! Each thread has a processor of its own and works for a millisecond or so. A burst counts only
//! where no thread of it had to wait for its processor for more than a tenth of that, which the
//! kernel tells to the nanosecond. Beside it stands the **ceiling**: the same work where each
//! thread has a store of its own, so that they share nothing but the machine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use heapswitch::numa::{ProcessorSet, Topology};

use crate::Numbers;
use crate::gravity::{Filled, Lengths, Store, replace_one};

/// Whose keys each thread reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// One store, and each thread half of its keys.
    Halves,
    /// One store, and all keys for both.
    Same,
    /// A store for each thread.
    Apart,
}

/// What a thread does with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    Reads,
    /// Each tenth time a value is freed and another one is written.
    Mixed,
    /// Nothing but that.
    Replaced,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    pub mix: Mix,
    pub lengths: Lengths,
    /// The blocks in a full store, about.
    pub blocks: usize,
    /// What a thread does in a burst: so many reads, or replacements.
    pub count: usize,
    /// How many bursts by one thread and by two are wanted.
    pub wanted: usize,
    /// When to end with fewer.
    pub most: Duration,
}

/// How long the thread has had to wait for its processor; zero where nobody tells.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Two processors, if the process may use as many.
pub fn two_processors() -> Option<[usize; 2]> {
    let topology = Topology::of_system().ok()?;
    let mut processors = topology.usable_processors().iter();
    Some([processors.next()?, processors.next()?])
}

/// Where the two threads meet. They do not sleep there, so they go on at the same time.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    /// Waits for the other thread's call with the same number, the first of which is 1.
    fn meet(&self, number: usize) {
        self.0.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0;
        while self.0.load(Ordering::Acquire) < 2 * number {
            spins += 1;
            if spins % 256 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// One thread's burst: when it began and ended, and whether it had its processor throughout.
#[derive(Clone, Copy)]
struct Burst {
    start: Instant,
    end: Instant,
    was_undisturbed: bool,
}

fn burst<S: Store>(
    store: &S,
    keys: &mut [S::Key],
    bursts: Bursts,
    numbers: &mut Numbers,
    look: impl Fn(&[u8]) -> u64,
) -> Burst {
    let Bursts { mix, lengths, count, .. } = bursts;
    let bytes = vec![3; lengths.1];
    let before = waited();
    let start = Instant::now();
    let sum: u64 = (0..count)
        .map(|round| {
            if mix == Mix::Replaced || (mix == Mix::Mixed && round % 10 == 0) {
                let length = lengths.choose(numbers);
                replace_one(store, keys, numbers, &bytes[..length]);
                return 0;
            }
            store.read(keys[numbers.below(keys.len())], &look)
        })
        .fold(0, u64::wrapping_add);
    std::hint::black_box(sum);
    let end = Instant::now();
    Burst { start, end, was_undisturbed: waited() - before <= (end - start) / 10 }
}

/// The medians of the undisturbed bursts.
#[derive(Clone, Copy, Debug)]
pub struct Medians {
    /// Of a burst by one thread.
    pub one: Duration,
    /// Of a burst by two, each of which does as much.
    pub two: Duration,
    /// Bursts that counted, by one thread and by two.
    pub counted: [usize; 2],
}

impl Medians {
    /// What two threads do, as a multiple of what one does in the same time.
    pub fn scaling(&self) -> f64 {
        2.0 * self.one.as_secs_f64() / self.two.as_secs_f64()
    }
}

/// Notes the time from the first start to the last end where all had their processors.
fn count(bursts: [Option<Burst>; 2], times: &mut [Vec<Duration>; 2]) {
    let bursts = || bursts.iter().flatten();
    let (start, end) = (bursts().map(|it| it.start).min(), bursts().map(|it| it.end).max());
    if let (Some(start), Some(end)) = (start, end)
        && bursts().all(|it| it.was_undisturbed)
    {
        times[bursts().count() - 1].push(end - start);
    }
}

/// Filled stores, and the keys of each of two threads.
fn fill<S: Store>(bursts: Bursts, keys: Keys) -> (Vec<S>, Vec<Vec<S::Key>>) {
    let Bursts { lengths, blocks, .. } = bursts;
    let capacity = blocks * (lengths.0 + lengths.1) / 2;
    let fill = |parts| Filled::<S>::new(capacity, lengths, parts);
    match keys {
        Keys::Halves => {
            let filled = fill(2);
            (vec![filled.store], filled.keys)
        }
        Keys::Same => {
            let Filled { store, mut keys, .. } = fill(1);
            keys.push(keys[0].clone());
            (vec![store], keys)
        }
        Keys::Apart => {
            // As many keys as a thread reads of one store.
            let half = |Filled { store, mut keys, .. }: Filled<S>| {
                let mut keys = keys.swap_remove(0);
                keys.truncate(keys.len() / 2);
                (store, keys)
            };
            [fill(1), fill(1)].into_iter().map(half).unzip()
        }
    }
}

/// Work by one thread and by two, in turns.
pub fn measure<S: Store + Send>(
    bursts: Bursts,
    keys: Keys,
    processors: [usize; 2],
    look: impl Fn(&[u8]) -> u64 + Sync,
) -> Option<Medians>
where
    S::Key: Sync,
{
    let Bursts { wanted, most, .. } = bursts;
    let (stores, mut parts) = fill::<S>(bursts, keys);
    let (meeting, is_over) = (Meeting::default(), AtomicBool::new(false));
    let made: Mutex<[Option<Burst>; 2]> = Mutex::default();
    // Of undisturbed bursts, by one thread and by two.
    let times: Mutex<[Vec<Duration>; 2]> = Mutex::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (which, keys) in parts.iter_mut().enumerate() {
            let store = &stores[which % stores.len()];
            let (meeting, is_over, made, times) = (&meeting, &is_over, &made, &times);
            let look = &look;
            scope.spawn(move || {
                let _pinned = heapswitch::pin_thread(&ProcessorSet::EMPTY.with(processors[which]));
                let mut numbers = Numbers(which as u64 + 1);
                for round in 0.. {
                    meeting.meet(2 * round + 1);
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    // By both, by the first, by both, by the second, and so on.
                    if round % 2 == 0 || round / 2 % 2 == which {
                        let burst = burst(store, keys, bursts, &mut numbers, look);
                        made.lock().unwrap()[which] = Some(burst);
                    }
                    meeting.meet(2 * round + 2);
                    if which == 0 {
                        let bursts = std::mem::take(&mut *made.lock().unwrap());
                        let mut times = times.lock().unwrap();
                        count(bursts, &mut times);
                        let is_enough = times.iter().all(|times| times.len() >= wanted);
                        is_over.store(is_enough || begun.elapsed() > most, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let [mut one, mut two] = times.into_inner().unwrap();
    let counted = [one.len(), two.len()];
    one.sort();
    two.sort();
    let median = |times: &[Duration]| times.get(times.len() / 2).copied();
    Some(Medians { one: median(&one)?, two: median(&two)?, counted })
}

#[cfg(test)]
mod tests {
    use heapswitch::store::GravityStore;

    use super::*;
    use crate::gravity::ends;

    #[test]
    fn bursts_are_counted() {
        let Some(processors) = two_processors() else { return };
        let lengths = Lengths(16, 48);
        let most = Duration::from_secs(5);
        for (keys, mix) in [
            (Keys::Halves, Mix::Reads),
            (Keys::Same, Mix::Reads),
            (Keys::Apart, Mix::Mixed),
            (Keys::Halves, Mix::Replaced),
        ] {
            let bursts = Bursts { mix, lengths, blocks: 100, count: 100, wanted: 1, most };
            let medians = measure::<GravityStore>(bursts, keys, processors, ends).unwrap();
            assert!(medians.counted.iter().all(|&counted| counted >= 1), "{keys:?} {medians:?}");
        }
    }
}

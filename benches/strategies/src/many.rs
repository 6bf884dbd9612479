//! A million entries of one size, in an allocator and in the slab crate.
//!
//! Both are filled from nothing, as a table is of which nobody knows how long it becomes.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::peers::Peer;
use crate::workloads::{Random, layout, served};

type Entry = [u64; 8];

const COUNT: usize = 1_000_000;

/// What is timed.
#[derive(Clone, Copy)]
pub enum Work {
    /// All are put in, and taken out in order.
    FillAndEmpty,
    /// All are put in; then random ones are taken out and put in anew. Only that is timed.
    Replace,
}

/// A table: puts an entry in, and takes one out. Both are always inlined: an entry that is handed
/// over on the stack is read from there in other pieces than it was written, for which a processor
/// waits until all earlier writes are done, also those to memory that it does not have yet.
trait Table {
    type Key: Copy;

    fn put(&mut self, entry: Entry) -> Self::Key;

    fn take(&mut self, key: Self::Key) -> u64;
}

struct InPeer<'a, P> {
    peer: &'a P,
    addresses: &'a Range<usize>,
}

impl<P: Peer> Table for InPeer<'_, P> {
    type Key = *mut u8;

    #[inline(always)] // measured: see the trait
    fn put(&mut self, entry: Entry) -> *mut u8 {
        let block = served(self.peer.allocate(layout(size_of::<Entry>())), self.addresses);
        // SAFETY: the block is allocated, as long as an entry, and aligned to 8.
        unsafe { block.cast::<Entry>().write(entry) };
        block
    }

    #[inline(always)] // measured: see the trait
    fn take(&mut self, block: *mut u8) -> u64 {
        // SAFETY: the block is allocated with that layout, and has an entry.
        unsafe {
            let entry = block.cast::<Entry>().read();
            self.peer.free(block, layout(size_of::<Entry>()));
            entry[0]
        }
    }
}

impl Table for slab::Slab<Entry> {
    type Key = usize;

    #[inline(always)] // measured: see the trait
    fn put(&mut self, entry: Entry) -> usize {
        self.insert(entry)
    }

    #[inline(always)] // measured: see the trait
    fn take(&mut self, key: usize) -> u64 {
        self.remove(key)[0]
    }
}

fn run<T: Table>(mut table: T, work: Work) -> Duration {
    let mut keys = Vec::with_capacity(COUNT);
    let start = Instant::now();
    keys.extend((0..COUNT as u64).map(|number| table.put([number; 8])));
    let mut sum = 0;
    if let Work::FillAndEmpty = work {
        for &key in &keys {
            sum += table.take(key);
        }
        black_box(sum);
        return start.elapsed();
    }
    let mut random = Random::new();
    let start = Instant::now();
    for number in 0..COUNT as u64 {
        let index = random.below(COUNT);
        sum += table.take(keys[index]);
        keys[index] = table.put([number; 8]);
    }
    black_box(sum);
    start.elapsed()
}

/// All are put in; then sixteen random ones are taken out before as many are put in, so that what a
/// table does for either is not in vain, and the compiler cannot leave it out. Only that is timed.
fn replace_sixteen<T: Table>(mut table: T) -> Duration {
    let mut keys: Vec<_> = (0..COUNT as u64).map(|number| table.put([number; 8])).collect();
    let (mut sum, mut random) = (0, Random::new());
    let start = Instant::now();
    for number in 0..COUNT as u64 / 16 {
        for _ in 0..16 {
            sum += table.take(keys.swap_remove(random.below(keys.len())));
        }
        keys.extend((0..16).map(|_| table.put([number; 8])));
    }
    black_box(sum);
    start.elapsed()
}

pub fn in_peer(peer: &impl Peer, addresses: &Range<usize>, work: Work) -> Duration {
    run(InPeer { peer, addresses }, work)
}

pub fn in_slab_crate(work: Work) -> Duration {
    run(slab::Slab::<Entry>::new(), work)
}

pub fn sixteen_in_peer(peer: &impl Peer, addresses: &Range<usize>) -> Duration {
    replace_sixteen(InPeer { peer, addresses })
}

pub fn sixteen_in_slab_crate() -> Duration {
    replace_sixteen(slab::Slab::<Entry>::new())
}

//! What anyone may read about a chunk at any time: whose account it is charged to, which strategy
//! cuts it up, how full it was when its heap counted last.
//!
//! The rest of an entry is the runner's, and a heap's header may be freed at any moment, so a map
//! of the region reads this instead. It is written where a run is taken, counted, orphaned or given
//! back: a plain store a chunk, none of them on the path of a block.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

const ACCOUNT_BITS: u32 = 40;
const ACCOUNT_MASK: u64 = (1 << ACCOUNT_BITS) - 1;
const FILL_SHIFT: u32 = ACCOUNT_BITS;
/// Of a chunk that was counted; the share stands above 0.
const MOST_FILL: u64 = 255;
const IS_WHOLE_BLOCK: u64 = 1 << 48;
const IS_ORPHAN: u64 = 1 << 49;
const IS_FIRST: u64 = 1 << 50;
const STRATEGY_SHIFT: u32 = 56;

/// The names of the strategies that labels tell of, by number, from 1 on.
static STRATEGIES: [AtomicPtr<&'static str>; 255] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 255];

/// A strategy, as labels tell of it: a number that stands for its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StrategyNumber(u8);

impl StrategyNumber {
    /// The number of the strategy of that name: none, where more than 255 have one already.
    pub fn of(name: &'static &'static str) -> Self {
        for (number, place) in (1..).zip(&STRATEGIES) {
            // Acquire pairs with the Release below: whoever reads the pointer reads the name.
            let mut found = place.load(Ordering::Acquire);
            if found.is_null() {
                let new = ptr::from_ref(name).cast_mut();
                let (done, not) = (Ordering::Release, Ordering::Acquire);
                found = place.compare_exchange(found, new, done, not).unwrap_or_else(|other| other);
            }
            // SAFETY: only references to statics are stored. Compared by content, for a constant
            // may have several addresses.
            if unsafe { found.as_ref() }.is_none_or(|found| found == name) {
                return Self(number);
            }
        }
        Self::default()
    }

    fn name(self) -> Option<&'static str> {
        let place = STRATEGIES.get(usize::from(self.0).checked_sub(1)?)?;
        // SAFETY: only references to statics are stored.
        unsafe { place.load(Ordering::Acquire).as_ref() }.copied()
    }
}

/// A chunk's label. All zero bytes are one that says nothing.
#[derive(Debug)]
pub struct Label {
    word: AtomicU64,
}

/// What a label says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Labelled {
    /// The number of the account that the chunk is charged to.
    pub account: u64,
    /// The owner's strategy.
    pub strategy: Option<&'static str>,
    /// The share of the chunk that is in blocks, from 0 to 1, where it was counted.
    pub fill: Option<f32>,
    /// Whether its run is one block.
    pub is_whole_block: bool,
    /// Whether its heap was closed, and blocks outlive it.
    pub is_orphan: bool,
    /// Whether a run starts here.
    pub is_first: bool,
}

impl Label {
    /// A run is taken of which this is a chunk. By whoever takes it.
    pub fn set(&self, labelled: Labelled, strategy: StrategyNumber) {
        let mut word = labelled.account & ACCOUNT_MASK;
        word |= fill_code(labelled.fill) << FILL_SHIFT;
        word |= if labelled.is_whole_block { IS_WHOLE_BLOCK } else { 0 };
        word |= if labelled.is_first { IS_FIRST } else { 0 };
        word |= u64::from(strategy.0) << STRATEGY_SHIFT;
        // Relaxed, here and below: a map shows what was there at about that time, and no memory is
        // reached by it.
        self.word.store(word, Ordering::Relaxed);
    }

    /// The chunk was counted. By whoever runs its heap.
    pub fn set_fill(&self, used_bytes: usize, bytes: usize) {
        let share = used_bytes as f32 / bytes.max(1) as f32;
        let word = self.word.load(Ordering::Relaxed) & !(MOST_FILL << FILL_SHIFT);
        self.word.store(word | fill_code(Some(share)) << FILL_SHIFT, Ordering::Relaxed);
    }

    /// The chunk's heap is closed, and its run is not empty. By the closer.
    pub fn set_orphan(&self) {
        self.word.store(self.word.load(Ordering::Relaxed) | IS_ORPHAN, Ordering::Relaxed);
    }

    /// The chunk's run goes back. By whoever gives it back.
    pub fn clear(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// What it says now. For anyone.
    pub fn get(&self) -> Labelled {
        let word = self.word.load(Ordering::Relaxed);
        let fill = (word >> FILL_SHIFT) & MOST_FILL;
        Labelled {
            account: word & ACCOUNT_MASK,
            strategy: StrategyNumber((word >> STRATEGY_SHIFT) as u8).name(),
            fill: fill.checked_sub(1).map(|steps| steps as f32 / (MOST_FILL - 1) as f32),
            is_whole_block: word & IS_WHOLE_BLOCK != 0,
            is_orphan: word & IS_ORPHAN != 0,
            is_first: word & IS_FIRST != 0,
        }
    }
}

/// A share in 254 steps, from 1 on; 0 for none. What holds anything is not shown as empty.
fn fill_code(share: Option<f32>) -> u64 {
    share.map_or(0, |share| 1 + (share.clamp(0.0, 1.0) * (MOST_FILL - 1) as f32).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "a strategy";

    fn label() -> Label {
        Label { word: AtomicU64::new(0) }
    }

    #[test]
    fn says_what_was_set() {
        let label = label();
        assert_eq!(label.get(), Labelled::default());
        let account = 123_456_789_012;
        let labelled = Labelled { account, is_first: true, ..Labelled::default() };
        label.set(labelled, StrategyNumber::of(&NAME));
        assert_eq!(label.get(), Labelled { strategy: Some(NAME), ..labelled });
        label.set_fill(1, 64 << 10);
        let fill = label.get().fill.unwrap();
        assert!(fill > 0.0 && fill < 0.01, "{fill}");
        label.set_fill(64 << 10, 64 << 10);
        label.set_orphan();
        let said = label.get();
        assert_eq!((said.account, said.fill, said.is_orphan), (account, Some(1.0), true));
        label.set_fill(0, 64 << 10);
        assert_eq!(label.get().fill, Some(0.0));
        label.clear();
        assert_eq!(label.get(), Labelled::default());
    }
}

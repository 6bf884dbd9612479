//! Who holds a block of a store in place, and which block a key means.
//!
//! ```text
//!   key word      generation │ record          pins word      owned │ busy │ counted readers
//!                              └────────────────▶ of the record
//!   lanes         the records that are read, told by their readers
//! ```
//! A reader finds the record in the key's word, announces it in a [lane](super::lanes), and looks
//! whether the key still means that record, for it may have been freed and used for another, and
//! whether the record is busy. Where its lane is full it counts itself in the pins word instead.
//! While a record has readers its block neither moves nor goes. Who wants to move or overwrite a
//! block claims it, and then goes through the lanes: if it is read there, the claim is given up.
//! Readers that come meanwhile wait for the end of the copy. Freeing takes the ownership away;
//! whoever leaves the word at zero, the last counted reader, the mover or the one who freed, gives
//! the block back, unless it is announced: then it is withheld until it is not.

use super::lanes::{Announcement, Lanes, announce, in_one_order, scan};
use super::{AtomicU64, Ordering};

const OWNED: u64 = 1 << 63;
const BUSY: u64 = 1 << 62;
/// Readers are counted below the flags: so many that no program can count up into them.
const READER: u64 = 1;

// Loom must find the models failing with these weakened.
#[inline]
fn pin() -> Ordering {
    weakened!("pins_pin", Ordering::Relaxed, Ordering::Acquire)
}
#[inline]
fn look() -> Ordering {
    weakened!("pins_look", Ordering::Relaxed, Ordering::SeqCst)
}
#[inline]
fn finish() -> Ordering {
    weakened!("pins_finish", Ordering::Relaxed, Ordering::Release)
}
#[inline]
fn unpin() -> Ordering {
    weakened!("pins_unpin", Ordering::Relaxed, Ordering::AcqRel)
}
#[inline]
fn claim() -> Ordering {
    weakened!("pins_claim", Ordering::Acquire, Ordering::SeqCst)
}
#[inline]
fn unclaim() -> Ordering {
    weakened!("pins_unclaim", Ordering::Relaxed, Ordering::AcqRel)
}
#[inline]
fn read_meaning() -> Ordering {
    weakened!("pins_meaning", Ordering::Acquire, Ordering::SeqCst)
}
#[inline]
fn change() -> Ordering {
    weakened!("pins_change", Ordering::AcqRel, Ordering::SeqCst)
}

/// What holds a block where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// Readers, as far as they are counted.
    Pinned,
    /// Somebody copies to or from it, and is done soon.
    Busy,
    /// It is not owned, and no counted reader has it: it is being given back, or withheld for
    /// those that announced it, or the record is unused.
    Gone,
}

/// The readers, the owner and the mover of one block.
#[derive(Debug)]
pub struct Pins {
    word: AtomicU64,
}

impl Pins {
    /// Of an unused record.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Of an unused record.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    fn hold(word: u64) -> Hold {
        if word & BUSY != 0 {
            Hold::Busy
        } else if word & !OWNED != 0 {
            Hold::Pinned
        } else if word == OWNED {
            Hold::Nothing
        } else {
            Hold::Gone
        }
    }

    /// What holds the block. May be outdated as soon as it is known.
    pub fn look(&self) -> Hold {
        // Acquire pairs with the Release in `finish` and `unclaim`: where nothing holds it, the
        // record is as the last claim left it.
        Self::hold(self.word.load(Ordering::Acquire))
    }

    /// Whether it is owned. May be outdated as soon as it is known.
    pub fn is_owned(&self) -> bool {
        self.word.load(Ordering::Relaxed) & OWNED != 0
    }

    /// Makes the record of a new block owned and claimed. Called by who took the unused record.
    pub fn begin(&self) {
        // Relaxed: the record is told of by the key's word, or found under the lock.
        self.word.store(OWNED | BUSY, Ordering::Relaxed);
    }

    /// Ends the claim that [`begin`](Self::begin) made, before any key means the record.
    #[inline]
    pub fn finish(&self) {
        // Release pairs with the Acquire in `claim`, `pin` and `look`. A store, for nobody else has
        // changed the word: it allows no pin and no claim, and only who changed a key disowns.
        self.word.store(OWNED, finish());
    }

    /// Whether a reader that has announced the block may read it; else what keeps it from that.
    #[inline]
    fn look_announced(&self) -> Result<(), Hold> {
        // SeqCst comes after the announcement in the order of all threads, and pairs with `claim`.
        // Acquire pairs with the Release in `unclaim`: what was copied to the block is seen.
        in_one_order(announce(), look());
        let word = self.word.load(look());
        if word & (OWNED | BUSY) == OWNED {
            return Ok(());
        }
        Err(if word & BUSY != 0 { Hold::Busy } else { Hold::Gone })
    }

    /// Pins the block by counting, unless it is busy or gone; else says which.
    pub fn pin(&self) -> Result<(), Hold> {
        // That nobody counts is guessed first: a look would fetch the cache line from another
        // reader's processor to share it, and the exchange would ask for it once more.
        let mut word = OWNED;
        while word & (OWNED | BUSY) == OWNED {
            // Acquire pairs with the Release in `unclaim`: what was copied to the block is seen.
            match self.word.compare_exchange_weak(word, word + READER, pin(), Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => word = current,
            }
        }
        // Acquire, as in `disown`: a key that was changed before it is found changed.
        match Self::hold(self.word.load(Ordering::Acquire)) {
            Hold::Busy => Err(Hold::Busy),
            _ => Err(Hold::Gone),
        }
    }

    /// Ends a counted pin. True if the block is to be given back by the caller.
    #[must_use]
    pub fn unpin(&self) -> bool {
        // Release pairs with the Acquire in `claim`, and with that of whoever gives the block back:
        // what was read is read before the memory is written. Acquire: the same, if it is this one.
        self.word.fetch_sub(READER, unpin()) == READER
    }

    /// Claims the block for a copy to or from it, if nothing that is counted holds it; else says
    /// what does. If it is announced after that, it is read, and the claim is to be given up.
    #[inline]
    pub fn claim(&self) -> Result<(), Hold> {
        // Acquire pairs with the Release in `unpin` and `unclaim`; SeqCst comes before the caller's
        // way through the lanes in the order of all threads.
        match self.word.compare_exchange(OWNED, OWNED | BUSY, claim(), Ordering::Relaxed) {
            Ok(_) => {
                in_one_order(claim(), scan());
                Ok(())
            }
            // What held it may have ended since: then the caller may as well try again.
            Err(word) => Err(Self::hold(word)),
        }
    }

    /// Ends a claim. True if the block is to be given back by the caller.
    #[inline]
    #[must_use]
    pub fn unclaim(&self) -> bool {
        // Release pairs with the Acquire in `pin` and `claim`. Acquire: with `disown`.
        self.word.fetch_and(!BUSY, unclaim()) == BUSY
    }

    /// As [`disown`](Self::disown), but only where nothing that is counted holds the block; else it
    /// does nothing.
    #[inline]
    #[must_use]
    pub fn disown_unheld(&self) -> bool {
        // As in `disown`.
        self.word.compare_exchange(OWNED, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the ownership away; once, by who changed the key. True if the block is to be given
    /// back by the caller.
    #[inline]
    #[must_use]
    pub fn disown(&self) -> bool {
        // Acquire pairs with the Release in `unpin` and `unclaim`. Release pairs with the Acquire
        // of whoever gives the block back, and of readers that find it gone.
        self.word.fetch_and(!OWNED, Ordering::AcqRel) == OWNED
    }
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

/// What a key's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Odd while the key is in use. A key means a record only in its own generation.
    pub generation: u32,
    /// The record.
    pub record: u32,
}

impl Meaning {
    fn to_word(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.record)
    }

    fn from_word(word: u64) -> Self {
        Self { generation: (word >> 32) as u32, record: word as u32 }
    }
}

/// What one key means.
#[derive(Debug)]
pub struct KeyWord {
    word: AtomicU64,
}

impl KeyWord {
    /// Of a key never used: generation 0.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Of a key never used: generation 0.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// What it means.
    #[inline]
    pub fn meaning(&self) -> Meaning {
        // Acquire pairs with the Release in `publish` and `change`; SeqCst comes after a reader's
        // announcement in the order of all threads.
        Meaning::from_word(self.word.load(read_meaning()))
    }

    /// Gives the key a meaning. Called by who took the unused key.
    pub fn publish(&self, meaning: Meaning) {
        // Release pairs with the Acquire in `meaning`.
        self.word.store(meaning.to_word(), Ordering::Release);
    }

    /// Changes the meaning if it is still the old one.
    pub fn change(&self, old: Meaning, new: Meaning) -> bool {
        // As in `publish` and `meaning`; SeqCst comes before the way through the lanes of whoever
        // gives the block back.
        let (old, new) = (old.to_word(), new.to_word());
        let is_changed = self.word.compare_exchange(old, new, change(), Ordering::Relaxed).is_ok();
        if is_changed {
            in_one_order(change(), scan());
        }
        is_changed
    }
}

impl Default for KeyWord {
    fn default() -> Self {
        Self::new()
    }
}

/// What has pins.
pub trait Pinned {
    /// Its pins.
    fn pins(&self) -> &Pins;
}

/// What keeps a block in place for one reader.
#[derive(Debug)]
pub enum Pin<'a, R> {
    /// Told in a lane.
    Announced(Announcement<'a>),
    /// Counted in the record.
    Counted(&'a R, u32),
}

impl<R: Pinned> Pin<'_, R> {
    /// Ends it; once. The number of the record whose block is to be given back by the caller.
    #[inline]
    #[must_use]
    pub fn end(&self) -> Option<u32> {
        match self {
            Self::Announced(announcement) => {
                announcement.withdraw();
                None
            }
            Self::Counted(record, number) => record.pins().unpin().then_some(*number),
        }
    }
}

/// How a store's readers find and hold records.
pub struct Readers<'a, Find, Wait, GiveBack> {
    /// Where they are announced.
    pub lanes: &'a Lanes,
    /// The calling thread's lane.
    pub lane: usize,
    /// Finds a record by its number.
    pub record: Find,
    /// Called while a record is busy, with the number of calls before.
    pub wait: Wait,
    /// Gives a block back whose last holder this was.
    pub give_back: GiveBack,
}

impl<'a, R, Find, Wait, GiveBack> Readers<'a, Find, Wait, GiveBack>
where
    R: Pinned + 'a,
    Find: Fn(u32) -> Option<&'a R>,
    Wait: Fn(u32),
    GiveBack: Fn(u32),
{
    /// Pins the record that `key` means in this generation; `None` if it means none any more.
    #[inline]
    pub fn pin(&self, key: &KeyWord, generation: u32) -> Option<(Pin<'a, R>, &'a R)> {
        let mut waited = 0;
        loop {
            let meaning = key.meaning();
            if meaning.generation != generation {
                return None;
            }
            let record = (self.record)(meaning.record)?;
            let Some(announcement) = self.lanes.announce(self.lane, meaning.record) else {
                return self.pin_counted(key, generation);
            };
            // The record was this key's when it was read. If it is still, then whoever takes it
            // away finds the announcement; and so does who claims it, if it is not busy now.
            in_one_order(announce(), read_meaning());
            let found = if key.meaning() == meaning {
                record.pins().look_announced()
            } else {
                Err(Hold::Gone)
            };
            match found {
                Ok(()) => return Some((Pin::Announced(announcement), record)),
                Err(hold) => {
                    announcement.withdraw();
                    self.wait_if(hold, &mut waited);
                }
            }
        }
    }

    /// As [`pin`](Self::pin), by counting.
    #[cold]
    #[inline(never)]
    fn pin_counted(&self, key: &KeyWord, generation: u32) -> Option<(Pin<'a, R>, &'a R)> {
        let mut waited = 0;
        loop {
            let meaning = key.meaning();
            if meaning.generation != generation {
                return None;
            }
            let record = (self.record)(meaning.record)?;
            match record.pins().pin() {
                // If it has become another block's since it was read, then the key was changed
                // before, and that is seen, for `pin` acquired it.
                Ok(()) if key.meaning() == meaning => {
                    return Some((Pin::Counted(record, meaning.record), record));
                }
                Ok(()) => {
                    if record.pins().unpin() {
                        (self.give_back)(meaning.record);
                    }
                }
                Err(hold) => self.wait_if(hold, &mut waited),
            }
        }
    }

    /// Waits where a copy is under way. Where the record is gone the key was changed before.
    #[inline]
    fn wait_if(&self, hold: Hold, waited: &mut u32) {
        if hold == Hold::Busy {
            (self.wait)(*waited);
            *waited = waited.saturating_add(1);
        }
    }
}

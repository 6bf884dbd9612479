//! Who holds a block of a store in place, and which block a key means.
//!
//! ```text
//!   key word      generation │ record          pins word      owned │ busy │ readers
//!                              └────────────────▶ of the record
//! ```
//! A reader finds the record in the key's word, pins the record by one compare-and-swap, and looks
//! whether the key still means that record: between the two the block may have been freed, and the
//! record used for another. While a record has readers its block neither moves nor goes. Who wants
//! to move or overwrite a block claims it, which only an owned block without readers allows;
//! readers that come meanwhile wait for the end of the copy. Freeing takes the ownership away;
//! whoever leaves the word at zero, the last reader, the mover or the one who freed, gives the
//! block back.

use super::{AtomicU64, Ordering};

const OWNED: u64 = 1 << 63;
const BUSY: u64 = 1 << 62;
/// Readers are counted below the flags: so many that no program can count up into them.
const READER: u64 = 1;

// Loom must find the models failing with these weakened.
const PIN: Ordering =
    if cfg!(heapswitch_weaken = "pins_pin") { Ordering::Relaxed } else { Ordering::Acquire };
const UNPIN: Ordering =
    if cfg!(heapswitch_weaken = "pins_unpin") { Ordering::Relaxed } else { Ordering::AcqRel };
const UNCLAIM: Ordering =
    if cfg!(heapswitch_weaken = "pins_unclaim") { Ordering::Relaxed } else { Ordering::AcqRel };

/// What holds a block where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// Readers.
    Pinned,
    /// Somebody copies to or from it, and is done soon.
    Busy,
    /// It is not owned, and nobody reads it: it is being given back, or the record is unused.
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
        Self::hold(self.word.load(Ordering::Relaxed))
    }

    /// Makes the record of a new block owned and claimed. Called by who took the unused record.
    pub fn begin(&self) {
        // Relaxed: the record is told of by the key's word, or found under the lock.
        self.word.store(OWNED | BUSY, Ordering::Relaxed);
    }

    /// Pins the block unless it is busy or gone; else says which.
    #[inline]
    pub fn pin(&self) -> Result<(), Hold> {
        // That nobody reads the block is guessed first: a look would fetch the cache line from
        // another reader's processor to share it, and the exchange would ask for it once more.
        let mut word = OWNED;
        while word & (OWNED | BUSY) == OWNED {
            // Acquire pairs with the Release in `unclaim`: what was copied to the block is seen.
            match self.word.compare_exchange_weak(word, word + READER, PIN, Ordering::Relaxed) {
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

    /// Ends a pin. True if the block is to be given back by the caller.
    #[inline]
    #[must_use]
    pub fn unpin(&self) -> bool {
        // Release pairs with the Acquire in `claim`, and with that of whoever gives the block back:
        // what was read is read before the memory is written. Acquire: the same, if it is this one.
        self.word.fetch_sub(READER, UNPIN) == READER
    }

    /// Claims the block for a copy to or from it, if nothing holds it; else says what does.
    #[inline]
    pub fn claim(&self) -> Result<(), Hold> {
        // Acquire pairs with the Release in `unpin` and `unclaim`.
        let claimed =
            self.word.compare_exchange(OWNED, OWNED | BUSY, Ordering::Acquire, Ordering::Relaxed);
        match claimed {
            Ok(_) => Ok(()),
            // What held it may have ended since: then the caller may as well try again.
            Err(word) => Err(Self::hold(word)),
        }
    }

    /// Ends a claim. True if the block is to be given back by the caller.
    #[inline]
    #[must_use]
    pub fn unclaim(&self) -> bool {
        // Release pairs with the Acquire in `pin` and `claim`. Acquire: with `disown`.
        self.word.fetch_and(!BUSY, UNCLAIM) == BUSY
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
        // Acquire pairs with the Release in `publish` and `change`.
        Meaning::from_word(self.word.load(Ordering::Acquire))
    }

    /// Gives the key a meaning. Called by who took the unused key.
    pub fn publish(&self, meaning: Meaning) {
        // Release pairs with the Acquire in `meaning`.
        self.word.store(meaning.to_word(), Ordering::Release);
    }

    /// Changes the meaning if it is still the old one.
    pub fn change(&self, old: Meaning, new: Meaning) -> bool {
        // As in `publish` and `meaning`.
        let (old, new) = (old.to_word(), new.to_word());
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
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

/// Pins the record that `key` means in this generation; `None` if it means none any more.
///
/// `record` finds a record by its number. `wait` is called while it is busy, with the number of
/// calls before. `give_back` gives a block back whose last holder this was.
#[inline]
pub fn pin_by_key<'a, R: Pinned>(
    key: &KeyWord,
    generation: u32,
    record: impl Fn(u32) -> Option<&'a R>,
    mut wait: impl FnMut(u32),
    give_back: impl Fn(u32),
) -> Option<(u32, &'a R)> {
    let mut waited = 0;
    loop {
        let meaning = key.meaning();
        if meaning.generation != generation {
            return None;
        }
        let found = record(meaning.record)?;
        match found.pins().pin() {
            // The record was this key's when it was read; if it has become another block's since,
            // then the key was changed before, and that is seen, for `pin` acquired it.
            Ok(()) if key.meaning() == meaning => return Some((meaning.record, found)),
            Ok(()) => {
                if found.pins().unpin() {
                    give_back(meaning.record);
                }
            }
            Err(Hold::Busy) => {
                wait(waited);
                waited = waited.saturating_add(1);
            }
            // The key was changed before the record lost its owner.
            Err(_) => {}
        }
    }
}

//! Settings by the environment, which stand above the macro's.
//!
//! Read once, without allocating, when the program's allocator is used first; not in set-user-ID
//! programs, whose environment is another's. What makes no sense, a value or a name that was meant
//! for one of these, is reported on the standard error, and changes nothing. `settings.md` is the
//! table of all.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::configuration::Settings;
use super::heap_placement::HeapPlacement;
use crate::region::{HugePages, MAX_PERIOD_MILLISECONDS};
use crate::sys;
use crate::sys::environment::{self, variable};

/// What all variables' names begin with.
const PREFIX: &str = "HEAPSWITCH_";

/// The longest part of a wrong value or name that is shown, in bytes.
const SHOWN_BYTES: usize = 64;

/// A name that begins as a variable's, by so many bytes, was meant for one.
const MEANT_BYTES: usize = 4;

/// What a variable says, as a number and one; 0 where it says nothing.
struct Said(AtomicU64);

impl Said {
    const fn nothing() -> Self {
        Self(AtomicU64::new(0))
    }

    fn get(&self) -> Option<u64> {
        // Relaxed: a number, valid in itself, stored before there is a second thread.
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// One variable.
struct Variable {
    /// Its name behind the prefix; in lower case the macro's key.
    name: &'static str,
    takes: Takes,
    said: Said,
}

/// The values of a variable.
#[derive(Clone, Copy)]
enum Takes {
    /// The position of a word.
    Word(&'static [&'static str]),
    /// A whole number up to this.
    Number(u64),
}

const FLAG: Takes = Takes::Word(&["false", "true"]);
const PAGES: Takes = Takes::Word(&["system", "never", "transparent", "grown"]);
const PLACES: Takes =
    Takes::Word(&["home", "bind", "interleave", "weighted_interleave", "local", "process"]);

const DECAY: usize = 0;
const PURGE_THREAD: usize = 1;
const COROUTINE_HUGE_PAGES: usize = 2;
const THREAD_HUGE_PAGES: usize = 3;
const COROUTINE_PLACEMENT: usize = 4;
const THREAD_PLACEMENT: usize = 5;
const STATISTICS: usize = 6;

/// In the order of `settings.md`.
static VARIABLES: [Variable; 7] = [
    Variable::new("DECAY_MILLISECONDS", Takes::Number(MAX_PERIOD_MILLISECONDS)),
    Variable::new("PURGE_THREAD", FLAG),
    Variable::new("COROUTINE_HUGE_PAGES", PAGES),
    Variable::new("THREAD_HUGE_PAGES", PAGES),
    Variable::new("COROUTINE_PLACEMENT", PLACES),
    Variable::new("THREAD_PLACEMENT", PLACES),
    Variable::new("STATISTICS", FLAG),
];

impl Variable {
    const fn new(name: &'static str, takes: Takes) -> Self {
        Self { name, takes, said: Said::nothing() }
    }

    fn read(&self) {
        let Some(value) = variable(PREFIX, self.name) else { return };
        match self.takes.parse(value) {
            Some(number) => self.said.0.store(number + 1, Ordering::Relaxed),
            None => self.complain(value),
        }
    }

    #[cold]
    fn complain(&self, value: &[u8]) {
        let shown = shown(value);
        let mut digits = [0; sys::DECIMAL_BYTES];
        let start =
            ["the environment variable ", PREFIX, self.name, " is `", shown, "`, and takes "];
        let mut parts = [""; 24];
        let mut filled = 0;
        let mut add = |part| {
            if let Some(slot) = parts.get_mut(filled) {
                *slot = part;
                filled += 1;
            }
        };
        start.into_iter().for_each(&mut add);
        match self.takes {
            Takes::Number(most) => {
                add("a whole number from 0 to ");
                add(sys::decimal(most, &mut digits));
            }
            Takes::Word(words) => {
                for (index, &word) in words.iter().enumerate() {
                    add(if index == 0 { "" } else { " or " });
                    add(word);
                }
            }
        }
        add("; it is ignored");
        sys::complain_with(&parts);
    }
}

/// As much of what the environment says as is shown of it.
fn shown(said: &[u8]) -> &str {
    let shown = said.get(..said.len().min(SHOWN_BYTES)).unwrap_or_default();
    core::str::from_utf8(shown).unwrap_or("no text")
}

/// The variable that a name was meant for which is none: one that begins so, in small letters or
/// capitals. Others are somebody else's.
fn meant_by(name: &[u8]) -> Option<&'static Variable> {
    let is_one = |variable: &Variable| variable.name.as_bytes() == name;
    let begins_so = |variable: &&Variable| {
        let start = variable.name.as_bytes().get(..MEANT_BYTES).unwrap_or_default();
        name.get(..MEANT_BYTES).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
    };
    let alike = |variable: &Variable| {
        let pairs = variable.name.bytes().zip(name);
        pairs.take_while(|(one, other)| one.eq_ignore_ascii_case(other)).count()
    };
    if VARIABLES.iter().any(is_one) {
        return None;
    }
    VARIABLES.iter().filter(begins_so).max_by_key(|variable| alike(variable))
}

#[cold]
fn complain_of_name(name: &[u8], meant: &Variable) {
    let (unknown, known) = (shown(name), meant.name);
    sys::complain_with(&[
        "the environment variable ",
        PREFIX,
        unknown,
        " is no setting: was ",
        PREFIX,
        known,
        " meant? ",
        "It is ignored",
    ]);
}

impl Takes {
    fn parse(self, value: &[u8]) -> Option<u64> {
        match self {
            Self::Word(words) => {
                words.iter().position(|word| word.as_bytes() == value).map(|index| index as u64)
            }
            Self::Number(most) => {
                let digits = core::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
                digits?.parse().ok().filter(|&number| number <= most)
            }
        }
    }
}

fn said(index: usize) -> Option<u64> {
    VARIABLES.get(index)?.said.get()
}

fn flag(index: usize, otherwise: bool) -> bool {
    said(index).map_or(otherwise, |number| number != 0)
}

fn pages(index: usize, otherwise: HugePages) -> HugePages {
    match said(index) {
        Some(0) => HugePages::System,
        Some(1) => HugePages::Never,
        Some(2) => HugePages::Transparent,
        Some(_) => HugePages::Grown,
        None => otherwise,
    }
}

fn placement(index: usize, otherwise: HeapPlacement) -> HeapPlacement {
    match said(index) {
        Some(0) => HeapPlacement::Home,
        Some(1) => HeapPlacement::Bind,
        Some(2) => HeapPlacement::Interleave,
        Some(3) => HeapPlacement::WeightedInterleave,
        Some(4) => HeapPlacement::Local,
        Some(_) => HeapPlacement::Process,
        None => otherwise,
    }
}

/// Reads the variables, once there is an environment to read. Whether that is so.
pub(super) fn read() -> bool {
    static WAS_READ: AtomicBool = AtomicBool::new(false);
    if WAS_READ.load(Ordering::Relaxed) {
        return true;
    }
    let is_there = sys::environment::is_there();
    if is_there {
        VARIABLES.iter().for_each(Variable::read);
        for name in environment::names(PREFIX) {
            if let Some(meant) = meant_by(name) {
                complain_of_name(name, meant);
            }
        }
        // After that, so that nobody goes on without them. To read them twice does no harm.
        WAS_READ.store(true, Ordering::Relaxed);
    }
    is_there
}

/// The settings as the environment changes them.
pub(super) fn over(settings: Settings) -> Settings {
    Settings {
        coroutine_huge_pages: pages(COROUTINE_HUGE_PAGES, settings.coroutine_huge_pages),
        thread_huge_pages: pages(THREAD_HUGE_PAGES, settings.thread_huge_pages),
        coroutine_placement: placement(COROUTINE_PLACEMENT, settings.coroutine_placement),
        thread_placement: placement(THREAD_PLACEMENT, settings.thread_placement),
        decay_milliseconds: said(DECAY).unwrap_or(settings.decay_milliseconds),
        has_purge_thread: flag(PURGE_THREAD, settings.has_purge_thread),
        has_statistics: flag(STATISTICS, settings.has_statistics),
        ..settings
    }
}

/// Whether something that is done once is still to be done.
pub(super) struct Once(AtomicU8);

impl Once {
    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// True the first time.
    pub(super) fn is_first(&self) -> bool {
        // Relaxed: nothing is published by it.
        self.0.swap(1, Ordering::Relaxed) == 0
    }

    /// Makes the next time the first again.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_documented() {
        let rows = include_str!("settings.md").lines().skip(2);
        let rows: Vec<Vec<&str>> =
            rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
        assert_eq!(rows.len(), VARIABLES.len());
        for (row, variable) in rows.iter().zip(&VARIABLES) {
            let key = format!("`{}`", variable.name.to_lowercase());
            let values = match variable.takes {
                Takes::Number(most) => format!("a whole number from 0 to {most}"),
                // As one writes them.
                Takes::Word(&["false", "true"]) => "`true` or `false`".to_owned(),
                Takes::Word(words) => {
                    let (last, others) = words.split_last().unwrap();
                    format!("`{}` or `{last}`", others.join("`, `"))
                }
            };
            assert_eq!(row[..3], [key, format!("`{PREFIX}{}`", variable.name), values]);
        }
    }

    #[test]
    fn values_are_taken_or_not() {
        let parse = |takes: Takes, text: &str| takes.parse(text.as_bytes());
        assert_eq!(parse(FLAG, "true"), Some(1));
        assert_eq!(parse(FLAG, "false"), Some(0));
        assert_eq!(parse(PAGES, "transparent"), Some(2));
        assert_eq!(parse(Takes::Number(10), "10"), Some(10));
        assert_eq!(parse(Takes::Number(10), "0"), Some(0));
        for wrong in ["", "1", "yes", "True", " true"] {
            assert_eq!(parse(FLAG, wrong), None);
        }
        for wrong in ["", "11", "-1", "+1", "1 ", "0x1", "99999999999999999999999"] {
            assert_eq!(parse(Takes::Number(10), wrong), None);
        }
        assert_eq!(Takes::Number(10).parse(&[0xFF]), None);
    }
}

//! The load: contexts that grow, end and leave something behind, always in the same way.
//!
//! A step lets each context allocate a little, inside its heap, and ends those that have all they
//! wanted or are over their budget. Steps run on whichever thread calls them.

use std::collections::VecDeque;
use std::hint::black_box;

use heapswitch::{Account, Heap, HeapError};

/// Contexts at a time.
const CONTEXTS: usize = 18;

/// Results that the cache keeps, each in the memory of a query that has ended.
const CACHED: usize = 40;

/// What a context is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Query,
    Session,
    Import,
}

/// One context with what it made.
#[derive(Debug)]
struct Context {
    work: Work,
    data: Vec<Vec<u8>>,
    wanted_bytes: usize,
    made_bytes: usize,
    heap: Heap,
}

/// All contexts, and what outlives them.
#[derive(Debug)]
pub(crate) struct Load {
    groups: [Account; 3],
    contexts: Vec<Context>,
    cache: VecDeque<Vec<u8>>,
    made: usize,
    over_budget: usize,
    random: u64,
}

impl Load {
    /// Without contexts yet.
    pub(crate) fn new() -> Result<Self, HeapError> {
        let group = |name, limit, each| -> Result<Account, HeapError> {
            Ok(Account::new(name)?.with_limit(limit).with_limit_each(each))
        };
        Ok(Self {
            groups: [
                group("queries", 32 << 20, 4 << 20)?,
                group("sessions", 8 << 20, 1 << 20)?,
                group("imports", 48 << 20, 16 << 20)?,
            ],
            contexts: Vec::with_capacity(CONTEXTS),
            cache: VecDeque::with_capacity(CACHED + 1),
            made: 0,
            over_budget: 0,
            random: 1,
        })
    }

    /// The accounts above the contexts.
    pub(crate) fn groups(&self) -> &[Account] {
        &self.groups
    }

    /// Contexts that were ended because they were over their budget.
    pub(crate) fn over_budget(&self) -> usize {
        self.over_budget
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as usize % end
    }

    fn open(&mut self) -> Result<Context, HeapError> {
        self.made += 1;
        let (work, group, most) = match self.made % 6 {
            0 => (Work::Import, 2, 12 << 20),
            1 | 4 => (Work::Session, 1, 600 << 10),
            // Some want more than their budget has.
            _ => (Work::Query, 0, 5 << 20),
        };
        let name = format!("{work:?} {}", self.made).to_lowercase();
        let wanted_bytes = most / 8 + self.below(most);
        let heap = Heap::builder().name(&name).charged_to(&self.groups[group]).build()?;
        Ok(Context { work, data: Vec::new(), wanted_bytes, made_bytes: 0, heap })
    }

    /// Lets each context go on.
    pub(crate) fn step(&mut self) -> Result<(), HeapError> {
        if self.contexts.len() < CONTEXTS {
            let context = self.open()?;
            self.contexts.push(context);
        }
        let contexts = std::mem::take(&mut self.contexts);
        for mut context in contexts {
            let seed = self.below(256);
            context.go_on(seed)?;
            if context.heap.account().is_over_budget {
                self.over_budget += 1;
            } else if context.made_bytes < context.wanted_bytes {
                self.contexts.push(context);
                continue;
            }
            self.end(context)?;
        }
        Ok(())
    }

    /// Ends a context; one result in two of queries is remembered by all.
    fn end(&mut self, context: Context) -> Result<(), HeapError> {
        let Context { work, data, made_bytes, heap, .. } = context;
        if work == Work::Query && made_bytes.is_multiple_of(2) {
            let result = heap.run(|| remember_result(&data))?;
            self.cache.push_back(result);
        }
        drop(data);
        heap.close();
        if self.cache.len() > CACHED {
            self.cache.pop_front();
        }
        Ok(())
    }
}

impl Context {
    fn go_on(&mut self, seed: usize) -> Result<(), HeapError> {
        let Self { work, data, heap, .. } = self;
        self.made_bytes += heap.run(|| {
            let before = data.len();
            match work {
                Work::Query => data.extend((0..40).map(|index| read_row(seed * 7 + index))),
                Work::Session => data.push(receive_message(100 + seed * 20)),
                Work::Import => data.push(fill_buffer((64 + seed) << 10)),
            }
            data.iter().skip(before).map(Vec::len).sum::<usize>()
        })?;
        Ok(())
    }
}

/// One row of a query.
#[inline(never)]
fn read_row(number: usize) -> Vec<u8> {
    black_box(vec![number as u8; 300 + number % 1500])
}

/// What a session was sent.
#[inline(never)]
fn receive_message(bytes: usize) -> Vec<u8> {
    black_box(vec![1; bytes])
}

/// A part of an import.
#[inline(never)]
fn fill_buffer(bytes: usize) -> Vec<u8> {
    black_box(vec![2; bytes])
}

/// The result that outlives its query.
#[inline(never)]
fn remember_result(rows: &[Vec<u8>]) -> Vec<u8> {
    black_box(rows.iter().take(3).flatten().copied().collect())
}

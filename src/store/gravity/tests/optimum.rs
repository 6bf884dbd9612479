//! How much is moved: beside the least that could be, and in the long run.

use std::collections::BTreeMap;

use super::super::*;
use super::with_store;

const UNITS: usize = 14;
const MOST_BLOCKS: usize = 5;

/// Numbers that look random and are the same in each run.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

/// Blocks by their starts and lengths in units.
type Layout = Vec<(usize, usize)>;

fn has_hole(layout: &Layout, length: usize) -> bool {
    let mut sorted = layout.clone();
    sorted.sort_unstable();
    sorted.push((UNITS, 0));
    let mut end = 0;
    sorted.into_iter().any(|(start, units)| {
        let is_hole = start - end >= length;
        end = start + units;
        is_hole
    })
}

fn overlaps(layout: &Layout, which: usize, start: usize) -> bool {
    let end = start + layout[which].1;
    let others = layout.iter().enumerate().filter(|(other, _)| *other != which);
    others.into_iter().any(|(_, (at, units))| start < at + units && *at < end)
}

/// The least units that any series of moves, of any block to any free place, has to move.
fn least_moved(layout: &Layout, length: usize) -> usize {
    let number = |layout: &Layout| layout.iter().fold(0, |sum, (start, _)| sum * UNITS + start);
    let mut done = vec![false; UNITS.pow(MOST_BLOCKS as u32)];
    let mut by_cost = BTreeMap::from([(0, vec![layout.clone()])]);
    loop {
        let mut entry = by_cost.first_entry().expect("pushing all to one end makes the hole");
        let cost = *entry.key();
        let Some(layout) = entry.get_mut().pop() else {
            entry.remove();
            continue;
        };
        if std::mem::replace(&mut done[number(&layout)], true) {
            continue;
        }
        if has_hole(&layout, length) {
            return cost;
        }
        for which in 0..layout.len() {
            for start in 0..=UNITS - layout[which].1 {
                if !overlaps(&layout, which, start) {
                    let mut next = layout.clone();
                    next[which].0 = start;
                    if !done[number(&next)] {
                        by_cost.entry(cost + layout[which].1).or_default().push(next);
                    }
                }
            }
        }
    }
}

/// A store whose blocks lie at random, and how long a block is that only fits if some are moved.
fn scatter(
    numbers: &mut Numbers,
    store: &GravityStore<impl MemorySource>,
) -> Option<(Layout, usize)> {
    let mut keys = Vec::new();
    let mut start = 0;
    while start < UNITS {
        let length = (1 + numbers.below(4)).min(UNITS - start);
        keys.push((store.write(&vec![0; length]).unwrap(), start, length));
        start += length;
    }
    let kept = keys.len().min(2 + numbers.below(MOST_BLOCKS - 1));
    while keys.len() > kept {
        let (key, ..) = keys.swap_remove(numbers.below(keys.len()));
        store.free(key).unwrap();
    }
    let layout = keys.into_iter().map(|(_, start, length)| (start, length)).collect();
    let usage = store.usage();
    let more = usage.free_bytes - usage.largest_slot_bytes;
    (more > 0).then(|| (layout, usage.largest_slot_bytes + 1 + numbers.below(more)))
}

#[test]
fn little_more_is_moved_than_must_be() {
    let mut numbers = Numbers(1);
    let (mut ratios, mut worst) = (Vec::new(), (0.0, Vec::new(), 0));
    while ratios.len() < 200 {
        with_store(UNITS, 1, |store| {
            let Some((layout, length)) = scatter(&mut numbers, store) else { return };
            let least = least_moved(&layout, length);
            store.write(&vec![1; length]).unwrap();
            let ratio = store.usage().moved_bytes as f64 / least as f64;
            assert!(ratio >= 1.0, "{layout:?} {length}: the search is not exhaustive");
            if ratio > worst.0 {
                worst = (ratio, layout, length);
            }
            ratios.push(ratio);
        });
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    let exact = ratios.iter().filter(|ratio| **ratio == 1.0).count();
    println!(
        "moved, as a multiple of the least: mean {mean:.3}, worst {:.2} ({:?} for {}), least in \
         {exact} of {}",
        worst.0,
        worst.1,
        worst.2,
        ratios.len()
    );
    assert!(mean <= 2.0, "{mean}");
}

/// What was moved by random replacement, for each byte written, where one part of `free_part` is
/// free. Values' sizes differ by a factor of 64. Everything that fits in what is free is written.
fn moved_at_fill(free_part: usize) -> (f64, u64) {
    const CAPACITY: usize = 1 << 18;
    let (mut ratio, mut compactions) = (0.0, 0);
    with_store(CAPACITY, 8, |store| {
        let mut numbers = Numbers(7);
        let mut keys = Vec::new();
        let bytes = vec![1; 1024];
        let fill = |numbers: &mut Numbers, keys: &mut Vec<Key>| {
            loop {
                let size: usize = 16 << numbers.below(7) >> numbers.below(2);
                let free = store.usage().free_bytes;
                if free <= CAPACITY / free_part || size.next_multiple_of(8) > free {
                    return;
                }
                keys.push(store.write(&bytes[..size]).expect("it fits in what is free"));
            }
        };
        fill(&mut numbers, &mut keys);
        let before = store.usage();
        for _ in 0..2000 {
            let key = keys.swap_remove(numbers.below(keys.len()));
            store.free(key).unwrap();
            fill(&mut numbers, &mut keys);
        }
        let after = store.usage();
        let written = after.written_bytes - before.written_bytes;
        ratio = (after.moved_bytes - before.moved_bytes) as f64 / written as f64;
        compactions = after.compactions - before.compactions;
        let depth = store.shared.settled_space().slots.depth();
        println!(
            "one part of {free_part} free: {} blocks, {} slots in a tree {depth} deep; \
             {compactions} compactions, moved for each byte written: {ratio:.4}",
            after.blocks, after.slots
        );
        assert!(depth < 64, "{depth}");
    });
    (ratio, compactions)
}

#[test]
fn what_fits_is_written_and_little_is_moved_for_it() {
    let (ratio, _) = moved_at_fill(10);
    assert!(ratio < 0.1, "{ratio}");
    let (ratio, _) = moved_at_fill(30);
    assert!(ratio < 0.025, "{ratio}");
    let (ratio, compactions) = moved_at_fill(100);
    assert!(compactions > 50, "nearly nothing had to be moved");
    assert!(ratio < 1.0, "{ratio}");
}

//! Random operations against a plain model: a list of blocks and what stands in them.

use allocator_api2::alloc::Allocator;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Block, Limits, Make, PLENTY, TestSource, are_zero, layout, resize, with};

#[derive(Clone, Copy, Debug)]
enum Action {
    Allocate { size: usize, align: usize, is_zeroed: bool },
    Free { which: usize, by_length: bool },
    Resize { which: usize, size: usize, align: usize, by_length: bool },
}

/// The model.
#[derive(Default)]
struct Model {
    blocks: Vec<Block>,
    steps: usize,
}

impl Model {
    /// Does it; an allocator that refuses must leave everything as it is.
    fn step(&mut self, allocator: &dyn Allocator, action: Action) {
        self.steps += 1;
        let seed = self.steps as u8;
        match action {
            Action::Allocate { size, align, is_zeroed } => {
                let layout = layout(size, align);
                let result = if is_zeroed {
                    allocator.allocate_zeroed(layout)
                } else {
                    allocator.allocate(layout)
                };
                let Ok(bytes) = result else { return };
                if is_zeroed {
                    // SAFETY: allocated and, being zeroed, written.
                    assert!(are_zero(unsafe { bytes.as_ref() }));
                }
                self.blocks.push(Block::new(bytes, layout, seed));
            }
            Action::Free { which, by_length } => {
                if let Some(block) = self.pick(which) {
                    block.free(allocator, by_length);
                }
            }
            Action::Resize { which, size, align, by_length } => {
                if let Some(block) = self.pick(which) {
                    block.check(block.bytes.len());
                    let resized = resize(allocator, block, layout(size, align), by_length);
                    self.blocks.push(resized);
                }
            }
        }
    }

    fn pick(&mut self, which: usize) -> Option<Block> {
        let index = which.checked_rem(self.blocks.len())?;
        Some(self.blocks.swap_remove(index))
    }

    fn free_all(self, allocator: &dyn Allocator) {
        self.blocks.into_iter().for_each(|block| block.free(allocator, false));
    }
}

fn actions(limits: Limits) -> impl Strategy<Value = Vec<Action>> {
    let size = prop_oneof![4 => 1..200usize, 2 => 1..5000usize, 1 => 1..100_000usize]
        .prop_map(move |size| size.min(limits.max_size));
    let align = prop_oneof![6 => 0..5u32, 1 => 0..14u32]
        .prop_map(move |shift| (1usize << shift).min(limits.max_align));
    let action = prop_oneof![
        4 => (size.clone(), align.clone(), any::<bool>())
            .prop_map(|(size, align, is_zeroed)| Action::Allocate { size, align, is_zeroed }),
        3 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, by_length)| Action::Free { which, by_length }),
        2 => (any::<usize>(), size, align, any::<bool>()).prop_map(
            |(which, size, align, by_length)| Action::Resize { which, size, align, by_length }
        ),
    ];
    prop::collection::vec(action, 1..200)
}

/// Short random runs, shrunk to the shortest that fails.
pub(crate) fn random(make: Make<'_>, limits: Limits) {
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&actions(limits), |actions| {
        with(make, PLENTY, |allocator| {
            let mut model = Model::default();
            actions.iter().for_each(|&action| model.step(allocator, action));
            model.free_all(allocator);
        });
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// A generator whose sequence is the same on every run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    fn action(&mut self, limits: Limits, live: usize, target: usize) -> Action {
        let scale = [40, 40, 300, 300, 3000, 40_000][self.below(6)];
        let size = (1 + self.below(scale)).min(limits.max_size);
        let shift = if self.below(10) == 0 { self.below(13) } else { self.below(5) };
        let align = (1 << shift).min(limits.max_align);
        let (which, by_length) = (self.below(1 << 30), self.below(2) == 0);
        match self.below(8) {
            0 => Action::Resize { which, size, align, by_length },
            // Few are freed below the target and few allocated above it, so the count swings.
            kind if (kind < 5) == (live < target) => {
                Action::Allocate { size, align, is_zeroed: by_length }
            }
            _ => Action::Free { which, by_length },
        }
    }
}

/// One long run, in which the number of live blocks rises and falls.
pub(crate) fn random_long(make: Make<'_>, limits: Limits) {
    for source in [TestSource::new(PLENTY), TestSource::new(PLENTY).zeroed()] {
        let allocator = make(source.clone());
        let mut sequence = Sequence(2024);
        let mut model = Model::default();
        for step in 0..12_000 {
            let target = [20, 400, 5, 900][step / 1000 % 4];
            model.step(&*allocator, sequence.action(limits, model.blocks.len(), target));
        }
        model.free_all(&*allocator);
        drop(allocator);
        source.assert_all_returned();
    }
}

/// A source that fails from the n-th take on, and later works again: nothing is lost or changed.
pub(crate) fn failing_source(make: Make<'_>, limits: Limits) {
    for nth in 1..24 {
        let source = TestSource::new(PLENTY);
        let allocator = make(source.clone());
        let mut sequence = Sequence(nth as u64);
        let mut model = Model::default();
        for step in 0..600 {
            match step {
                100 => source.fail_from(nth),
                400 => source.fail_from(0),
                _ => {}
            }
            model.step(&*allocator, sequence.action(limits, model.blocks.len(), 300));
        }
        model.free_all(&*allocator);
        drop(allocator);
        source.assert_all_returned();
    }
}

//! Random use by one thread, beside a map.

use proptest::prelude::*;

use super::super::*;
use super::with_store;
use crate::source::BorrowedSliceSource;

type Store<'a> = GravityStore<&'a BorrowedSliceSource<'a>>;

#[derive(Clone, Debug)]
enum Action {
    Write(usize),
    Free(usize),
    Replace(usize, usize),
    Read(usize),
    Release(usize),
    Step(usize),
    UseFreed(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let length = prop_oneof![4 => 0..40_usize, 1 => 0..300_usize];
    let action = prop_oneof![
        6 => length.clone().prop_map(Action::Write),
        3 => any::<usize>().prop_map(Action::Free),
        2 => (any::<usize>(), length).prop_map(|(which, length)| Action::Replace(which, length)),
        2 => any::<usize>().prop_map(Action::Read),
        2 => any::<usize>().prop_map(Action::Release),
        1 => (0..200_usize).prop_map(Action::Step),
        1 => any::<usize>().prop_map(Action::UseFreed),
    ];
    proptest::collection::vec(action, 1..250)
}

#[derive(Default)]
struct Model<'a> {
    live: Vec<(Key, Vec<u8>)>,
    freed: Vec<Key>,
    guards: Vec<(ReadGuard<'a>, *const u8, Vec<u8>)>,
    writes: u8,
}

impl<'a> Model<'a> {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        self.writes = self.writes.wrapping_add(1);
        (0..length).map(|at| self.writes.wrapping_mul(31).wrapping_add(at as u8)).collect()
    }

    /// Whether the store was right not to write.
    fn check_refusal(&self, store: &Store<'_>, length: usize, error: WriteError) {
        let usage = store.usage();
        let granule = store.shared.granule();
        let needed = length.max(1).next_multiple_of(granule);
        match error {
            WriteError::Full { asked_bytes, free_bytes } => {
                assert_eq!((asked_bytes, free_bytes), (length, usage.free_bytes));
                assert!(needed > free_bytes + usage.withheld_bytes);
            }
            WriteError::Pinned { asked_bytes, free_bytes, pinned_bytes } => {
                assert_eq!((asked_bytes, free_bytes), (length, usage.free_bytes));
                assert!(needed <= free_bytes + usage.withheld_bytes);
                let mut pinned: Vec<_> =
                    self.guards.iter().map(|(_, at, bytes)| (*at, bytes.len())).collect();
                pinned.sort_unstable();
                pinned.dedup();
                let held: usize = pinned
                    .iter()
                    .map(|(_, length)| (*length).max(1).next_multiple_of(granule))
                    .sum();
                assert_eq!(pinned_bytes, held);
                assert!(held > 0, "refused for guards that are not there");
            }
            WriteError::NoRecords => panic!("there is memory"),
        }
    }

    fn run(&mut self, store: &'a Store<'a>, action: &Action) {
        match *action {
            Action::Write(length) => {
                let bytes = self.bytes(length);
                match store.write(&bytes) {
                    Ok(key) => self.live.push((key, bytes)),
                    Err(error) => self.check_refusal(store, length, error),
                }
            }
            Action::Free(which) => {
                if let Some(which) = which.checked_rem(self.live.len()) {
                    let (key, _) = self.live.swap_remove(which);
                    store.free(key).unwrap();
                    self.freed.push(key);
                }
            }
            Action::Replace(which, length) => {
                if let Some(which) = which.checked_rem(self.live.len()) {
                    let bytes = self.bytes(length);
                    match store.replace(self.live[which].0, &bytes) {
                        Ok(()) => self.live[which].1 = bytes,
                        Err(ReplaceError::Write(error)) => {
                            self.check_refusal(store, length, error);
                        }
                        Err(ReplaceError::NoSuchKey(_)) => panic!("the key is live"),
                    }
                }
            }
            Action::Read(which) => {
                if let Some(which) = which.checked_rem(self.live.len()) {
                    let (key, bytes) = &self.live[which];
                    let guard = store.read(*key).unwrap();
                    let at = guard.as_ptr();
                    self.guards.push((guard, at, bytes.clone()));
                }
            }
            Action::Release(which) => {
                if let Some(which) = which.checked_rem(self.guards.len()) {
                    self.guards.swap_remove(which);
                }
            }
            Action::Step(most) => {
                store.compact_step(most);
            }
            Action::UseFreed(which) => {
                if let Some(which) = which.checked_rem(self.freed.len()) {
                    let key = self.freed[which];
                    assert!(store.read(key).is_err() && store.free(key).is_err());
                    let error = store.replace(key, b"x").unwrap_err();
                    assert_eq!(error, ReplaceError::NoSuchKey(NoSuchKey));
                }
            }
        }
    }

    fn check(&self, store: &Store<'_>) {
        for (guard, at, bytes) in &self.guards {
            assert_eq!((guard.as_ptr(), &**guard), (*at, &**bytes));
        }
        for (key, bytes) in &self.live {
            assert_eq!(&*store.read(*key).unwrap(), &**bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_a_map(actions in actions(), shift in 0..5_u32) {
        with_store(512, 1 << shift, |store| {
            let mut model = Model::default();
            for action in &actions {
                model.run(store, action);
                store.verify();
                model.check(store);
            }
        });
    }

    /// As below, and all is as it should be in between, where blocks have slack, too.
    #[test]
    fn the_store_is_whole_with_slack(actions in actions(), every in 1..40_usize) {
        with_store(4096, 1, |store| {
            let mut model = Model::default();
            for (number, action) in actions.iter().enumerate() {
                model.run(store, action);
                model.check(store);
                if number % every == 0 {
                    store.verify();
                }
            }
        });
    }

    /// Nobody asks what is free until a write is refused, so freed blocks wait in a stash, which
    /// keeps the 32nd part of the store.
    #[test]
    fn the_store_agrees_with_a_map_by_its_stash(actions in actions()) {
        with_store(4096, 1, |store| {
            let mut model = Model::default();
            for action in &actions {
                model.run(store, action);
                model.check(store);
            }
        });
    }
}

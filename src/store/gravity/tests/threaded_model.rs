//! Random use by several threads at once, beside a map that they share.
//!
//! Each entry of the map is written by the thread that owns it, and read by all. Its lock is held
//! while the store is asked, so what the store says of it is known to the byte; entries of other
//! threads are worked on meanwhile.

use std::thread;

use proptest::prelude::*;

use super::super::*;
use super::threads::join;
use super::with_store;
use crate::source::BorrowedSliceSource;
// The standard library's waits where ThreadSanitizer does not see it.
use crate::sys::lock::Lock;

type Store<'a> = GravityStore<&'a BorrowedSliceSource<'a>>;

const THREADS: usize = 3;
const OWNED: usize = 12;

#[derive(Clone, Debug)]
enum Action {
    /// Writes to an entry that is empty, replaces what is in one that is not.
    Put(usize, usize),
    Free(usize),
    /// Reads an entry of any thread, and keeps the guard.
    Read(usize),
    Release(usize),
    Step(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let length = prop_oneof![4 => 0..60_usize, 1 => 0..500_usize];
    let action = prop_oneof![
        6 => (0..OWNED, length).prop_map(|(entry, length)| Action::Put(entry, length)),
        3 => (0..OWNED).prop_map(Action::Free),
        4 => (0..OWNED * THREADS).prop_map(Action::Read),
        3 => any::<usize>().prop_map(Action::Release),
        1 => (0..200_usize).prop_map(Action::Step),
    ];
    proptest::collection::vec(action, 50..200)
}

type Entry = Lock<Option<(Key, Vec<u8>)>>;

/// Whether an error is one that there may be: what is pinned is told, and it is asked for.
fn check_refusal(error: WriteError, length: usize) {
    match error {
        WriteError::Full { asked_bytes, .. } => assert_eq!(asked_bytes, length),
        WriteError::Pinned { asked_bytes, pinned_bytes, .. } => {
            assert_eq!(asked_bytes, length);
            assert!(pinned_bytes > 0, "refused for guards that are not there");
        }
        WriteError::NoRecords => panic!("there is memory"),
    }
}

fn put(store: &Store<'_>, entry: &Entry, bytes: Vec<u8>) {
    let mut entry = entry.lock();
    match &mut *entry {
        None => match store.write(&bytes) {
            Ok(key) => *entry = Some((key, bytes)),
            Err(error) => check_refusal(error, bytes.len()),
        },
        Some((key, old)) => match store.replace(*key, &bytes) {
            Ok(()) => *old = bytes,
            Err(ReplaceError::Write(error)) => check_refusal(error, bytes.len()),
            Err(ReplaceError::NoSuchKey(_)) => panic!("the key is live"),
        },
    }
}

fn run(store: &Store<'_>, entries: &[Entry], owner: usize, actions: &[Action]) {
    let own = |entry: usize| &entries[owner * OWNED + entry];
    let mut guards: Vec<(ReadGuard<'_>, *const u8, Vec<u8>)> = Vec::new();
    for (number, action) in actions.iter().enumerate() {
        match *action {
            Action::Put(entry, length) => {
                let byte = |at| (owner * 91 + number * 31 + at) as u8;
                put(store, own(entry), (0..length).map(byte).collect());
            }
            Action::Free(entry) => {
                let mut entry = own(entry).lock();
                if let Some((key, _)) = entry.take() {
                    store.free(key).unwrap();
                    assert!(store.read(key).is_err() && store.free(key).is_err());
                }
            }
            Action::Read(entry) => {
                let entry = entries[entry].lock();
                if let Some((key, bytes)) = &*entry {
                    let guard = store.read(*key).unwrap();
                    assert_eq!(&*guard, &**bytes);
                    let at = guard.as_ptr();
                    guards.push((guard, at, bytes.clone()));
                }
            }
            Action::Release(which) => {
                if let Some(which) = which.checked_rem(guards.len()) {
                    let (guard, at, bytes) = guards.swap_remove(which);
                    assert_eq!((guard.as_ptr(), &*guard), (at, &*bytes));
                }
            }
            Action::Step(most) => {
                store.compact_step(most);
            }
        }
    }
    for (guard, at, bytes) in &guards {
        assert_eq!((guard.as_ptr(), &**guard), (*at, &**bytes));
    }
}

proptest! {
    // What threads do does not repeat, so there is nothing to be shrunk.
    #![proptest_config(ProptestConfig {
        cases: 24,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn threads_agree_with_a_map(
        actions in proptest::array::uniform3(actions()),
        (granule_shift, capacity_shift) in (0..5_u32, 10..13_u32),
    ) {
        with_store(1 << capacity_shift, 1 << granule_shift, |store| {
            let entries: Vec<Entry> = (0..THREADS * OWNED).map(|_| Lock::new(None)).collect();
            thread::scope(|scope| {
                let threads = core::array::from_fn::<_, THREADS, _>(|owner| {
                    let (entries, actions) = (&entries, &actions[owner]);
                    scope.spawn(move || run(store, entries, owner, actions))
                });
                threads.into_iter().for_each(join);
            });
            store.verify();
            let usage = store.usage();
            let mut live = 0;
            for entry in entries {
                if let Some((key, bytes)) = entry.lock().take() {
                    assert_eq!(&*store.read(key).unwrap(), &*bytes);
                    store.free(key).unwrap();
                    live += 1;
                }
            }
            assert_eq!((usage.blocks, usage.withheld_bytes), (live, 0));
            assert_eq!(store.usage().free_bytes, usage.capacity_bytes);
        });
    }
}

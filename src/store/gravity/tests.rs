//! The store: at its borders, against a model, beside the best there is, and shared by threads.

mod fit;
mod model;
mod optimum;
mod pressure;
mod pull;
mod slack;
mod threaded_model;
mod threads;

use core::mem::MaybeUninit;

use super::plan::{Outcome, Planner};
use super::*;
use crate::source::BorrowedSliceSource;

/// Runs `test` with a store of so many bytes, on memory that there is where mappings are refused.
fn with_store(
    capacity_bytes: usize,
    granule_bytes: usize,
    test: impl FnOnce(&GravityStore<&BorrowedSliceSource<'_>>),
) {
    let mut memory = vec![MaybeUninit::new(0xa5_u8); capacity_bytes + 2 * granule_bytes + 64];
    let source = BorrowedSliceSource::new(&mut memory);
    let store =
        GravityStore::new_in(&source, GravitySettings { capacity_bytes, granule_bytes }).unwrap();
    test(&store);
    store.verify();
    drop(store);
    assert_eq!(source.free_bytes(), source.usable_bytes());
}

#[test]
fn bytes_are_kept_replaced_and_freed() {
    with_store(1024, 16, |store| {
        let empty = store.write(b"").unwrap();
        let text = store.write(b"a text that is longer than one granule").unwrap();
        assert!(store.read(empty).unwrap().is_empty());
        let guard = store.read(text).unwrap();
        assert!(guard.as_ptr().addr().is_multiple_of(16));
        assert_eq!(&*guard, b"a text that is longer than one granule");
        store.replace(text, b"short").unwrap();
        assert_eq!(&*guard, b"a text that is longer than one granule");
        assert_eq!(&*store.read(text).unwrap(), b"short");
        let place = store.read(text).unwrap().as_ptr();
        store.replace(text, b"other").unwrap();
        assert_eq!(
            (&*store.read(text).unwrap(), store.read(text).unwrap().as_ptr()),
            (&b"other"[..], place)
        );
        assert_eq!(store.usage().withheld_bytes, 48);
        drop(guard);
        assert_eq!((store.usage().withheld_bytes, store.usage().free_bytes), (0, 1024 - 32));
        store.free(text).unwrap();
        assert_eq!(store.free(text), Err(NoSuchKey));
        assert_eq!(store.replace(text, b"x"), Err(ReplaceError::NoSuchKey(NoSuchKey)));
        assert!(store.read(text).is_err() && !store.contains(text) && store.contains(empty));
    });
}

#[test]
fn a_key_never_means_what_another_wrote() {
    with_store(256, 8, |store| {
        let key = store.write(b"mine").unwrap();
        store.free(key).unwrap();
        let other = store.write(b"theirs").unwrap();
        // The same number, another generation.
        assert_eq!(other.index, key.index);
        assert!(store.read(key).is_err() && store.free(key).is_err());
        with_store(256, 8, |foreign| {
            let here = foreign.write(b"here").unwrap();
            assert_eq!((here.index, here.generation), (0, 1));
            assert!(store.read(here).is_err() && foreign.read(other).is_err());
            assert_eq!(store.replace(here, b""), Err(ReplaceError::NoSuchKey(NoSuchKey)));
        });
        let last = Key { generation: u32::MAX, ..other };
        let word = store.shared.key_word(other).unwrap();
        word.publish(crate::sync::pins::Meaning { generation: u32::MAX, ..word.meaning() });
        assert_eq!(&*store.read(last).unwrap(), b"theirs");
        store.free(last).unwrap();
        assert_ne!(store.write(b"next").unwrap().index, last.index);
        assert!(store.read(last).is_err());
    });
}

#[test]
fn a_store_is_as_large_as_its_page_says() {
    assert!(size_of::<GravityStore>() <= 9 << 10, "{}", size_of::<GravityStore>());
    assert_eq!(size_of::<super::table::Record>() + size_of::<crate::sync::pins::KeyWord>(), 32);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let mut memory = vec![MaybeUninit::uninit(); 4096];
    let source = BorrowedSliceSource::new(&mut memory);
    for (capacity_bytes, granule_bytes) in [(64, 0), (64, 3), (64, 8192), (7, 8), (1 << 40, 8)] {
        let settings = GravitySettings { capacity_bytes, granule_bytes };
        let error = GravityStore::new_in(&source, settings).unwrap_err();
        assert_eq!(error, GravityError::Settings { capacity_bytes, granule_bytes });
    }
    let error = GravityStore::new_in(&source, GravitySettings::new(8192)).unwrap_err();
    assert_eq!(error, GravityError::NoMemory { bytes: 8192 });
}

#[test]
fn a_full_store_says_what_is_free() {
    with_store(64, 8, |store| {
        let key = store.write(&[1; 40]).unwrap();
        let error = WriteError::Full { asked_bytes: 25, free_bytes: 24 };
        assert_eq!(store.write(&[2; 25]), Err(error));
        assert_eq!(
            store.replace(key, &[2; 32]),
            Err(ReplaceError::Write(WriteError::Full { asked_bytes: 32, free_bytes: 24 }))
        );
        assert_eq!(&*store.read(key).unwrap(), [1; 40]);
        store.write(&[3; 24]).unwrap();
        let error = WriteError::Full { asked_bytes: usize::MAX, free_bytes: 0 };
        // Far longer than any block can be; nothing of it is read.
        assert_eq!(store.shared.too_long(usize::MAX), Some(error));
        assert_eq!(store.write(b""), Err(WriteError::Full { asked_bytes: 0, free_bytes: 0 }));
    });
}

/// The thread that would have to wait is the one that holds the guard.
#[test]
fn what_readers_pin_is_an_error_at_once() {
    with_store(64, 8, |store| {
        let keys: Vec<_> = (0..8_u8).map(|n| store.write(&[n; 8]).unwrap()).collect();
        let guard = store.read(keys[3]).unwrap();
        for key in [0, 2, 4, 6] {
            store.free(keys[key]).unwrap();
        }
        // Slots 0, 2, 4, 6; block 1 may go to 0, 5 to 4 ... but nothing passes 3.
        assert_eq!(store.write(&[9; 24]).map(|_| ()), Ok(()));
        let error = WriteError::Pinned { asked_bytes: 16, free_bytes: 8, pinned_bytes: 8 };
        store.free(keys[3]).unwrap();
        assert_eq!(store.write(&[9; 16]), Err(error));
        assert_eq!((&*guard, store.usage().withheld_bytes), (&[3; 8][..], 8));
        drop(guard);
        let key = store.write(&[9; 16]).unwrap();
        assert_eq!(&*store.read(key).unwrap(), [9; 16]);
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| [1, 5, 7].contains(n)) {
            assert_eq!(&*store.read(*key).unwrap(), [n as u8; 8]);
        }
    });
}

#[test]
fn walls_that_leave_no_room_are_named() {
    with_store(64, 8, |store| {
        let keys: Vec<_> = (0..8_u8).map(|n| store.write(&[n; 8]).unwrap()).collect();
        let guards = [1, 3, 5].map(|n| store.read(keys[n]).unwrap());
        for key in [0, 2, 4, 6] {
            store.free(keys[key]).unwrap();
        }
        let error = WriteError::Pinned { asked_bytes: 32, free_bytes: 32, pinned_bytes: 24 };
        assert_eq!(store.write(&[9; 32]), Err(error));
        // At once: no search says that trying again may help.
        let mut space = store.shared.settled_space();
        let outcome = Planner::new(&mut space, &store.shared.tables).plan(4);
        let is_final = matches!(outcome, Outcome::Blocked { pinned_units: 3, is_unsettled: false });
        assert!(is_final, "{outcome:?}");
        drop(space);
        assert_eq!(store.compact_step(64), 0);
        drop(guards);
        let key = store.write(&[9; 32]).unwrap();
        assert_eq!(&*store.read(key).unwrap(), [9; 32]);
    });
}

/// Somebody who frees all the time, here one who has stopped in the middle of it, does not keep the
/// error from one who holds a guard.
#[test]
fn what_is_just_being_freed_delays_the_error_but_a_while() {
    with_store(64, 8, |store| {
        let keys: Vec<_> = (0..8_u8).map(|n| store.write(&[n; 8]).unwrap()).collect();
        let guard = store.read(keys[3]).unwrap();
        for key in [0, 2, 4, 6] {
            store.free(keys[key]).unwrap();
        }
        let (record, _) = store.shared.record(keys[5]).unwrap();
        assert!(record.pins.disown_unheld());
        let error = WriteError::Pinned { asked_bytes: 32, free_bytes: 32, pinned_bytes: 8 };
        assert_eq!(store.write(&[9; 32]), Err(error));
        drop(guard);
        record.pins.begin();
        record.pins.finish();
        assert!(store.write(&[9; 32]).is_ok());
    });
}

#[test]
fn steps_bring_the_slots_together() {
    with_store(4096, 8, |store| {
        let keys: Vec<_> = (0..64_u8).map(|n| store.write(&[n; 64]).unwrap()).collect();
        for key in keys.iter().step_by(3) {
            store.free(*key).unwrap();
        }
        assert!(store.usage().slots > 20);
        let mut steps = 0;
        loop {
            let moved = store.compact_step(200);
            store.verify();
            assert!(moved <= 200);
            if moved == 0 {
                break;
            }
            steps += 1;
        }
        let usage = store.usage();
        assert_eq!((usage.slots, usage.largest_slot_bytes), (1, usage.free_bytes));
        assert!(steps > 10);
        // One block at least, so that steps always lead somewhere.
        store.free(keys[1]).unwrap();
        assert_eq!(store.compact_step(1), 64);
        for (n, key) in keys.iter().enumerate().skip(2).filter(|(n, _)| n % 3 != 0) {
            assert_eq!(&*store.read(*key).unwrap(), [n as u8; 64]);
        }
    });
}

#[test]
fn steps_that_move_empty_values_lead_somewhere() {
    with_store(4096, 8, |store| {
        let keys: Vec<_> = (0..400).map(|_| store.write(b"").unwrap()).collect();
        for key in keys.iter().step_by(2) {
            store.free(*key).unwrap();
        }
        let moved_before = store.usage().moved_bytes;
        let moved: usize = std::iter::repeat_with(|| store.compact_step(64))
            .inspect(|moved| assert!(*moved <= 64))
            .take_while(|moved| *moved != 0)
            .sum();
        store.verify();
        let usage = store.usage();
        assert_eq!((usage.slots, usage.largest_slot_bytes), (1, usage.free_bytes));
        assert_eq!(moved as u64, usage.moved_bytes - moved_before);
        assert!(keys.iter().skip(1).step_by(2).all(|key| store.read(*key).unwrap().is_empty()));
    });
}

/// Frees every other value, writes one that only fits where they were, and looks at all; then
/// `look` is shown the store.
#[cfg(not(heapswitch_pass_through))]
fn serves<S: MemorySource>(source: S, values: usize, look: impl FnOnce(&GravityStore<S>)) {
    let store = GravityStore::new_in(source, GravitySettings::new(values * 1000)).unwrap();
    let keys: Vec<_> = (0..values).map(|n| store.write(&[n as u8; 1000]).unwrap()).collect();
    for key in keys.iter().step_by(2) {
        store.free(*key).unwrap();
    }
    let large = store.write(&vec![7; values * 500]).unwrap();
    assert!(store.usage().moved_bytes > 0);
    assert!(store.read(large).unwrap().iter().all(|byte| *byte == 7));
    for (n, key) in keys.iter().enumerate().skip(1).step_by(2) {
        assert_eq!(&*store.read(*key).unwrap(), [n as u8; 1000]);
    }
    store.verify();
    look(&store);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn mappings_and_files_serve() {
    use crate::source::{FileMemorySource, FileSettings};

    serves(MemoryMapSource::new(), 300, |_| {});
    let path = std::env::temp_dir().join(format!("heapswitch-gravity-{}", std::process::id()));
    // SAFETY: the file is this test's, which only reads it.
    let file = unsafe { FileMemorySource::open(&path, FileSettings::default()) };
    serves(file.unwrap(), 300, |store| {
        // What is in the store is in the file.
        let file = std::fs::read(&path).unwrap();
        assert!(file.windows(1000).any(|bytes| bytes == [3; 1000]), "{}", file.len());
        assert!(store.usage().blocks > 0);
    });
    std::fs::remove_file(&path).unwrap();
}

/// Huge pages that the process reserved, or those of which the system makes some: they back the
/// store, or the system says that it has none.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn huge_pages_serve() {
    use crate::numa::Residence;
    use crate::source::memory_map::Step;
    use crate::source::{HugePages, MemoryMapSettings};

    const VALUES: usize = 8000;
    let settings = MemoryMapSettings::new().granule(2 << 20).alignment(2 << 20);
    let backing = |store: &GravityStore<MemoryMapSource>| {
        let range = store.range;
        Residence::of_range(range.start, range.length).ok().and_then(|pages| pages.backing())
    };
    let explicit = settings.huge_pages(HugePages::Explicit { shift: 21 });
    serves(MemoryMapSource::with_settings(explicit).unwrap(), VALUES, |store| {
        match (store.source.refusals().next(), backing(store)) {
            (Some(refusal), _) => {
                assert_eq!(refusal.step, Step::HugePages);
                println!("not tested here: explicit huge pages: {refusal:?}");
            }
            (None, Some(backing)) => {
                assert_eq!(backing.page_bytes, 2 << 20);
                assert!(backing.explicit_huge_bytes >= VALUES * 1000, "{backing:?}");
            }
            (None, None) => println!("not tested here: the system does not tell"),
        }
    });
    let transparent = settings.huge_pages(HugePages::Transparent);
    serves(MemoryMapSource::with_settings(transparent).unwrap(), VALUES, |store| {
        let setting =
            |name| std::fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
        // Where nothing is made free for them when they are touched, they are chance.
        let is_possible = setting("enabled").is_ok_and(|modes| !modes.contains("[never]"))
            && setting("defrag")
                .is_ok_and(|modes| !modes.contains("[never]") && !modes.contains("[defer]"));
        match backing(store) {
            Some(backing) if is_possible && cfg!(not(any(heapswitch_asan, heapswitch_tsan))) => {
                // Most of it, for the kernel may not have had them all at hand.
                assert!(backing.transparent_huge_bytes >= VALUES * 500, "{backing:?}");
            }
            other => println!("not tested here: transparent huge pages: {other:?}"),
        }
    });
}

//! What leaves the heap it was made in: grown, shrunk, read and freed by others, while the heap
//! runs, is suspended, is closed, and after its thread has ended.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "escaping/bytes.rs"]
mod bytes;
#[path = "support/hints.rs"]
mod hints;
#[path = "escaping/sites.rs"]
mod sites;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, OnceLock, mpsc};
use std::thread;

use heapswitch::{Heap, HeapSwitch, flush_foreign_frees};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// What the heap's thread does while others use what was made in the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Runs,
    IsSuspended,
    IsClosed,
    ThreadEnded,
    ThreadEndedThenClosed,
}

const OWNERS: [Owner; 5] = [
    Owner::Runs,
    Owner::IsSuspended,
    Owner::IsClosed,
    Owner::ThreadEnded,
    Owner::ThreadEndedThenClosed,
];

/// Makes a value in a heap on another thread and uses it here, while that thread does as it is
/// told.
fn use_elsewhere<T: Send + 'static>(
    heap: Heap,
    owner: Owner,
    make: fn() -> T,
    use_value: impl FnOnce(T),
) {
    let (to_here, from_there) = mpsc::channel();
    let (to_there, from_here) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let value = heap.run(make).unwrap();
        match owner {
            Owner::Runs => {
                let scope = heap.enter().unwrap();
                to_here.send((value, None)).unwrap();
                while from_here.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    drop(vec![1_u8; 5000]);
                    thread::yield_now();
                }
                drop(scope);
            }
            Owner::IsSuspended => {
                to_here.send((value, None)).unwrap();
                from_here.recv().unwrap();
                heap.release_unused().unwrap();
                heap.verify().unwrap();
            }
            Owner::IsClosed => {
                heap.close();
                to_here.send((value, None)).unwrap();
                from_here.recv().unwrap();
            }
            Owner::ThreadEnded | Owner::ThreadEndedThenClosed => {
                to_here.send((value, Some(heap))).unwrap();
            }
        }
    });
    let (value, mut heap) = from_there.recv().unwrap();
    let mut other = Some(other);
    if heap.is_some() {
        other.take().unwrap().join().unwrap();
    }
    if owner == Owner::ThreadEndedThenClosed {
        heap = None;
    }
    use_value(value);
    flush_foreign_frees();
    if let Some(heap) = heap {
        heap.release_unused().unwrap();
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0, "{owner:?}");
    }
    if let Some(other) = other {
        to_there.send(()).unwrap();
        other.join().unwrap();
    }
}

fn in_every_case<T: Send + 'static>(make: fn() -> T, use_value: impl Fn(T)) {
    let watch = Heap::new().unwrap();
    for hint in HINTS {
        for owner in OWNERS {
            let heap = Heap::builder().hint(hint).parent(&watch).build().unwrap();
            use_elsewhere(heap, owner, make, &use_value);
            assert_eq!(watch.account().committed_bytes, 0, "{hint:?} {owner:?}");
        }
    }
}

#[test]
fn strings_are_freed_elsewhere() {
    in_every_case(
        || (0..500).map(|number| format!("{number}").repeat(number)).collect::<Vec<_>>(),
        |strings| {
            for (number, string) in strings.into_iter().enumerate() {
                assert_eq!(string, format!("{number}").repeat(number));
            }
        },
    );
}

#[test]
fn others_grow_and_shrink() {
    in_every_case(
        || (1..200_u8).map(|byte| vec![byte; usize::from(byte) * 37]).collect::<Vec<_>>(),
        |mut vectors| {
            for (byte, vector) in (1_u8..).zip(&mut vectors) {
                let first = vec![byte; vector.len()];
                vector.reserve_exact(1);
                vector.shrink_to_fit();
                vector.extend_from_slice(&[byte; 3000]);
                vector.truncate(first.len());
                vector.shrink_to_fit();
                assert_eq!(*vector, first);
                vector.truncate(1);
                vector.shrink_to_fit();
                vector.resize(100_000, byte);
                assert!(vector.iter().all(|&each| each == byte));
                vector.truncate(70_000);
                vector.shrink_to_fit();
                assert_eq!(vector[69_999], byte);
            }
        },
    );
}

#[test]
fn others_grow_runs_of_their_own() {
    in_every_case(
        || (1..20_usize).map(|number| vec![number; number * 20_000]).collect::<Vec<_>>(),
        |vectors| {
            for (number, mut vector) in (1_usize..).zip(vectors) {
                vector.resize(number * 20_000 + 1, number);
                vector.shrink_to_fit();
                vector.resize(number * 50_000, number);
                vector.truncate(number);
                vector.shrink_to_fit();
                assert_eq!(vector, vec![number; number]);
            }
        },
    );
}

#[test]
fn what_others_grow_never_lands_in_their_own_context() {
    for hint in HINTS {
        let made = Heap::with_hint(hint).unwrap().run(|| vec![5_u8; 3000]).unwrap();
        let request = Heap::with_hint(hint).unwrap();
        let grown = request
            .run(|| {
                let mut grown = made;
                grown.resize(20_000, 6);
                grown
            })
            .unwrap();
        assert!(!request.contains(grown.as_ptr()));
        assert_eq!(request.close().blocks, 0);
        assert_eq!((grown[0], grown[19_999]), (5, 6));
    }
}

#[test]
fn what_this_thread_freed_before_the_close_is_no_escapee() {
    for hint in HINTS {
        let mut heap = Heap::with_hint(hint).unwrap();
        drop(heap.run(|| vec![1_u8; 100]).unwrap());
        assert_eq!(heap.reset().unwrap().blocks, 0);
        drop(heap.run(|| vec![1_u8; 100]).unwrap());
        heap.release_unused().unwrap();
        assert_eq!(heap.memory_usage().unwrap().committed_bytes, 0);
        drop(heap.run(|| vec![1_u8; 100]).unwrap());
        assert_eq!(heap.close().blocks, 0, "{hint:?}");
    }
}

#[test]
fn maps_and_channels_grow_in_a_context_and_live_on() {
    for hint in HINTS {
        let mut map: HashMap<String, Vec<u64>> = HashMap::new();
        let mut tree = BTreeMap::new();
        let (sender, receiver) = mpsc::channel();
        map.insert("before".to_owned(), vec![1]);
        for round in 0..20_u64 {
            let heap = Heap::with_hint(hint).unwrap();
            heap.run(|| {
                for number in 0..200 {
                    let key = format!("{round} {number}");
                    map.entry(key.clone()).or_default().push(number);
                    tree.insert(key.clone(), number);
                    sender.send(key).unwrap();
                }
            })
            .unwrap();
            assert!(heap.close().blocks > 0);
        }
        let reader = thread::spawn(move || receiver.iter().collect::<Vec<_>>());
        drop(sender);
        let keys = reader.join().unwrap();
        assert_eq!((keys.len(), map.len(), tree.len()), (4000, 4001, 4000));
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(*key, format!("{} {}", index / 200, index % 200));
            assert_eq!(map.remove(key).unwrap(), [index as u64 % 200]);
            assert_eq!(tree.remove(key).unwrap(), index as u64 % 200);
        }
        assert_eq!(map.remove("before").unwrap(), [1]);
    }
}

static LAZY: LazyLock<Vec<String>> = LazyLock::new(|| vec!["lazy".repeat(100); 50]);
static ONCE: OnceLock<String> = OnceLock::new();
static GROWING: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static LOCAL: RefCell<Vec<String>> = RefCell::new(vec!["local".repeat(100)]);
}

#[test]
fn statics_first_filled_in_a_context_outlive_it() {
    thread::spawn(|| {
        let heap = Heap::new().unwrap();
        heap.run(|| {
            assert_eq!(LAZY.len(), 50);
            ONCE.get_or_init(|| "once".repeat(100));
            GROWING.lock().unwrap().extend((0..1000).map(|number| number.to_string()));
            LOCAL.with_borrow_mut(|local| local.push("more".repeat(100)));
        })
        .unwrap();
        assert!(heap.contains(LAZY.as_ptr().cast()));
        assert!(heap.close().blocks > 0);
        LOCAL.with_borrow_mut(|local| {
            local.push("after".to_owned());
            let all = ["local".repeat(100), "more".repeat(100), "after".to_owned()];
            assert_eq!(*local, all);
        });
    })
    .join()
    .unwrap();
    assert!(LAZY.iter().all(|text| *text == "lazy".repeat(100)));
    assert_eq!(*ONCE.get().unwrap(), "once".repeat(100));
    let mut growing = GROWING.lock().unwrap();
    growing.extend((1000..3000).map(|number| number.to_string()));
    assert!(growing.iter().enumerate().all(|(index, text)| *text == index.to_string()));
    *growing = Vec::new();
}

#[test]
fn a_heap_may_hold_its_own_handle() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let mut place = heap.run(|| Box::new(None)).unwrap();
        assert!(heap.contains((&raw const *place).cast()));
        *place = Some(heap);
        // Closes the heap, with the handle's own memory as the one escapee, and then frees that.
        drop(place);
    }
}

#[test]
fn a_panic_payload_made_on_another_threads_heap_reaches_the_joiner() {
    for hint in HINTS {
        let joined = thread::spawn(move || {
            let heap = Heap::with_hint(hint).unwrap();
            heap.run(|| std::panic::resume_unwind(Box::new(vec!["payload".to_owned(); 10])))
                .unwrap_or(())
        })
        .join();
        let payload = joined.unwrap_err().downcast::<Vec<String>>().unwrap();
        assert_eq!(payload.len(), 10);
        assert!(payload.iter().all(|text| text == "payload"));
    }
}

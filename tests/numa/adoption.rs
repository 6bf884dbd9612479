//! Heaps of ended threads: taken over on their node, and every page stays there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use heapswitch::numa::Node;
use heapswitch::sys::thread::Affinity;
use heapswitch::{HeapId, WorkerBuilder, process_usage, thread_heap_id, thread_home};

use crate::faults;
use crate::machine::nodes;
use crate::places::{Place, assert_local, has_several, places};

/// A few sizes a strategy's, of one to nine pages, and one block that is a run of its own.
const SIZES: [usize; 6] = [8, 100, 700, 3000, 9000, 36_000];

/// The heaps that threads had, with the home of each.
type Seen = Arc<Mutex<HashMap<HeapId, Node>>>;

/// Asks the kernel, past this crate, for every page of some blocks: all lie on `home`.
fn assert_all_on(home: Node, blocks: &[Vec<u8>]) {
    let pages = |block: &Vec<u8>| {
        let first = block.as_ptr().addr() / 4096;
        first..(block.as_ptr().addr() + block.len()).div_ceil(4096)
    };
    let mut addresses = [0_usize; 32];
    let mut count = 0;
    for page in blocks.iter().flat_map(pages) {
        addresses[count] = page * 4096;
        count += 1;
    }
    let mut nodes = [-1_i32; 32];
    // SAFETY: the arrays are valid for `count` entries; without targets nothing is moved.
    let result = unsafe {
        let none = std::ptr::null::<i32>();
        libc::syscall(libc::SYS_move_pages, 0, count, addresses.as_ptr(), none, &raw mut nodes, 0)
    };
    if result != 0 {
        // No NUMA: nothing to ask, and one node.
        return assert!(!has_several(), "{}", std::io::Error::last_os_error());
    }
    let nodes = &nodes[..count];
    assert!(nodes.iter().all(|&node| node == home.number() as i32), "{nodes:?}, wanted {home}");
}

/// What each of the threads does; gives what outlives it.
fn body(home: Node, is_looked_at_as_a_whole: bool, seen: &Seen) -> Vec<u8> {
    let mut blocks: Vec<_> = SIZES.iter().map(|&size| vec![1_u8; size]).collect();
    assert_all_on(home, &blocks);
    assert_eq!(thread_home(), has_several().then_some(home));
    let earlier = seen.lock().unwrap().insert(thread_heap_id().unwrap(), home);
    assert!(earlier.is_none_or(|earlier| earlier == home), "a heap came from node {earlier:?}");
    if is_looked_at_as_a_whole {
        assert_local(home);
    }
    blocks.swap_remove(2)
}

/// Starts threads, one after the other, on each of the places in turn, so many at a time.
fn start_in_turn(places: &[Place], threads: usize, seen: &Seen) {
    // On an emulated machine a change of the processor costs as much as ten threads.
    const AT_A_TIME: usize = 250;
    for number in 0..threads {
        let place = places[number / AT_A_TIME % places.len()];
        if number % AT_A_TIME == 0 {
            // Threads inherit it.
            Affinity::of(place.processor).unwrap().apply().unwrap();
        }
        let seen = Arc::clone(seen);
        let body = move || body(place.home, number % AT_A_TIME == AT_A_TIME - 1, &seen);
        // Freed here, from another thread than the one that made it, which has ended.
        drop(thread::spawn(body).join().unwrap());
    }
}

#[test]
fn heaps_of_ended_threads_are_adopted_on_their_node() {
    let _no_faults = faults::none();
    let places = places();
    // Emulated threads are slow: so many on the largest machine only.
    let threads = if nodes().len() == 4 { 10_000 } else { 500 };
    let seen = Seen::default();
    // A tenth on all nodes at once, the rest in turn, which on an emulated machine is far quicker.
    let each = threads / 10 / places.len();
    let start = |place: &Place| {
        let (place, seen) = (*place, Arc::clone(&seen));
        let starter = move || start_in_turn(&[place], each, &seen);
        WorkerBuilder::new().processor(place.processor).spawn(starter).unwrap()
    };
    let starters: Vec<_> = places.iter().map(start).collect();
    for starter in starters {
        starter.join().unwrap();
    }
    let rest = threads - each * places.len();
    thread::scope(|scope| scope.spawn(|| start_in_turn(&places, rest, &seen)).join().unwrap());
    let heaps = seen.lock().unwrap().len();
    println!("{threads} threads had {heaps} heaps");
    // The others were adoptions. Other tests' threads may have had some meanwhile.
    assert!(heaps <= 4 * places.len() + 16, "{heaps} heaps: they are not adopted");
    let waiting = process_usage().abandoned_heaps;
    assert!(waiting <= 4 * places.len() + 16, "{waiting} heaps wait: they are not adopted");
}

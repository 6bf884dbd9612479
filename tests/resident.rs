//! What stays resident: of memory that was freed, whoever sleeps, and over long runs; and the
//! settings that have to do with it. One process, so these run one after the other.
#![cfg(not(any(heapswitch_pass_through, loom)))]
// The sanitizers keep what is freed, and their own records of each page count as resident.
#![cfg(not(any(heapswitch_asan, heapswitch_tsan)))]

#[path = "resident/long_run.rs"]
mod long_run;
#[path = "support/memory.rs"]
mod memory;
#[path = "resident/mix.rs"]
mod mix;
#[path = "resident/settings.rs"]
mod settings;
#[path = "resident/sleepers.rs"]
mod sleepers;

use std::hint::black_box;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use heapswitch::strategy::slab::Slab;
use heapswitch::{Heap, collect, process_usage, purge};
use sleepers::{FreedBy, MOST_RESIDENT, Sleepers};

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    decay_milliseconds = 100,
}

/// What each of the sleepers holds at its peak. Its magazines keep up to 1.7 MiB of it, so with
/// less the part that stays is larger: of 24 MiB 7 % where the owners freed.
const OWNER_BYTES: usize = 40 << 20;

/// What the test runner's own threads may take meanwhile.
const RUNNER_BYTES: usize = 1 << 20;

/// The figures asserted on are the process's, and a test that begins or ends meanwhile takes over a
/// heap, or leaves one: so those that look only at other processes take it, too.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[test]
fn what_sleeping_owners_hold_decays_while_another_thread_works() {
    let _alone = alone();
    for freed_by in [FreedBy::Owners, FreedBy::Another] {
        let sleepers = Sleepers::after(freed_by, OWNER_BYTES);
        let part = sleepers.wait_until(MOST_RESIDENT, || {
            // Small blocks that come and go: no run is taken or given back for them.
            let texts: Vec<String> = (0..4000).map(|number| format!("{number}")).collect();
            assert_eq!(texts.iter().map(String::len).sum::<usize>(), 14_890);
        });
        println!("freed by {freed_by:?}: {part:.4} of {} bytes", sleepers.peak_bytes);
        assert!(part <= MOST_RESIDENT, "freed by {freed_by:?}: {part} is resident");
        sleepers.wake();
    }
}

#[test]
fn a_purge_gives_back_what_sleeping_owners_hold() {
    let _alone = alone();
    for freed_by in [FreedBy::Owners, FreedBy::Another] {
        let sleepers = Sleepers::after(freed_by, OWNER_BYTES);
        let taken = process_usage().region.taken_bytes;
        let collected = collect();
        println!("freed by {freed_by:?}: collected {collected} bytes");
        // The test runner's threads take a run now and then.
        assert!(process_usage().region.taken_bytes <= taken - collected + RUNNER_BYTES);
        purge();
        let part = sleepers.resident_part();
        println!("freed by {freed_by:?}: {part:.4} of {} bytes", sleepers.peak_bytes);
        assert!(part <= MOST_RESIDENT, "freed by {freed_by:?}: {part} is resident");
        sleepers.wake();
    }
}

/// Also where somebody asked before how full the chunk is.
#[test]
fn a_closed_heap_of_the_slab_keeps_the_pages_of_survivors_only() {
    let _alone = alone();
    let heap = Heap::builder().build_kind::<Slab>(()).unwrap();
    let mut blocks: Vec<Box<[u8; 64]>> = Vec::with_capacity(1000);
    heap.run(|| blocks.extend((0..1000).map(|_| black_box(Box::new([1; 64]))))).unwrap();
    let survivor = blocks.swap_remove(500);
    heap.run(|| blocks.clear()).unwrap();
    assert!(heap.memory_usage().unwrap().allocated_blocks >= 1);
    let chunk = survivor.as_ptr().map_addr(|address| address & !0xFFFF);
    assert_eq!(heap.close().blocks, 1);
    let mut pages = [0_u8; 16];
    // SAFETY: the chunk is mapped, 16 pages long, and the vector has a byte for each.
    let failed = unsafe { libc::mincore(chunk.cast_mut().cast(), 0x10000, pages.as_mut_ptr()) };
    assert_eq!(failed, 0);
    assert_eq!(pages.iter().filter(|page| **page & 1 == 1).count(), 1, "{pages:?}");
    assert_eq!(*survivor, [1; 64]);
}

/// A thread that allocates once, and then only frees what another hands it, while the other one
/// only allocates: nothing grows, whichever of both sleeps when the other works.
#[test]
fn who_only_frees_and_who_sleeps_let_nothing_grow() {
    let _alone = alone();
    let (give, take) = std::sync::mpsc::sync_channel::<Vec<Box<[u8]>>>(2);
    let frees = thread::spawn(move || {
        let own = mix::block(1000);
        for (round, blocks) in take.iter().enumerate() {
            drop(blocks);
            if round % 16 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        drop(own);
    });
    let mut random = mix::Random::new(5);
    let (mut warm, mut most) = (0, 0);
    for round in 0..2000 {
        let blocks = (0..200).map(|_| mix::block(mix::size(&mut random).min(4096))).collect();
        give.send(blocks).unwrap();
        match round {
            0..200 => warm = warm.max(process_usage().region.taken_bytes),
            _ => most = most.max(process_usage().region.taken_bytes),
        }
    }
    drop(give);
    frees.join().unwrap();
    println!("{warm} bytes when warm, then {most}");
    assert!(most < warm + (4 << 20), "{warm} {most}");
}

/// Four times a machine's threads, each in its turn: the work is what one would do, and none keeps
/// the others' memory.
#[test]
fn many_threads_on_few_processors_hold_what_they_use() {
    let _alone = alone();
    const THREADS: usize = 32;
    const ROUNDS: usize = 2000;
    purge();
    let before = process_usage();
    let work = |number| {
        let mut random = mix::Random::new(number as u64 + 1);
        let mut live: Vec<Box<[u8]>> = (0..200).map(|_| mix::block(64)).collect();
        for _ in 0..ROUNDS {
            let at = random.below(live.len());
            live[at] = mix::block(mix::size(&mut random).min(2048));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || work(n))).collect();
        // Joined: a scope's end does not wait until its threads have handed their heaps on.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let during = process_usage();
    let slow = during.slow_allocations - before.slow_allocations;
    println!("{slow} slow paths of {} allocations", THREADS * (ROUNDS + 200));
    // A thread's slow paths are its own: with more threads there are not more of them for each.
    assert!(slow < (THREADS * (ROUNDS + 200) / 4) as u64, "{slow}");
    purge();
    let after = process_usage();
    println!(
        "{} bytes taken before, {} after",
        before.region.taken_bytes, after.region.taken_bytes
    );
    assert!(after.region.taken_bytes <= before.region.taken_bytes + (2 << 20));
}

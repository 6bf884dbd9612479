//! The memory sources from outside: by the contract of the trait, from many threads, through fork.

#![cfg_attr(feature = "nightly", feature(allocator_api))]

#[path = "support/mutex.rs"]
mod mutex;

use core::alloc::Layout;
use core::mem::MaybeUninit;

use heapswitch::allocator::{AllocError, Allocator, MemoryRange, MemorySource};
use heapswitch::source::{
    ArenaMemorySource, ArenaSettings, ArenaSizes, BorrowedSliceSource, FileMemorySource,
    FileSettings, MemoryMapSource,
};
use heapswitch::strategy::locked::Locked;
use heapswitch::strategy::memory_map::MemoryMapAllocator;
use mutex::Mutex;

fn request(bytes: usize, alignment: usize) -> Layout {
    Layout::from_size_align(bytes, alignment).unwrap()
}

/// Small numbers that differ from seed to seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn fill(range: MemoryRange, mark: u8) {
    // SAFETY: the range is taken.
    unsafe { range.start.write_bytes(mark, range.length) };
}

fn is_filled(range: MemoryRange, mark: u8) -> bool {
    // SAFETY: the range is taken, and was filled or is zeroed.
    unsafe { range.as_slice().as_ref() }.iter().all(|byte| *byte == mark)
}

/// Takes, fills, grows and gives back at random, and checks what the trait promises at each step.
fn keeps_the_contract(source: &dyn MemorySource, largest: usize, largest_alignment: usize) {
    assert!(source.granule().is_power_of_two());
    let mut random = Random(0x9E37_79B9);
    let mut taken: Vec<(MemoryRange, u8)> = Vec::new();
    for step in 0..3000 {
        let mark = (step % 255 + 1) as u8;
        match random.below(5) {
            0 | 1 => {
                let alignment = 1 << random.below(largest_alignment.ilog2() as usize + 1);
                let asked = request(random.below(largest + 1), alignment);
                let Ok(range) = source.take(asked) else { continue };
                assert!(
                    range.length >= asked.size() && range.length.is_multiple_of(source.granule())
                );
                assert!(range.start.addr().get().is_multiple_of(alignment));
                assert!(!range.is_zeroed || is_filled(range, 0));
                fill(range, mark);
                taken.push((range, mark));
            }
            2 | 3 if !taken.is_empty() => {
                let (range, mark) = taken.swap_remove(random.below(taken.len()));
                assert!(is_filled(range, mark));
                // SAFETY: taken, and forgotten here.
                unsafe { source.give_back(range) };
            }
            4 if !taken.is_empty() => {
                let which = random.below(taken.len());
                let (range, old_mark) = taken[which];
                // SAFETY: taken, and replaced by what it grew to.
                if let Ok(grown) = unsafe { source.grow(range, range.length + 1) } {
                    assert_eq!(grown.start, range.start);
                    assert!(grown.length > range.length && is_filled(range, old_mark));
                    fill(grown, mark);
                    taken[which] = (grown, mark);
                }
            }
            _ => {}
        }
    }
    for (range, mark) in taken {
        assert!(is_filled(range, mark));
        // SAFETY: taken, and forgotten here.
        unsafe { source.give_back(range) };
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn every_source_keeps_the_contract() {
    let mapped = MemoryMapSource::new();
    keeps_the_contract(&mapped, 200_000, 1 << 21);
    assert_eq!((mapped.mapping_count(), mapped.mapped_bytes()), (0, 0));

    let sizes = ArenaSizes { block_bytes: 1 << 16, range_bytes: 1 << 18, maximum_bytes: 16 << 18 };
    let arena = ArenaMemorySource::new(&mapped, ArenaSettings::new(sizes).unwrap());
    keeps_the_contract(&arena, 1 << 16, 1 << 16);
    arena.release_unused();
    assert_eq!((arena.held_bytes(), mapped.mapping_count()), (0, 0));

    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let slice = BorrowedSliceSource::new(&mut memory);
    keeps_the_contract(&slice, 50_000, 4096);
    assert_eq!(slice.free_bytes(), slice.usable_bytes());

    // An arena over a slice, and a source behind a reference and a trait object.
    let small = ArenaSizes { block_bytes: 1 << 10, range_bytes: 1 << 13, maximum_bytes: 1 << 20 };
    let arena = ArenaMemorySource::new(slice, ArenaSettings::new(small).unwrap());
    keeps_the_contract(&&arena, 1 << 10, 1 << 10);

    let path = std::env::temp_dir().join(format!("heapswitch-contract-{}", std::process::id()));
    // SAFETY: nobody else knows the file.
    let file = unsafe { FileMemorySource::open(&path, FileSettings::default()) }.unwrap();
    keeps_the_contract(&file, 200_000, 1 << 18);
    file.release_unused().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    std::fs::remove_file(path).unwrap();
}

const BLOCK: usize = 1 << 12;

/// Blocks go from thread to thread: each is filled by its taker and checked by whoever gives it
/// back.
#[test]
fn an_arena_serves_many_threads() {
    const SIZES: ArenaSizes =
        ArenaSizes { block_bytes: BLOCK, range_bytes: 16 * BLOCK, maximum_bytes: 256 * BLOCK };
    let settings = heapswitch::source::MemoryMapSettings::new().granule(BLOCK);
    let mapped = MemoryMapSource::with_settings(settings).unwrap();
    let arena = ArenaMemorySource::new(&mapped, ArenaSettings::new(SIZES).unwrap());
    struct Shared(Mutex<Vec<(MemoryRange, u8)>>);
    // SAFETY: a range in the list belongs to whoever takes it out.
    unsafe impl Sync for Shared {}
    let shared = Shared(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let (arena, shared) = (&arena, &shared);
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                let shared: &Shared = shared;
                for step in 0..8_000_u64 {
                    // Bursts, so that ranges come and go.
                    let is_filling = step / 500 % 2 == 0;
                    if random.below(10) < if is_filling { 7 } else { 3 } {
                        let mark = (thread * 40 + step % 40 + 1) as u8;
                        let Ok(block) = arena.take(request(BLOCK, 16)) else { continue };
                        assert!(!block.is_zeroed || is_filled(block, 0));
                        fill(block, mark);
                        shared.0.lock().unwrap().push((block, mark));
                    } else {
                        let mut list = shared.0.lock().unwrap();
                        if list.is_empty() {
                            continue;
                        }
                        let which = random.below(list.len());
                        let (block, mark) = list.swap_remove(which);
                        drop(list);
                        assert!(is_filled(block, mark));
                        // SAFETY: taken by some thread, and forgotten here.
                        unsafe { arena.give_back(block) };
                    }
                    if step % 1000 == 999 {
                        arena.release_unused();
                    }
                }
            });
        }
    });
    for (block, mark) in std::mem::take(&mut *shared.0.lock().unwrap()) {
        assert!(is_filled(block, mark));
        // SAFETY: taken, and forgotten here.
        unsafe { arena.give_back(block) };
    }
    arena.release_unused();
    assert_eq!((arena.held_bytes(), mapped.mapping_count()), (0, 0));
}

/// No block is lost or doubled where everybody wants the last one.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn an_exhausted_arena_refuses_and_recovers() {
    const SIZES: ArenaSizes =
        ArenaSizes { block_bytes: BLOCK, range_bytes: 2 * BLOCK, maximum_bytes: 2 * BLOCK };
    let settings = heapswitch::source::MemoryMapSettings::new().granule(BLOCK);
    let mapped = MemoryMapSource::with_settings(settings).unwrap();
    let arena = ArenaMemorySource::new(mapped, ArenaSettings::new(SIZES).unwrap());
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let arena = &arena;
            scope.spawn(move || {
                let mut refused = 0;
                for _ in 0..20_000 {
                    match arena.take(request(1, 1)) {
                        Ok(block) => {
                            fill(MemoryRange { length: 64, ..block }, thread);
                            assert!(is_filled(MemoryRange { length: 64, ..block }, thread));
                            // SAFETY: taken above.
                            unsafe { arena.give_back(block) };
                        }
                        Err(AllocError) => refused += 1,
                    }
                }
                refused
            });
        }
    });
    let both = [arena.take(request(1, 1)).unwrap(), arena.take(request(1, 1)).unwrap()];
    assert!(arena.take(request(1, 1)).is_err() && both[0].start != both[1].start);
}

static LOCKED: Locked<MemoryMapAllocator> = Locked::new(MemoryMapAllocator::new());

static ARENA: ArenaMemorySource<MemoryMapSource> =
    ArenaMemorySource::new(MemoryMapSource::new(), ArenaSettings::DEFAULT);

static ARENA_BY_REFERENCE: &ArenaMemorySource<MemoryMapSource> = &ARENA;

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_locked_allocator_serves_many_threads() {
    let locked = Locked::new(MemoryMapAllocator::new());
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let locked = &locked;
            scope.spawn(move || {
                for size in 1..300_usize {
                    let asked = request(size * 50, 16);
                    let block = locked.allocate(asked).unwrap();
                    // SAFETY: allocated above, so valid for its length until it is freed.
                    unsafe {
                        block.cast::<u8>().write_bytes(thread, block.len());
                        assert!(block.as_ref().iter().all(|byte| *byte == thread));
                        locked.deallocate(block.cast(), asked);
                    }
                }
            });
        }
    });
    assert_eq!(locked.lock().mapping_count(), 0);
}

/// Children of a process whose threads hammer the locks can use what is behind them.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn locks_are_free_in_a_forked_child() {
    LOCKED.protect_fork().unwrap();
    MemorySource::protect_fork(&ARENA_BY_REFERENCE).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let is_over = &is_over;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    use_both();
                }
            });
        }
        let mut failed = 0;
        for _ in 0..100 {
            // SAFETY: the child uses the locked allocators only, neither of which is std's, and
            // ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // A child that waits for ever is killed by the alarm, and seen by its status.
                // SAFETY: ends the process.
                unsafe {
                    libc::alarm(10);
                    use_both();
                    libc::_exit(0);
                }
            }
            let mut status = 0;
            // SAFETY: waits for the child that was made above.
            unsafe { libc::waitpid(child, &mut status, 0) };
            if status != 0 {
                failed = status;
                break;
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(failed, 0, "the status of the child that failed");
    });
}

fn use_both() {
    let asked = request(5000, 16);
    if let Ok(block) = LOCKED.allocate(asked) {
        // SAFETY: allocated above.
        unsafe { LOCKED.deallocate(block.cast(), asked) };
    }
    if let Ok(block) = ARENA.take(asked) {
        // SAFETY: taken above.
        unsafe { ARENA.give_back(block) };
    }
    ARENA.release_unused();
}

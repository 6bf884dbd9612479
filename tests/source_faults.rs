//! Every system call that a source makes, refused: nothing is lost, and the next call succeeds.
//!
//! Faults hold for the whole process, so this binary has no other tests, and these take turns.

#![cfg_attr(feature = "nightly", feature(allocator_api))]

use core::alloc::Layout;
use std::sync::{Mutex, MutexGuard};

use heapswitch::allocator::{AllocError, Allocator, MemorySource};
use heapswitch::numa::{Node, NodeSet, Outcome, Placement, Policy};
use heapswitch::source::memory_map::Step;
use heapswitch::source::{
    ArenaMemorySource, ArenaSettings, FileMemorySource, FileSettings, FileSourceError, HugePages,
    MemoryMapSettings, MemoryMapSource,
};
use heapswitch::strategy::memory_map::MemoryMapAllocator;
use heapswitch::sys::fault::{self, Call};

static TURN: Mutex<()> = Mutex::new(());

/// From the `nth` call on, `call` fails until this is dropped.
struct Fault {
    call: Call,
}

impl Drop for Fault {
    fn drop(&mut self) {
        fault::clear(self.call);
    }
}

fn fail(call: Call, nth: u32) -> Fault {
    fault::fail_from(call, nth);
    Fault { call }
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const REQUEST: Layout = Layout::new::<[u8; 1 << 16]>();

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_refused_mapping_is_an_error_and_counted() {
    let _turn = turn();
    let source = MemoryMapSource::new();
    let refused = fail(Call::Map, 1);
    assert_eq!(source.take(REQUEST), Err(AllocError));
    assert_eq!(
        source.refusals().map(|one| (one.step, one.times)).collect::<Vec<_>>(),
        [(Step::Map, 1)]
    );
    drop(refused);
    let range = source.take(REQUEST).unwrap();
    // SAFETY: taken above.
    unsafe { source.give_back(range) };
    assert_eq!(source.mapping_count(), 0);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn refused_settings_are_reported_and_the_range_is_given() {
    let _turn = turn();
    let bind = Placement::strict(Policy::Bind(NodeSet::of(Node::new(0).unwrap())));
    let settings = MemoryMapSettings::new()
        .huge_pages(HugePages::Transparent)
        .kept_out_of_core_dumps(true)
        .name(c"refused")
        .locked(true)
        .prefaulted(true)
        .placement(bind);
    let _faults = [Call::Advise, Call::Lock, Call::Policy].map(|call| fail(call, 1));
    let source = MemoryMapSource::with_settings(settings).unwrap();
    let range = source.take(REQUEST).unwrap();
    let steps: Vec<_> = source.refusals().map(|refusal| refusal.step).collect();
    let all = [Step::HugePages, Step::Lock, Step::Prefault, Step::CoreDump, Step::Name];
    assert_eq!(steps, [all.as_slice(), &[Step::Placement]].concat());
    for refusal in source.refusals() {
        assert!(refusal.to_string().contains("refused"), "{refusal}");
    }
    // SAFETY: taken above.
    unsafe {
        range.start.write_bytes(1, range.length);
        source.give_back(range);
    }
    let strict = MemoryMapSource::with_settings(settings.strict(true)).unwrap();
    assert!(strict.take(REQUEST).is_err());
    assert_eq!((strict.mapping_count(), strict.mapped_bytes()), (0, 0));
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn explicit_huge_pages_fall_back_to_others() {
    let _turn = turn();
    let settings = MemoryMapSettings::new().huge_pages(HugePages::Explicit { shift: 21 });
    let source = MemoryMapSource::with_settings(settings).unwrap();
    // Both mappings are refused: the huge one, then the plain one.
    let refused = fail(Call::Map, 1);
    assert!(source.take(REQUEST).is_err());
    drop(refused);
    let steps: Vec<_> = source.refusals().map(|refusal| refusal.step).collect();
    assert_eq!(steps, [Step::Map, Step::HugePages]);
    let range = source.take(REQUEST).unwrap();
    assert_eq!(range.length, 2 << 20);
    // SAFETY: taken above.
    unsafe { source.give_back(range) };
}

#[test]
fn a_placement_without_numa_is_refused_and_no_more() {
    let _turn = turn();
    let _fault = fail(Call::Policy, 1);
    let mut page = [0_u8; 4096];
    let start = core::ptr::NonNull::from(&mut page).cast();
    let interleave = Policy::WeightedInterleave(NodeSet::of(Node::new(0).unwrap()));
    for placement in [Placement::new(interleave), Placement::strict(interleave)] {
        assert!(matches!(placement.apply(start, 4096), Outcome::Refused { .. }));
    }
}

/// The first, second ... mapping is refused: the tables, then the range.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn an_arena_survives_each_refused_mapping() {
    let _turn = turn();
    let mapped = MemoryMapSource::new();
    for nth in 1..=2 {
        let arena = ArenaMemorySource::new(&mapped, ArenaSettings::DEFAULT);
        let refused = fail(Call::Map, nth);
        assert_eq!(arena.take(REQUEST), Err(AllocError));
        assert_eq!((arena.held_bytes(), mapped.mapping_count()), (0, 0));
        drop(refused);
        let block = arena.take(REQUEST).unwrap();
        // SAFETY: taken above.
        unsafe {
            block.start.write_bytes(1, block.length);
            arena.give_back(block);
        }
        drop(arena);
        assert_eq!(mapped.mapping_count(), 0);
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_mapped_block_that_cannot_be_remapped_is_copied() {
    let _turn = turn();
    let allocator = MemoryMapAllocator::new();
    let (small, large) = (Layout::new::<[u8; 5000]>(), Layout::new::<[u8; 50_000]>());
    let block = allocator.allocate(small).unwrap();
    // SAFETY: the block is allocated with `small`, then `large`, then `small` again.
    unsafe {
        block.cast::<u8>().write_bytes(7, 5000);
        let _fault = fail(Call::Remap, 1);
        let grown = allocator.grow_zeroed(block.cast(), small, large).unwrap();
        let (old, new) = grown.as_ref()[..50_000].split_at(5000);
        assert!(old.iter().all(|byte| *byte == 7) && new.iter().all(|byte| *byte == 0));
        let no_memory = fail(Call::Map, 1);
        // Neither remapped nor mapped: the block stays as it was.
        assert_eq!(
            allocator.grow(grown.cast(), large, Layout::new::<[u8; 1 << 20]>()),
            Err(AllocError)
        );
        assert_eq!(allocator.shrink(grown.cast(), large, small), Err(AllocError));
        assert_eq!(allocator.last_map_refusal().map(|refusal| refusal.times), Some(2));
        assert!(grown.as_ref()[..5000].iter().all(|byte| *byte == 7));
        drop(no_memory);
        let shrunk = allocator.shrink(grown.cast(), large, small).unwrap();
        assert!(shrunk.as_ref()[..5000].iter().all(|byte| *byte == 7));
        allocator.deallocate(shrunk.cast(), small);
    }
    assert_eq!((allocator.mapping_count(), allocator.mapped_bytes()), (0, 0));
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_file_survives_a_full_disk_and_refused_mappings() {
    let _turn = turn();
    let path = std::env::temp_dir().join(format!("heapswitch-faults-{}", std::process::id()));
    let settings = FileSettings { granule: 4096, ..FileSettings::default() };
    for nth in 1..=2 {
        let _fault = fail(Call::Map, nth);
        // SAFETY: nobody else knows the file.
        let error = unsafe { FileMemorySource::open(&path, settings) }.map(|_| ()).unwrap_err();
        assert!(matches!(error, FileSourceError::Reserve { .. }), "{error}");
    }
    // SAFETY: as above.
    let source = unsafe { FileMemorySource::open(&path, settings) }.unwrap();
    let request = Layout::new::<[u8; 4096]>();
    let kept = source.take(request).unwrap();
    for call in [Call::Allocate, Call::Map] {
        let refused = fail(call, 1);
        assert_eq!(source.take(request), Err(AllocError));
        // SAFETY: taken above; it stays as it is when growing fails.
        assert_eq!(unsafe { source.grow(kept, 8192) }, Err(AllocError));
        let error = source.last_error().unwrap();
        let is_right = match call {
            Call::Allocate => matches!(error, FileSourceError::Grow { bytes: 8192, .. }),
            _ => matches!(error, FileSourceError::Map { bytes: 4096, .. }),
        };
        assert!(is_right, "{error}");
        drop(refused);
        assert_eq!((source.file_bytes(), std::fs::metadata(&path).unwrap().len()), (4096, 4096));
    }
    // A sparse one is only made longer.
    drop(source);
    let sparse = FileSettings { is_sparse: true, ..settings };
    // SAFETY: as above.
    let source = unsafe { FileMemorySource::open(&path, sparse) }.unwrap();
    let refused = fail(Call::Truncate, 1);
    assert_eq!(source.take(request), Err(AllocError));
    assert!(matches!(source.last_error(), Some(FileSourceError::Grow { bytes: 8192, .. })));
    drop(refused);
    assert_eq!((source.file_bytes(), std::fs::metadata(&path).unwrap().len()), (4096, 4096));
    drop(source);
    // SAFETY: as above.
    let source = unsafe { FileMemorySource::open(&path, settings) }.unwrap();
    // The file cannot be shortened: it works on, and what was in it is not taken for zeros.
    let old = source.take(request).unwrap();
    // SAFETY: taken above.
    unsafe {
        old.start.write_bytes(9, old.length);
        source.give_back(old);
    }
    let refused = fail(Call::Truncate, 1);
    assert!(matches!(source.release_unused(), Err(FileSourceError::Grow { .. })));
    drop(refused);
    assert!(!source.take(request).unwrap().is_zeroed);
    drop(source);
    std::fs::remove_file(path).unwrap();
}

/// Each step of opening a file is refused in turn: what it has stays, to the byte.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_file_that_cannot_be_opened_keeps_its_contents() {
    let _turn = turn();
    let path = std::env::temp_dir().join(format!("heapswitch-kept-{}", std::process::id()));
    let contents: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    std::fs::write(&path, &contents).unwrap();
    let open = |is_sparse| {
        let settings = FileSettings { is_sparse, ..FileSettings::default() };
        // SAFETY: nobody else knows the file.
        unsafe { FileMemorySource::open(&path, settings) }.map(|_| ())
    };
    // The bits, the reservation, the part of it elsewhere, and over it.
    let maps = (1..=4).map(|nth| (Call::Map, nth, false));
    let lengths = [(Call::Map, 3, true), (Call::Allocate, 1, false), (Call::Truncate, 1, true)];
    for (call, nth, is_sparse) in maps.chain(lengths) {
        let refused = fail(call, nth);
        let error = open(is_sparse).unwrap_err();
        drop(refused);
        assert!(std::fs::read(&path).unwrap() == contents, "{call:?} {nth}: {error}");
    }
    open(false).unwrap();
    std::fs::remove_file(path).unwrap();
}

/// A mapping over the reservation was refused, and what came in its place is somebody else's.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn addresses_that_a_file_lost_are_never_touched_again() {
    let _turn = turn();
    const GRANULE: usize = 4096;
    let path = std::env::temp_dir().join(format!("heapswitch-lost-{}", std::process::id()));
    let settings = FileSettings { granule: GRANULE, maximum_bytes: 64 * GRANULE, is_sparse: false };
    // SAFETY: nobody else knows the file.
    let source = unsafe { FileMemorySource::open(&path, settings) }.unwrap();
    let request = Layout::new::<[u8; GRANULE]>();
    let first = source.take(request).unwrap();
    let refused = fail(Call::Map, 2);
    assert_eq!(source.take(Layout::new::<[u8; 2 * GRANULE]>()), Err(AllocError));
    assert!(matches!(source.last_error(), Some(FileSourceError::Map { .. })));
    drop(refused);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), GRANULE as u64);
    let lost = first.start.as_ptr().wrapping_add(GRANULE);
    let map = |flags| {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: nobody uses these addresses, which is what is shown here.
        unsafe { libc::mmap(lost.cast(), 2 * GRANULE, access, flags, -1, 0) }
    };
    assert_eq!(map(libc::MAP_FIXED), lost.cast());
    // SAFETY: mapped above.
    unsafe { lost.write_bytes(42, 2 * GRANULE) };
    assert_eq!(source.take(request), Err(AllocError));
    // SAFETY: taken above.
    unsafe {
        assert_eq!(source.grow(first, 2 * GRANULE), Err(AllocError));
        source.give_back(first);
    }
    // What is its own it still has.
    assert_eq!(source.take(request).unwrap().start, first.start);
    source.verify();
    // And where it loses that, too, it does not forget what it lost first.
    // SAFETY: taken above.
    unsafe { source.give_back(first) };
    assert_eq!(source.release_unused(), Ok(GRANULE));
    let refused = fail(Call::Map, 2);
    assert_eq!(source.take(request), Err(AllocError));
    drop(refused);
    assert_eq!(source.take(request), Err(AllocError));
    drop(source);
    // SAFETY: mapped above.
    let kept = unsafe { core::slice::from_raw_parts(lost, 2 * GRANULE) };
    assert!(kept.iter().all(|byte| *byte == 42));
    // All behind it is gone.
    // SAFETY: asking changes nothing.
    let asked = unsafe {
        let behind = lost.wrapping_add(2 * GRANULE);
        libc::mincore(behind.cast(), GRANULE, [0].as_mut_ptr())
    };
    assert_eq!(asked, -1, "it is mapped");
    // SAFETY: mapped above, the first granule by the source.
    unsafe { libc::munmap(first.start.as_ptr().cast(), 3 * GRANULE) };
    std::fs::remove_file(path).unwrap();
}

/// The limit on the length of files would end the process by a signal. It holds for all of the
/// process, so it is one that what the test runner writes does not come to.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_file_that_would_be_too_long_for_the_process_is_refused() {
    let _turn = turn();
    const LIMIT: usize = 1 << 30;
    let path = std::env::temp_dir().join(format!("heapswitch-long-{}", std::process::id()));
    let set = |limit: &libc::rlimit| {
        // SAFETY: a valid limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, limit) }, 0);
    };
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut before) }, 0);
    let limited = libc::rlimit { rlim_cur: LIMIT as u64, ..before };
    let open = |is_sparse| {
        let settings =
            FileSettings { is_sparse, maximum_bytes: 4 * LIMIT, ..FileSettings::default() };
        // SAFETY: nobody else knows the file.
        unsafe { FileMemorySource::open(&path, settings) }.unwrap()
    };
    set(&limited);
    for is_sparse in [false, true] {
        let source = open(is_sparse);
        assert_eq!(source.take(Layout::new::<[u8; LIMIT + 1]>()), Err(AllocError));
        let error = source.last_error().unwrap();
        assert!(error.to_string().contains("raise RLIMIT_FSIZE"), "{error}");
        source.take(Layout::new::<[u8; 1 << 20]>()).unwrap();
        drop(source);
        std::fs::remove_file(&path).unwrap();
    }
    // What is longer already is not made so.
    set(&before);
    std::fs::File::create(&path).unwrap().set_len(2 * LIMIT as u64).unwrap();
    set(&limited);
    let contents = open(true).contents().map(|range| range.length);
    set(&before);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(contents, Some(2 * LIMIT));
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn what_cannot_be_unmapped_gives_its_memory_back_and_is_counted() {
    let _turn = turn();
    const BYTES: usize = 1 << 20;
    let request = Layout::new::<[u8; BYTES]>();
    let refused_to = |settings| {
        let source = MemoryMapSource::with_settings(settings).unwrap();
        let range = source.take(request).unwrap();
        // SAFETY: taken above; errno is this thread's.
        unsafe {
            range.start.write_bytes(1, BYTES);
            *libc::__errno_location() = 7;
            let _refused = fail(Call::Unmap, 1);
            source.give_back(range);
            assert_eq!(*libc::__errno_location(), 7);
        }
        let mut pages = [1; BYTES / 4096];
        // SAFETY: asking changes nothing.
        let asked =
            unsafe { libc::mincore(range.start.as_ptr().cast(), BYTES, pages.as_mut_ptr()) };
        assert_eq!((asked, pages.iter().filter(|page| **page & 1 == 1).count()), (0, 0));
        let refusals: Vec<_> = source.refusals().map(|one| (one.step, one.times)).collect();
        assert_eq!(refusals, [(Step::Unmap, 1)]);
        assert_eq!((source.mapping_count(), source.mapped_bytes()), (1, BYTES));
        source
    };
    refused_to(MemoryMapSettings::new().locked(true));
    let source = refused_to(MemoryMapSettings::new());
    // What is cut off for an alignment counts as well.
    let refused = fail(Call::Unmap, 1);
    let aligned = source.take(Layout::from_size_align(BYTES, 2 << 20).unwrap()).unwrap();
    drop(refused);
    let surplus = (2 << 20) - 4096;
    assert_eq!((source.mapping_count(), source.mapped_bytes()), (2, 2 * BYTES + surplus));
    // SAFETY: taken above.
    unsafe { source.give_back(aligned) };
    assert_eq!((source.mapping_count(), source.mapped_bytes()), (1, BYTES + surplus));
}

/// No new mapping is to be had, so nothing can be copied: what grows and shrinks was remapped.
#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_mapped_block_is_resized_by_remapping() {
    let _turn = turn();
    let allocator = MemoryMapAllocator::new();
    let [small, large] = [1 << 20, 64 << 20].map(|bytes| Layout::from_size_align(bytes, 16));
    let (small, large) = (small.unwrap(), large.unwrap());
    let block = allocator.allocate(small).unwrap();
    let _no_memory = fail(Call::Map, 1);
    // SAFETY: the block is allocated with `small`, then `large`, then `small` again.
    unsafe {
        block.cast::<u8>().write_bytes(7, small.size());
        let grown = allocator.grow_zeroed(block.cast(), small, large).unwrap();
        let (old, new) = grown.as_ref().split_at(small.size());
        assert!(old.iter().all(|byte| *byte == 7) && new.iter().all(|byte| *byte == 0));
        let shrunk = allocator.shrink(grown.cast(), large, small).unwrap();
        assert!(shrunk.as_ref().iter().all(|byte| *byte == 7));
        assert_eq!((allocator.mapping_count(), allocator.mapped_bytes()), (1, small.size()));
        allocator.deallocate(shrunk.cast(), small);
    }
    assert_eq!(allocator.refusals().count(), 0);
}

//! The pool against a plain model, and at its borders.

use core::cell::Cell;
use core::cmp::Reverse;
use core::mem::MaybeUninit;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::source::BorrowedSliceSource;

/// Memory for a pool, which works where mappings are refused.
fn memory(bytes: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::new(0xa5); bytes]
}

#[test]
fn every_block_serves_and_then_it_is_full() {
    let mut memory = memory(8192);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<u16, u8, _> = OrderedPool::new_in(&source, 256).unwrap();
    let handles: Vec<_> = (0..256).map(|n| pool.allocate(n).unwrap()).collect();
    assert!(pool.is_full());
    assert_eq!(pool.allocate(7), Err(PoolFull { value: 7, capacity: 256 }));
    assert_eq!(pool.iter().copied().collect::<Vec<_>>(), (0..256).collect::<Vec<_>>());
    assert_eq!(pool.free(handles[9]), Ok(9));
    assert_eq!(pool.get_at(9), Some(&255));
    assert_eq!((pool.get_at(255), pool.len()), (None, 255));
    let again = pool.allocate(300).unwrap();
    assert_eq!(again.physical(), handles[9].physical());
    assert_eq!(pool.get(handles[9]), None);
    assert_eq!(pool.free(handles[9]), Err(StaleHandle));
    assert_eq!(pool.get(again), Some(&300));
    let error = OrderedPool::<u16, u8, _>::new_in(&source, 257).unwrap_err();
    assert_eq!(error, PoolError::TooManyBlocks { blocks: 257, most: 256 });
    drop(pool);
    assert_eq!(source.free_bytes(), source.usable_bytes());
    let error = OrderedPool::<u16, usize, _>::new_in(&source, 4000).unwrap_err();
    assert!(matches!(error, PoolError::NoMemory { bytes: 104_000 }), "{error}");
    let error = OrderedPool::<u16, usize, _>::new_in(&source, usize::MAX / 4).unwrap_err();
    assert!(matches!(error, PoolError::TooManyBlocks { .. }), "{error}");
}

#[test]
fn a_pool_of_none_is_full_and_empty() {
    let mut memory = memory(64);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<u64, usize, _> = OrderedPool::new_in(&source, 0).unwrap();
    assert!(pool.is_full() && pool.is_empty());
    assert!(pool.allocate(1).is_err());
    pool.sort();
    assert_eq!(source.free_bytes(), source.usable_bytes());
}

#[repr(align(256))]
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Wide(u64);

#[test]
fn blocks_are_as_aligned_as_their_type() {
    let mut memory = memory(8192);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<Wide, u16, _> = OrderedPool::new_in(&source, 10).unwrap();
    for n in (0..10).rev() {
        let handle = pool.allocate(Wide(n)).unwrap();
        assert!(pool.pointer(handle).unwrap().addr().get().is_multiple_of(256));
    }
    pool.sort();
    assert!(pool.iter().copied().eq((0..10).map(Wide)));
}

#[test]
fn values_of_no_size_are_counted_and_dropped() {
    thread_local!(static DROPS: Cell<usize> = const { Cell::new(0) });
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let mut memory = memory(4096);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<Nothing, u16, _> = OrderedPool::new_in(&source, 100).unwrap();
    let first = pool.allocate(Nothing).unwrap();
    let second = pool.allocate(Nothing).unwrap();
    assert_ne!(first, second);
    drop(pool.free(first));
    assert_eq!((DROPS.get(), pool.len(), pool.position_of(second)), (1, 1, Some(0)));
    drop(pool);
    assert_eq!(DROPS.get(), 2);

    // Below the handles such blocks take no memory at all.
    let mut raw = RawOrderedPool::<Nothing, u8, _>::new(&source, 3).unwrap();
    // SAFETY: each block is written at once, and freed once.
    unsafe {
        for _ in 0..3 {
            let block = raw.allocate().unwrap();
            raw.pointer(block.physical).write(Nothing);
        }
        assert!(raw.allocate().is_none());
        raw.free(1);
    }
    assert_eq!((raw.order(), DROPS.get()), (&[0, 2][..], 3));
    assert_eq!([0, 1, 2].map(|block| raw.position_of(block)), [Some(0), None, Some(1)]);
    drop(raw);
    assert_eq!(DROPS.get(), 5);
}

#[test]
fn what_is_left_is_dropped_in_virtual_order() {
    struct Noted(u32, Rc<Cell<Vec<u32>>>);
    impl Drop for Noted {
        fn drop(&mut self) {
            let mut drops = self.1.take();
            drops.push(self.0);
            self.1.set(drops);
        }
    }
    let drops = Rc::new(Cell::new(Vec::new()));
    let mut memory = memory(4096);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<Noted, u8, _> = OrderedPool::new_in(source, 8).unwrap();
    let handles: Vec<_> =
        [5, 3, 9, 4].map(|n| pool.allocate(Noted(n, Rc::clone(&drops))).unwrap()).into();
    drop(pool.free(handles[2]));
    pool.sort_by_key(|noted| noted.0);
    drop(pool);
    assert_eq!(drops.take(), [9, 3, 4, 5]);
}

#[test]
fn the_memory_goes_back_though_a_drop_panics() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let mut memory = memory(4096);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<Panics, u8, _> = OrderedPool::new_in(&source, 8).unwrap();
    pool.allocate(Panics).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(pool))).is_err());
    assert_eq!(source.free_bytes(), source.usable_bytes());
}

#[test]
fn a_panic_in_a_comparison_loses_no_block() {
    let mut memory = memory(4096);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<u32, u8, _> = OrderedPool::new_in(source, 64).unwrap();
    let handles: Vec<_> = (0..64).map(|n| pool.allocate(n * 37 % 64).unwrap()).collect();
    for (limit, is_stable) in [(3, true), (50, true), (3, false), (90, false)] {
        let mut calls = 0;
        let mut compare = |a: &u32, b: &u32| {
            calls += 1;
            assert!(calls < limit, "on purpose");
            a.cmp(b)
        };
        let sorted = catch_unwind(AssertUnwindSafe(|| {
            if is_stable { pool.sort_by(&mut compare) } else { pool.sort_unstable_by(&mut compare) }
        }));
        assert!(sorted.is_err());
        let seen: HashSet<_> = pool.iter().collect();
        assert_eq!(seen.len(), 64);
        for (n, handle) in handles.iter().enumerate() {
            assert_eq!(pool.get(*handle), Some(&(n as u32 * 37 % 64)));
            let position = pool.position_of(*handle).unwrap();
            assert_eq!(pool.handle_at(position), Some(*handle));
        }
    }
}

#[test]
fn a_block_whose_generations_are_spent_is_retired() {
    let mut memory = memory(4096);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<u32, u8, _> = OrderedPool::new_in(source, 4).unwrap();
    let first = pool.allocate(1).unwrap();
    let other = pool.allocate(2).unwrap();
    // As if it had been allocated and freed two thousand million times.
    // SAFETY: the block is live and borrowed by nobody.
    unsafe { pool.raw.numbers.release(first.physical, u32::MAX - 2) };
    let last = pool.allocate(1).unwrap();
    assert_eq!((last.generation, last.physical), (u32::MAX - 1, first.physical));
    assert_eq!(pool.free(last), Ok(1));
    assert_eq!((pool.capacity(), pool.get(last), pool.get(first)), (4, None, None));
    let others = [3, 4].map(|n| pool.allocate(n).unwrap());
    assert_eq!(pool.capacity(), 3);
    assert!(pool.is_full() && pool.allocate(5).is_err());
    assert!(others.iter().all(|handle| handle.physical() != first.physical()));
    assert_eq!(pool.iter().collect::<Vec<_>>(), [&2, &3, &4]);
    assert_eq!(pool.get(first), None);
    assert_eq!(pool.free(last), Err(StaleHandle));
    assert_eq!(pool.free(other), Ok(2));
    assert_eq!(pool.allocate(6).map(Handle::physical), Ok(other.physical()));

    // Where only such blocks are free, there is none.
    for handle in others {
        // SAFETY: the block is live and borrowed by nobody.
        unsafe { pool.raw.numbers.release(handle.physical, u32::MAX) };
    }
    assert_eq!(pool.allocate(7), Err(PoolFull { value: 7, capacity: 1 }));
    assert_eq!(pool.iter().collect::<Vec<_>>(), [&6]);
}

/// Blocks cost two indices each, of whatever width, and all widths number blocks from 0 on.
#[test]
fn indices_of_every_width_serve() {
    fn serves<Index: PoolIndex + Into<u64>>(bits: u32) {
        let mut memory = memory(16_384);
        let source = BorrowedSliceSource::new(&mut memory);
        let mut pool: OrderedPool<u64, Index, _> = OrderedPool::new_in(&source, 200).unwrap();
        let handles: Vec<_> = (0..200).map(|n| pool.allocate(1000 - n).unwrap()).collect();
        assert!(handles.iter().map(|handle| handle.physical().into()).eq(0..200_u64));
        pool.sort();
        assert_eq!((pool.position_of(handles[199]), pool.get_at(199)), (Some(0), Some(&1000)));
        assert_eq!(pool.free(handles[7]), Ok(993));
        assert_eq!(pool.allocate(5).map(|handle| handle.physical().into()), Ok(7));
        let most = 1_usize.checked_shl(bits).unwrap_or(usize::MAX).min(isize::MAX as usize);
        assert_eq!(Index::MOST_BLOCKS, most);
        // A value, two indices and a generation, which are padded to their alignment.
        let index = bits as usize / 8;
        let each = 8 + index + (index + 4).next_multiple_of(index.max(4));
        let used = source.usable_bytes() - source.free_bytes();
        assert!((200 * each..200 * each + 128).contains(&used), "{bits}: {used}");
    }
    serves::<u8>(8);
    serves::<u16>(16);
    serves::<u32>(32);
    serves::<u64>(64);
}

/// A pool is as shareable as its values: read by many threads, changed by the one that has it.
#[test]
fn pools_go_to_other_threads() {
    fn is_shared<T: Send + Sync>(value: T) -> T {
        value
    }
    let mut memory = memory(1 << 16);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool = is_shared(OrderedPool::<String, u16, _>::new_in(source, 400).unwrap());
    let handles: Vec<_> = (0..400).map(|n| pool.allocate(format!("{n:03}")).unwrap()).collect();
    std::thread::scope(|scope| {
        let (pool, handles) = (&pool, &handles);
        let readers = [0, 1, 2].map(|reader| {
            scope.spawn(move || {
                for n in 0..400 {
                    let at = (n * 7 + reader * 131) % 400;
                    assert_eq!(pool.get(handles[at]), Some(&format!("{at:03}")));
                    assert_eq!(pool.position_of(handles[at]), Some(at));
                    assert_eq!(pool.iter().nth(at), pool.get_at(at));
                }
            })
        });
        readers.into_iter().for_each(|reader| reader.join().expect("its assertions hold"));
    });
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            pool.sort_by(|a, b| b.cmp(a));
            pool.free(handles[3]).unwrap();
            assert_eq!(pool.get_at(0).map(String::as_str), Some("399"));
            pool
        });
        // Dropped by another thread than filled it.
        assert_eq!(other.join().expect("its assertions hold").len(), 399);
    });
}

/// A `Cell` is sent and not shared, and so is a pool of them.
#[test]
fn pools_of_cells_are_sent_and_not_shared() {
    use std::marker::PhantomData;

    /// Whether `T` is `Sync`: the method of the type itself, which needs that, comes before the
    /// trait's.
    struct Probe<T>(PhantomData<T>);
    trait Otherwise {
        fn is_sync(&self) -> bool {
            false
        }
    }
    impl<T> Otherwise for Probe<T> {}
    impl<T: Sync> Probe<T> {
        fn is_sync(&self) -> bool {
            true
        }
    }
    fn is_sent<T: Send>() {}

    is_sent::<OrderedPool<Cell<u8>, u8>>();
    assert!(!Probe::<OrderedPool<Cell<u8>, u8>>(PhantomData).is_sync());
    assert!(!Probe::<RawOrderedPool<Cell<u8>, u8>>(PhantomData).is_sync());
    assert!(Probe::<OrderedPool<u8, u8>>(PhantomData).is_sync());
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn mappings_huge_pages_and_files_serve() {
    use crate::numa::Residence;
    use crate::source::memory_map::Step;
    use crate::source::{
        FileMemorySource, FileSettings, HugePages, MemoryMapSettings, MemoryMapSource,
    };

    /// A pool of four mebibytes that is filled, sorted and half freed, and where its blocks are.
    fn serves<S: MemorySource>(source: S, look: impl FnOnce(core::ptr::NonNull<[u64; 64]>)) {
        const BLOCKS: u32 = 8192;
        let mut pool: OrderedPool<[u64; 64], u32, S> =
            OrderedPool::new_in(source, BLOCKS as usize).unwrap();
        let value = |n: u32| [u64::from(n.wrapping_mul(0x9e37_79b1)); 64];
        let handles: Vec<_> = (0..BLOCKS).map(|n| pool.allocate(value(n)).unwrap()).collect();
        let first = pool.pointer(handles[0]).unwrap();
        pool.sort();
        assert!(pool.is_full() && pool.iter().is_sorted());
        assert_eq!(pool.pointer(handles[0]), Some(first));
        for (n, handle) in (0..BLOCKS).zip(&handles) {
            assert_eq!(pool.get(*handle), Some(&value(n)));
        }
        look(first);
        for (n, handle) in (0..BLOCKS).zip(handles).step_by(2) {
            assert_eq!(pool.free(handle), Ok(value(n)));
        }
        assert_eq!(pool.len(), BLOCKS as usize / 2);
    }

    serves(MemoryMapSource::new(), |_| {});
    let path = std::env::temp_dir().join(format!("heapswitch-pool-{}", std::process::id()));
    // SAFETY: the file is this test's, which only reads it.
    let file = unsafe { FileMemorySource::open(&path, FileSettings::default()) };
    serves(file.unwrap(), |_| {
        // What is in the pool is in the file: the second block, for example.
        let wanted = 0x9e37_79b1_u64.to_ne_bytes().repeat(64);
        assert!(std::fs::read(&path).unwrap().chunks(512).any(|block| block == wanted));
    });
    std::fs::remove_file(&path).unwrap();
    let huge = MemoryMapSettings::new().huge_pages(HugePages::Explicit { shift: 21 });
    let source = MemoryMapSource::with_settings(huge).unwrap();
    serves(&source, |first| match source.refusals().next() {
        Some(refusal) => {
            assert_eq!(refusal.step, Step::HugePages);
            println!("not tested here: explicit huge pages: {refusal:?}");
        }
        None => {
            let backing = Residence::of_range(first.cast(), 4096).unwrap().backing().unwrap();
            assert_eq!(backing.page_bytes, 2 << 20);
        }
    });
    assert_eq!(source.mapping_count(), 0);
}

#[derive(Clone, Debug)]
enum Action {
    Allocate(u8),
    Free(usize),
    FreeStale(usize),
    Change(usize, u8),
    Sort(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => any::<u8>().prop_map(Action::Allocate),
        2 => any::<usize>().prop_map(Action::Free),
        1 => any::<usize>().prop_map(Action::FreeStale),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(which, to)| Action::Change(which, to)),
        1 => any::<u8>().prop_map(Action::Sort),
    ];
    proptest::collection::vec(action, 1..200)
}

/// The live blocks in virtual order, and the handles of freed ones.
#[derive(Default)]
struct Model<Index> {
    live: Vec<(Handle<Index>, u8, usize)>,
    stale: Vec<Handle<Index>>,
}

fn run<Index: PoolIndex, S: MemorySource>(
    pool: &mut OrderedPool<u8, Index, S>,
    model: &mut Model<Index>,
    action: &Action,
) {
    let some = |which: usize, length: usize| which.checked_rem(length);
    match *action {
        Action::Allocate(value) => match pool.allocate(value) {
            Ok(handle) => {
                let address = pool.pointer(handle).unwrap().addr().get();
                model.live.push((handle, value, address));
            }
            Err(full) => assert_eq!((full.value, model.live.len()), (value, full.capacity)),
        },
        Action::Free(which) => {
            if let Some(which) = some(which, model.live.len()) {
                let (handle, value, _) = model.live.swap_remove(which);
                assert_eq!(pool.free(handle), Ok(value));
                model.stale.push(handle);
            }
        }
        Action::FreeStale(which) => {
            if let Some(which) = some(which, model.stale.len()) {
                assert_eq!(pool.free(model.stale[which]), Err(StaleHandle));
            }
        }
        Action::Change(which, to) => {
            if let Some(which) = some(which, model.live.len()) {
                *pool.get_mut(model.live[which].0).unwrap() = to;
                model.live[which].1 = to;
            }
        }
        Action::Sort(how) => sort(pool, model, how),
    }
}

fn sort<Index: PoolIndex, S: MemorySource>(
    pool: &mut OrderedPool<u8, Index, S>,
    model: &mut Model<Index>,
    how: u8,
) {
    match how % 5 {
        0 => pool.sort_by_key(|value| value / 16),
        1 => pool.sort_by_cached_key(|value| value / 16),
        2 => pool.sort_by(|a, b| b.cmp(a)),
        3 => pool.sort_unstable(),
        _ => pool.sort_unstable_by_key(|value| Reverse(value / 16)),
    }
    match how % 5 {
        0 | 1 => model.live.sort_by_key(|(_, value, _)| value / 16),
        2 => model.live.sort_by_key(|(_, value, _)| Reverse(*value)),
        // Equal ones may come in any order, so the model takes the pool's.
        3 => assert!(pool.iter().is_sorted()),
        _ => assert!(pool.iter().is_sorted_by_key(|value| Reverse(value / 16))),
    }
    if how % 5 >= 3 {
        model.live.sort_by_key(|(handle, ..)| pool.position_of(*handle));
    }
}

fn check<Index: PoolIndex, S: MemorySource>(
    pool: &mut OrderedPool<u8, Index, S>,
    model: &Model<Index>,
) {
    assert_eq!(pool.len(), model.live.len());
    assert!(pool.iter().eq(model.live.iter().map(|(_, value, _)| value)));
    assert!(pool.iter().rev().eq(model.live.iter().rev().map(|(_, value, _)| value)));
    assert!(pool.handles().eq(model.live.iter().map(|(handle, ..)| *handle)));
    assert!(pool.iter_mut().map(|value| *value).eq(model.live.iter().map(|(_, value, _)| *value)));
    for (position, (handle, value, address)) in model.live.iter().enumerate() {
        assert_eq!(pool.get(*handle), Some(value));
        assert_eq!(pool.position_of(*handle), Some(position));
        assert_eq!(pool.handle_at(position), Some(*handle));
        assert_eq!(pool.pointer(*handle).unwrap().addr().get(), *address);
    }
    assert!(model.stale.iter().all(|handle| pool.get(*handle).is_none()));
}

fn agrees<Index: PoolIndex>(actions: &[Action]) {
    let mut memory = memory(4096);
    let source = BorrowedSliceSource::new(&mut memory);
    let mut pool: OrderedPool<u8, Index, _> = OrderedPool::new_in(source, 40).unwrap();
    let mut model = Model { live: Vec::new(), stale: Vec::new() };
    for action in actions {
        run(&mut pool, &mut model, action);
        check(&mut pool, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_agrees_with_a_vector(actions in actions()) {
        agrees::<u8>(&actions);
        agrees::<u16>(&actions);
        agrees::<u32>(&actions);
        agrees::<u64>(&actions);
        agrees::<usize>(&actions);
    }
}

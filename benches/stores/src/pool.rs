//! The work that the pools are timed on. Values are 64 bytes, their first eight the key by which
//! they are sorted.

use std::hint::black_box;

use heapswitch::BorrowedSliceSource;
use heapswitch::store::OrderedPool;
use heapswitch::store::ordered_pool::{Handle, RawOrderedPool};
use ordered_pool_allocator::OrderedPoolAllocator;
use slotmap::{DefaultKey, SlotMap};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::Numbers;

#[derive(Clone, Copy)]
pub struct Value {
    pub key: u64,
    pub rest: [u64; 7],
}

impl Value {
    pub fn new(key: u64) -> Self {
        Self { key, rest: [key; 7] }
    }
}

/// What the pools have in common.
pub trait Pool {
    type Handle: Copy;

    fn insert(&mut self, value: Value) -> Self::Handle;
    fn remove(&mut self, handle: Self::Handle);
    fn get(&self, handle: Self::Handle) -> u64;
    /// Sorts by key, by whatever is fastest and moves no value.
    fn sort(&mut self);
    /// The sum over all values, in order, of key times place.
    fn in_order(&self) -> u64;
}

pub fn memory(blocks: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::new(0); blocks * 96 + 64]
}

fn weigh(keys: impl Iterator<Item = u64>) -> u64 {
    (1..).zip(keys).fold(0, |sum, (place, key)| sum.wrapping_add(key.wrapping_mul(place)))
}

/// Ours with handles.
pub struct Safe<'a>(OrderedPool<Value, u32, BorrowedSliceSource<'a>>);

impl<'a> Safe<'a> {
    pub fn new(memory: &'a mut [MaybeUninit<u8>], blocks: usize) -> Self {
        Self(OrderedPool::new_in(BorrowedSliceSource::new(memory), blocks).expect("memory"))
    }
}

impl Pool for Safe<'_> {
    type Handle = Handle<u32>;

    #[inline]
    fn insert(&mut self, value: Value) -> Handle<u32> {
        self.0.allocate(value).expect("there is room")
    }

    #[inline]
    fn remove(&mut self, handle: Handle<u32>) {
        self.0.free(handle).expect("it is live");
    }

    #[inline]
    fn get(&self, handle: Handle<u32>) -> u64 {
        self.0.get(handle).expect("it is live").key
    }

    fn sort(&mut self) {
        self.0.sort_unstable_by_key(|value| value.key);
    }

    fn in_order(&self) -> u64 {
        weigh(self.0.iter().map(|value| value.key))
    }
}

/// Ours without.
pub struct Raw<'a>(RawOrderedPool<Value, u32, BorrowedSliceSource<'a>>);

impl<'a> Raw<'a> {
    pub fn new(memory: &'a mut [MaybeUninit<u8>], blocks: usize) -> Self {
        Self(RawOrderedPool::new(BorrowedSliceSource::new(memory), blocks).expect("memory"))
    }
}

impl Pool for Raw<'_> {
    type Handle = NonNull<Value>;

    #[inline]
    fn insert(&mut self, value: Value) -> NonNull<Value> {
        // SAFETY: the block is written at once.
        unsafe {
            let physical = self.0.allocate().expect("there is room").physical;
            let block = self.0.pointer(physical);
            block.write(value);
            block
        }
    }

    #[inline]
    fn remove(&mut self, handle: NonNull<Value>) {
        // SAFETY: the workloads remove what they inserted, once.
        unsafe { self.0.free(self.0.physical_of(handle)) };
    }

    #[inline]
    fn get(&self, handle: NonNull<Value>) -> u64 {
        // SAFETY: as above.
        unsafe { handle.as_ref().key }
    }

    fn sort(&mut self) {
        self.0.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    }

    fn in_order(&self) -> u64 {
        // SAFETY: the order names live blocks.
        weigh(self.0.order().iter().map(|at| unsafe { self.0.pointer(*at).as_ref().key }))
    }
}

/// ordered-pool-allocator.
pub struct Peer<'a>(OrderedPoolAllocator<'a, Value, 4>);

impl<'a> Peer<'a> {
    pub fn new(memory: &'a mut [MaybeUninit<u8>], _: usize) -> Self {
        // SAFETY: `memory()` initialised every byte.
        let bytes = unsafe { &mut *(memory as *mut [MaybeUninit<u8>] as *mut [u8]) };
        // It takes the start of the buffer as aligned.
        let padding = bytes.as_ptr().align_offset(8);
        Self(OrderedPoolAllocator::new_in(&mut bytes[padding..]))
    }
}

impl Pool for Peer<'_> {
    type Handle = NonNull<Value>;

    #[inline]
    fn insert(&mut self, value: Value) -> NonNull<Value> {
        // SAFETY: the block is written at once.
        unsafe {
            let Ok(block) = self.0.allocate() else { panic!("there is room") };
            block.write(value);
            block
        }
    }

    #[inline]
    fn remove(&mut self, handle: NonNull<Value>) {
        // SAFETY: the workloads remove what they inserted, once.
        unsafe { self.0.deallocate(handle) };
    }

    #[inline]
    fn get(&self, handle: NonNull<Value>) -> u64 {
        // SAFETY: as above.
        unsafe { handle.as_ref().key }
    }

    fn sort(&mut self) {
        // SAFETY: it compares live blocks only.
        let key = |block: &MaybeUninit<Value>| unsafe { block.assume_init_ref().key };
        self.0.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    }

    fn in_order(&self) -> u64 {
        // SAFETY: places below the length are live blocks.
        weigh((0..self.0.len()).map(|place| unsafe { self.0[place].assume_init_ref().key }))
    }
}

/// slotmap, which has no order: the keys are sorted beside it.
pub struct Slots {
    map: SlotMap<DefaultKey, Value>,
    order: Vec<DefaultKey>,
}

impl Slots {
    pub fn new(_: &mut [MaybeUninit<u8>], blocks: usize) -> Self {
        Self { map: SlotMap::with_capacity(blocks), order: Vec::new() }
    }
}

impl Pool for Slots {
    type Handle = DefaultKey;

    #[inline]
    fn insert(&mut self, value: Value) -> DefaultKey {
        self.map.insert(value)
    }

    #[inline]
    fn remove(&mut self, handle: DefaultKey) {
        self.map.remove(handle).expect("it is live");
    }

    #[inline]
    fn get(&self, handle: DefaultKey) -> u64 {
        self.map.get(handle).expect("it is live").key
    }

    fn sort(&mut self) {
        self.order.clear();
        self.order.extend(self.map.keys());
        let map = &self.map;
        self.order.sort_unstable_by_key(|key| map[*key].key);
    }

    fn in_order(&self) -> u64 {
        weigh(self.order.iter().map(|key| self.map[*key].key))
    }
}

/// Fills the pool with values of random keys.
pub fn fill<P: Pool>(pool: &mut P, blocks: usize) -> Vec<P::Handle> {
    let mut numbers = Numbers(3);
    (0..blocks).map(|_| pool.insert(Value::new(numbers.below(1 << 30) as u64))).collect()
}

/// Removes and inserts at random, `count` times. Not inlined, as little of this file is that loops,
/// so that what is timed is the code whose instructions are counted.
#[inline(never)]
pub fn churn<P: Pool>(pool: &mut P, handles: &mut [P::Handle], count: usize) {
    let mut numbers = Numbers(5);
    for round in 0..count {
        let which = numbers.below(handles.len());
        pool.remove(handles[which]);
        handles[which] = pool.insert(Value::new(round as u64));
    }
}

/// Gets at random, `count` times.
#[inline(never)]
pub fn gets<P: Pool>(pool: &P, handles: &[P::Handle], count: usize) {
    let mut numbers = Numbers(7);
    let sum = (0..count)
        .fold(0_u64, |sum, _| sum.wrapping_add(pool.get(handles[numbers.below(handles.len())])));
    black_box(sum);
}

/// Gives all values other keys, in an order of no meaning, so that they are to be sorted again.
pub fn shuffle<P: Pool>(pool: &mut P, handles: &mut [P::Handle]) {
    let count = handles.len();
    let mut numbers = Numbers(11);
    for handle in handles.iter_mut() {
        pool.remove(*handle);
        *handle = pool.insert(Value::new(numbers.below(count * 8) as u64));
    }
}

//! `cargo bench --bench pool`: the ordered pool beside ordered-pool-allocator and slotmap, by
//! criterion.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use stores::pool::{self, Peer, Pool, Raw, Safe, Slots};

const BLOCKS: usize = 20_000;
const OPERATIONS: usize = 20_000;

fn works<P: Pool>(criterion: &mut Criterion, name: &str, pool: &mut P) {
    let mut handles = pool::fill(pool, BLOCKS);
    let mut group = criterion.benchmark_group("20,000 blocks of 64 bytes");
    group.bench_function(BenchmarkId::new("free and allocate", name), |bencher| {
        bencher.iter(|| pool::churn(pool, &mut handles, OPERATIONS));
    });
    group.bench_function(BenchmarkId::new("get", name), |bencher| {
        bencher.iter(|| pool::gets(pool, &handles, OPERATIONS));
    });
    let cell = std::cell::RefCell::new((pool, handles));
    group.bench_function(BenchmarkId::new("sort", name), |bencher| {
        let shuffle = || {
            let (pool, handles) = &mut *cell.borrow_mut();
            pool::shuffle(*pool, handles);
        };
        bencher.iter_batched(shuffle, |()| cell.borrow_mut().0.sort(), BatchSize::PerIteration);
    });
    group.bench_function(BenchmarkId::new("walk", name), |bencher| {
        bencher.iter(|| cell.borrow().0.in_order());
    });
    group.finish();
}

fn pools(criterion: &mut Criterion) {
    let mut memory = pool::memory(BLOCKS);
    works(criterion, "handles", &mut Safe::new(&mut memory, BLOCKS));
    works(criterion, "raw", &mut Raw::new(&mut memory, BLOCKS));
    works(criterion, "ordered-pool-allocator", &mut Peer::new(&mut memory, BLOCKS));
    works(criterion, "slotmap", &mut Slots::new(&mut memory, BLOCKS));
}

criterion_group!(benches, pools);
criterion_main!(benches);

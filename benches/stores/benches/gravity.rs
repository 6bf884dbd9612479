//! `cargo bench --bench gravity`: the compacting store beside the port, by criterion.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heapswitch::store::GravityStore;
use stores::gravity::{Filled, Lengths, Store, ends, sum};
use stores::port::Port;

const LENGTHS: Lengths = Lengths(1024, 4096);
const CAPACITY: usize = 16 << 20;

fn both<S: Store>(criterion: &mut Criterion, name: &str) {
    let mut group = criterion.benchmark_group("two threads at 90 % fill, 1 to 4 KiB");
    group.throughput(Throughput::Elements(2));
    let mut filled = Filled::<S>::new(CAPACITY, LENGTHS, 2);
    group.bench_function(BenchmarkId::new("read", name), |bencher| {
        bencher.iter_custom(|count| filled.read(count as usize, ends));
    });
    group.bench_function(BenchmarkId::new("9 reads, 1 replaced", name), |bencher| {
        bencher.iter_custom(|count| filled.mixed(count as usize, ends));
    });
    group.bench_function(BenchmarkId::new("replaced", name), |bencher| {
        bencher.iter_custom(|count| filled.replace(count as usize));
    });
    group.finish();
}

fn scaling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reads of every byte, by threads");
    for threads in [1, 2] {
        let mut filled = Filled::<GravityStore>::new(CAPACITY, Lengths(64, 256), threads);
        group.throughput(Throughput::Elements(threads as u64));
        group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
            bencher.iter_custom(|count| filled.read(count as usize, sum));
        });
    }
    group.finish();
}

fn gravity(criterion: &mut Criterion) {
    both::<GravityStore>(criterion, "GravityStore");
    both::<Port>(criterion, "port");
    scaling(criterion);
}

criterion_group!(benches, gravity);
criterion_main!(benches);

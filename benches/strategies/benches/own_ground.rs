//! `cargo bench`: each strategy beside its peers on the peers' own ground, by criterion.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use strategies::many::{self, Work};
use strategies::peers::{self, Buffer, Peer};
use strategies::workloads;

/// Times one run after the other, each on an allocator made anew.
fn time(criterion: &mut Criterion, row: &str, name: &str, mut run: impl FnMut() -> Duration) {
    let mut group = criterion.benchmark_group(row);
    group.sample_size(10);
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| run()).sum());
    });
    group.finish();
}

macro_rules! beside {
    (
        $criterion:ident, $buffer:ident, $row:expr, $work:expr;
        $($name:literal $make:path),* $(,)?
    ) => {
        $(time($criterion, $row, $name, || {
            let addresses = $buffer.addresses();
            let peer = $make($buffer);
            $work(&peer, &addresses)
        });)*
    };
}

/// Buddies: many live powers of two, and pairs.
fn buddies(criterion: &mut Criterion, buffer: &mut Buffer) {
    beside!(
        criterion, buffer, "20,000 of 32 B to 4 KiB", workloads::powers;
        "BuddyAllocator" peers::our_buddy, "buddy_system_allocator" peers::buddy,
    );
    fn pairs(peer: &impl Peer, addresses: &std::ops::Range<usize>) -> Duration {
        workloads::pairs(peer, addresses, 8)
    }
    beside!(
        criterion, buffer, "pairs of 8 B", pairs;
        "BuddyAllocator" peers::our_buddy, "buddy_system_allocator" peers::buddy,
    );
}

/// Free lists: talc's random actions, and scopes within scopes.
fn free_lists(criterion: &mut Criterion, buffer: &mut Buffer) {
    for most in [256, 1000, 10_000, 100_000] {
        beside!(
            criterion, buffer, &format!("random to {most} B"),
            |peer: &_, addresses: &_| workloads::random_actions(peer, addresses, most, false);
            "FreeListAllocator" peers::free_list, "first fit" peers::first_fit,
            "talc" peers::talc, "linked_list_allocator" peers::linked_list,
        );
    }
    beside!(
        criterion, buffer, "nested scopes of 16 to 512 B", workloads::nested;
        "FreeListAllocator" peers::free_list, "first fit" peers::first_fit,
        "talc" peers::talc, "linked_list_allocator" peers::linked_list,
    );
}

/// Stripes: a million allocations of one size.
fn stripes(criterion: &mut Criterion, buffer: &mut Buffer) {
    for (row, work) in [
        ("a million of 64 B, filled and emptied", Work::FillAndEmpty),
        ("a million of 64 B, random ones replaced", Work::Replace),
    ] {
        beside!(
            criterion, buffer, row,
            |peer: &_, addresses: &_| many::in_peer(peer, addresses, work);
            "StripeAllocator" peers::stripes,
        );
        time(criterion, row, "slab", || many::in_slab_crate(work));
    }
}

fn own_ground(criterion: &mut Criterion) {
    let mut buffer = Buffer::new(128 << 20);
    buddies(criterion, &mut buffer);
    free_lists(criterion, &mut buffer);
    stripes(criterion, &mut buffer);
}

criterion_group!(benches, own_ground);
criterion_main!(benches);

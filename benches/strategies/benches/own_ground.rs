//! `cargo bench`: each strategy beside its peers on the peers' own ground, by criterion.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use strategies::many::{self, Work};
use strategies::peers::{self, Buffer};
use strategies::{published, requests, workloads};

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

/// Blocks that come and go one by one: talc's random actions, for all that frees single blocks.
fn random_actions(criterion: &mut Criterion, buffer: &mut Buffer) {
    for most in [256, 1000, 10_000, 100_000] {
        for with_resize in [false, true] {
            let row = format!("random{} to {most} B", if with_resize { ", resize" } else { "" });
            beside!(
                criterion, buffer, &row,
                |peer: &_, addresses: &_| {
                    workloads::random_actions(peer, addresses, most, with_resize, 0)
                };
                "MultipleBinarySearchTreeAllocator" peers::trees, "BitSetAllocator" peers::bits,
                "FreeListAllocator" peers::free_list, "first fit" peers::first_fit,
                "BuddyAllocator" peers::our_buddy, "StripeAllocator" peers::stripes,
                "talc" peers::talc, "buddy_system_allocator" peers::buddy,
                "linked_list_allocator" peers::linked_list,
            );
        }
    }
}

/// talc's published random actions, for those that are given all memory as one range, as it is.
fn published_actions(criterion: &mut Criterion, buffer: &mut Buffer) {
    for most in published::MOST_BYTES {
        for with_resize in [false, true] {
            let row = format!("talc's{} to {most} B", if with_resize { ", resize" } else { "" });
            beside!(
                criterion, buffer, &row,
                |peer: &_, addresses: &_| {
                    published::random_actions(peer, addresses, most, with_resize)
                };
                "MultipleBinarySearchTreeAllocator" peers::reserved_trees,
                "BitSetAllocator" peers::reserved_bits,
                "FreeListAllocator" peers::reserved_free_list,
                "BuddyAllocator" peers::reserved_buddy,
                "talc" peers::talc, "buddy_system_allocator" peers::buddy,
            );
        }
    }
}

/// Bump: requests' objects that are all dropped at once.
fn bumps(criterion: &mut Criterion, buffer: &mut Buffer) {
    let row = "2000 objects, all dropped";
    time(criterion, row, "BumpAllocator", || requests::in_bump(buffer));
    time(criterion, row, "bumpalo", requests::in_bumpalo);
}

/// Buddies: many live powers of two, and pairs.
fn buddies(criterion: &mut Criterion, buffer: &mut Buffer) {
    beside!(
        criterion, buffer, "20,000 of 32 B to 4 KiB", workloads::powers;
        "BuddyAllocator" peers::our_buddy, "buddy_system_allocator" peers::buddy,
    );
    for (row, bytes) in [("pairs of 8 B", 8), ("pairs of 1 MiB", 1 << 20)] {
        beside!(
            criterion, buffer, row,
            |peer: &_, addresses: &_| workloads::pairs(peer, addresses, bytes);
            "BuddyAllocator" peers::our_buddy, "MultipleBinarySearchTreeAllocator" peers::trees,
            "BitSetAllocator" peers::bits, "talc" peers::talc,
            "buddy_system_allocator" peers::buddy, "linked_list_allocator" peers::linked_list,
        );
    }
    // Each behind a lock of its crate's.
    beside!(
        criterion, buffer, "two threads, locked", workloads::threads;
        "LockedBuddyAllocator" peers::locked_buddy,
        "buddy_system_allocator" peers::spin_locked_buddy,
    );
}

/// Free lists: scopes within scopes.
fn free_lists(criterion: &mut Criterion, buffer: &mut Buffer) {
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
    random_actions(criterion, &mut buffer);
    published_actions(criterion, &mut buffer);
    bumps(criterion, &mut buffer);
    buddies(criterion, &mut buffer);
    free_lists(criterion, &mut buffer);
    stripes(criterion, &mut buffer);
}

criterion_group!(benches, own_ground);
criterion_main!(benches);

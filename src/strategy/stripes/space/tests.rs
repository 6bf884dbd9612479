//! The worked example, the errors, and random operations against a plain model.

use std::collections::BTreeMap;

use super::*;

fn space(length: usize, alignment: usize) -> StripeSpace {
    StripeSpace::new(SpaceSettings { start: 0, length, alignment }).unwrap()
}

/// Everything that the type's page says, of the whole space.
fn verify(space: &StripeSpace, first: usize, end: usize) {
    let mut parts: Vec<(usize, usize, bool)> = vec![];
    parts.extend(space.stripes.iter().map(|(&start, stripe)| (start, stripe.length(), false)));
    parts.extend(space.blanks.iter().map(|(&start, &length)| (start, length, true)));
    parts.sort_unstable();
    let (mut at, mut was_blank) = (first, false);
    for (start, length, is_blank) in parts {
        assert_eq!(start, at);
        assert!(!(was_blank && is_blank), "two blanks touch");
        (at, was_blank) = (start + length, is_blank);
    }
    assert_eq!(at, end);
    for (&start, stripe) in &space.stripes {
        assert!(stripe.fill != 0);
        assert_eq!(space.open.contains(&(stripe.stride, start)), !stripe.is_full());
    }
    assert!(space.by_size.iter().all(|(length, start)| space.blanks.get(start) == Some(length)));
    assert_eq!(space.by_size.len(), space.blanks.len());
}

#[test]
fn the_worked_example() {
    let mut space = space(1000, 1);
    let addresses = [3, 3, 3, 12, 12, 12].map(|size| space.allocate(size).unwrap());
    assert_eq!(addresses, [0, 3, 6, 48, 60, 72]);
    assert_eq!(space.allocation_size(addresses[4]), Ok(12));
    assert_eq!(space.allocation_size(addresses[0]), Ok(3));
    verify(&space, 0, 1000);
}

#[test]
fn wrong_calls_are_errors_and_change_nothing() {
    let mut space = space(1000, 1);
    let address = space.allocate(10).unwrap();
    let before = format!("{space:?}");
    assert_eq!(space.allocate(0), Err(SpaceError::ZeroSize));
    for wrong in [address + 1, address + 10, 999, 1000, usize::MAX] {
        assert_eq!(space.free(wrong), Err(SpaceError::NotAllocated(wrong)));
        assert_eq!(space.allocation_size(wrong), Err(SpaceError::NotAllocated(wrong)));
    }
    let full = SpaceError::Full { size: 900, longest_blank: 840 };
    assert_eq!(space.allocate(900), Err(full));
    assert_eq!(
        space.allocate(usize::MAX),
        Err(SpaceError::Full { size: usize::MAX, longest_blank: 840 })
    );
    assert_eq!(format!("{space:?}"), before);
    assert_eq!(space.free(address), Ok(10));
    assert_eq!(space.free(address), Err(SpaceError::NotAllocated(address)));
    for (start, length, alignment) in [(0, 10, 0), (0, 10, 3), (usize::MAX, 2, 1)] {
        let settings = SpaceSettings { start, length, alignment };
        assert_eq!(StripeSpace::new(settings).err(), Some(SpaceError::Settings(settings)));
    }
}

#[test]
fn where_sixteen_do_not_fit_one_does() {
    let mut space = space(100, 1);
    assert_eq!([(); 4].map(|()| space.allocate(30).ok()), [Some(0), Some(30), Some(60), None]);
    assert_eq!(space.allocate(1), Ok(90), "ten are left: one of one");
    verify(&space, 0, 100);
    assert_eq!(space.free(30), Ok(30));
    assert_eq!(space.free(0), Ok(30));
    assert_eq!(space.longest_blank(), 60);
    verify(&space, 0, 100);
}

#[test]
fn the_shortest_blank_is_taken() {
    let mut space = space(16 * 100, 1);
    let blocks = [20, 30, 10, 40].map(|size| space.allocate(size).unwrap());
    assert_eq!(blocks, [0, 320, 800, 960]);
    space.free(blocks[0]).unwrap();
    space.free(blocks[2]).unwrap();
    // Blanks of 320 and of 160; both are long enough for sixteen of 10.
    assert_eq!(space.allocate(9), Ok(800));
    assert_eq!(space.allocate(15), Ok(0));
    verify(&space, 0, 1600);
}

#[test]
fn every_address_is_aligned_and_the_ends_are_left_out() {
    let settings = SpaceSettings { start: 5, length: 1000, alignment: 16 };
    let mut space = StripeSpace::new(settings).unwrap();
    for size in [1, 16, 17, 100] {
        let address = space.allocate(size).unwrap();
        assert!(address.is_multiple_of(16) && address >= 16);
        assert_eq!(space.allocation_size(address), Ok(size.next_multiple_of(16)));
    }
    verify(&space, 16, 1005);
}

#[test]
fn random_operations() {
    let mut space = space(30_000, 4);
    let mut model = BTreeMap::new();
    let mut state = 11_usize;
    for step in 0..4000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let random = state >> 33;
        let target = [10, 200, 50][step / 500 % 3];
        if random.is_multiple_of(4) == (model.len() < target) {
            let at = random % 30_000;
            let Some((&address, &size)) = model.range(at..).next() else { continue };
            assert_eq!(space.free(address), Ok(size));
            model.remove(&address);
        } else {
            let size = 1 + random % [8, 40, 300][random % 3];
            let Ok(address) = space.allocate(size) else { continue };
            assert_eq!(model.insert(address, size.next_multiple_of(4)), None);
        }
        assert!(space.iter().eq(model.iter().map(|(&address, &size)| (address, size))));
        assert_eq!(space.allocations(), model.len());
        assert_eq!(space.allocated(), model.values().sum::<usize>());
        if step % 16 == 0 {
            verify(&space, 0, 30_000);
        }
    }
}

/// A linear scan would not end in this test's time.
#[test]
fn holds_a_million_allocations() {
    const COUNT: usize = 1_000_000;
    let mut space = space(1 << 40, 8);
    let sizes = |index: usize| 8 * (1 + index % 100);
    let addresses: Vec<_> = (0..COUNT).map(|index| space.allocate(sizes(index)).unwrap()).collect();
    assert_eq!(space.allocations(), COUNT);
    let order = |step: usize| step * 7919 % COUNT;
    for step in 0..COUNT {
        assert_eq!(space.free(addresses[order(step)]), Ok(sizes(order(step))));
    }
    assert_eq!((space.allocations(), space.longest_blank()), (0, 1 << 40));
}

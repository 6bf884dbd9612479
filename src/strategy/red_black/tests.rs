//! The red-black tree against every small case and against a sorted vector.

use super::{Links, Node, NonNull, RedBlackTree};

struct Item {
    key: u32,
    links: Links<Item>,
}

// SAFETY: the links are a field, and no test changes a key.
unsafe impl Node for Item {
    type Key = u32;

    const OWNER: &'static str = "the tests";

    unsafe fn links(node: NonNull<Self>) -> NonNull<Links<Self>> {
        // SAFETY: the node is valid; a field of it is not at address zero.
        unsafe { NonNull::new_unchecked(&raw mut (*node.as_ptr()).links) }
    }

    unsafe fn key(node: NonNull<Self>) -> u32 {
        // SAFETY: the node is valid.
        unsafe { (*node.as_ptr()).key }
    }
}

fn item(key: u32) -> NonNull<Item> {
    let links = Links { children: [None; 2], parent: None, is_red: false };
    NonNull::from(Box::leak(Box::new(Item { key, links })))
}

fn drop_item(item: NonNull<Item>) {
    // SAFETY: the item was leaked by `item` and left its tree.
    drop(unsafe { Box::from_raw(item.as_ptr()) });
}

fn key_of(item: NonNull<Item>) -> u32 {
    // SAFETY: the items of these tests live until `drop_item`.
    unsafe { Item::key(item) }
}

fn keys_in_order(tree: &RedBlackTree<Item>) -> Vec<u32> {
    let mut keys = Vec::new();
    let mut at = tree.first_from(0);
    while let Some(here) = at {
        keys.push(key_of(here));
        // SAFETY: the node was found in the tree.
        at = unsafe { tree.next(here) };
    }
    keys
}

#[test]
fn an_empty_tree_has_no_first_node() {
    let tree = RedBlackTree::<Item>::new();
    assert_eq!(tree.verify(), 0);
    assert!(tree.first_from(0).is_none());
}

#[test]
fn every_order_of_six_inserts_and_every_removal_from_it_keeps_the_invariants() {
    for order in permutations(6) {
        for &removed in &order {
            let mut tree = RedBlackTree::new();
            let mut items: Vec<_> = order.iter().map(|&key| item(key)).collect();
            for &node in &items {
                // SAFETY: a fresh item, dropped only after it was removed.
                unsafe { tree.insert(node) };
                tree.verify();
            }
            let position = items.iter().position(|&node| key_of(node) == removed);
            let node = items.swap_remove(position.expect("every key is in the order"));
            // SAFETY: the node was inserted above.
            unsafe { tree.remove(node) };
            drop_item(node);
            assert_eq!(tree.verify(), items.len());
            let expected: Vec<u32> = (0..6).filter(|&key| key != removed).collect();
            assert_eq!(keys_in_order(&tree), expected);
            items.into_iter().for_each(drop_item);
        }
    }
}

#[test]
fn random_operations_agree_with_a_sorted_vector() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % bound
    };
    let mut tree = RedBlackTree::new();
    let mut items: Vec<NonNull<Item>> = Vec::new();
    for step in 0..20_000 {
        let is_growing = step / 2_000 % 2 == 0;
        if items.is_empty() || next(10) < if is_growing { 7 } else { 3 } {
            let node = item(next(500) as u32);
            // SAFETY: a fresh item, dropped only after it was removed.
            unsafe { tree.insert(node) };
            items.push(node);
        } else {
            let node = items.swap_remove(next(items.len()));
            // SAFETY: the node was inserted and not removed.
            unsafe { tree.remove(node) };
            drop_item(node);
        }
        let wanted = next(520) as u32;
        let found = tree.first_from(wanted).map(key_of);
        assert_eq!(found, items.iter().map(|&node| key_of(node)).filter(|&k| k >= wanted).min());
        if step % 16 == 0 {
            assert_eq!(tree.verify(), items.len());
            let mut expected: Vec<u32> = items.iter().map(|&node| key_of(node)).collect();
            expected.sort_unstable();
            assert_eq!(keys_in_order(&tree), expected);
        }
    }
    items.into_iter().for_each(drop_item);
}

#[test]
fn a_later_node_of_an_equal_key_comes_later() {
    let mut tree = RedBlackTree::new();
    let items: Vec<_> = [5, 5, 5, 5].map(item).to_vec();
    for &node in &items {
        // SAFETY: fresh items that outlive the tree's use.
        unsafe { tree.insert(node) };
    }
    let mut at = tree.first_from(5);
    for &expected in &items {
        assert_eq!(at, Some(expected));
        // SAFETY: the node is in the tree.
        at = at.and_then(|node| unsafe { tree.next(node) });
    }
    assert!(at.is_none());
    items.into_iter().for_each(drop_item);
}

fn permutations(count: u32) -> Vec<Vec<u32>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(count - 1) {
        for place in 0..=shorter.len() {
            let mut longer = shorter.clone();
            longer.insert(place, count - 1);
            all.push(longer);
        }
    }
    all
}

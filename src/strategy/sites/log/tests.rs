//! Logs: sites are told apart by their stacks, and counted.

use super::*;
use crate::sys::call_stack::CallStack;

/// A stack of these frames.
fn stack(frames: &[usize]) -> CallStack {
    let mut stack = CallStack::EMPTY;
    frames.iter().for_each(|&frame| assert!(stack.push(frame)));
    stack
}

fn live(log: &SiteLog) -> Vec<(Vec<usize>, u64, u64)> {
    let mut live = Vec::new();
    log.for_each(|site| live.push((site.frames.to_vec(), site.blocks, site.bytes)));
    live
}

#[test]
fn places_follow_each_other_without_a_gap() {
    let mut expected = (0, 0);
    for index in 0..MOST_SITES {
        assert_eq!(place_of(index), expected);
        expected.1 += 1;
        if expected.1 == FIRST_SITES << expected.0 {
            expected = (expected.0 + 1, 0);
        }
    }
    assert_eq!(expected, (SEGMENTS, 0));
}

#[test]
fn a_stack_is_one_site() {
    let log = SiteLog::new(7, SiteSampling::All).unwrap();
    let numbers: Vec<_> =
        (0..2000_usize).map(|n| log.site_of(&stack(&[n, n / 2, 1])).unwrap()).collect();
    assert_eq!(numbers, (0..2000).collect::<Vec<u32>>());
    assert_eq!(log.site_of(&stack(&[1234, 617, 1])), Some(1234));
    assert_eq!(log.site_of(&stack(&[1234, 617])), Some(2000), "a shorter one is another");
    assert_eq!(live(&log), []);
    log.count_in(1234, 100, Weight::ONE);
    log.count_in(1234, 50, Weight::ONE);
    log.count_in(3, 8, Weight::new(2.5));
    log.count_off(1234, 100, Weight::ONE);
    assert_eq!(live(&log), [(vec![3, 1, 1], 1, 8), (vec![1234, 617, 1], 1, 50)]);
    log.for_each(|site| {
        let expected = if site.frames[0] == 3 { (3, 20) } else { (1, 50) };
        assert_eq!((site.estimated_blocks, site.estimated_bytes), expected);
    });
    log.count_off(3, 8, Weight::new(2.5));
    assert_eq!(live(&log).len(), 1);
}

#[test]
fn logs_are_listed_while_they_are_held() {
    let made: Vec<_> =
        (1..=3).map(|n| SiteLog::new(u64::MAX - n, SiteSampling::All).unwrap()).collect();
    let contexts = || {
        let contexts: Vec<_> = site_logs().map(|log| log.context()).collect();
        (1..=3).filter(|n| contexts.contains(&(u64::MAX - n))).collect::<Vec<u64>>()
    };
    assert_eq!(contexts(), [1, 2, 3]);
    let [first, second, third]: [SiteLog; 3] = made.try_into().unwrap();
    let kept = second.clone();
    drop((first, second));
    assert_eq!(contexts(), [2, 3]);
    drop((third, kept));
    assert_eq!(contexts(), []);
}

//! Data structures as programs use them: here the allocator's locality counts.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hint::black_box;

use crate::random::Random;
use crate::{FixedHasher, Part};

enum Expression {
    Number(u64),
    Name(String),
    Sum(Box<Expression>, Box<Expression>),
    Call(Vec<Expression>),
}

impl Expression {
    fn random(random: &mut Random, depth: usize) -> Self {
        const ARGUMENTS: usize = 4;
        if depth == 0 {
            return match random.below(3) {
                0 => Self::Name(format!("variable_{}", random.below(1000))),
                _ => Self::Number(random.next()),
            };
        }
        if random.below(4) == 0 {
            let count = random.below(ARGUMENTS);
            return Self::Call((0..count).map(|_| Self::random(random, depth - 1)).collect());
        }
        let left = Self::random(random, depth - 1);
        Self::Sum(Box::new(left), Box::new(Self::random(random, depth - 1)))
    }

    fn value(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Name(name) => name.len() as u64,
            Self::Sum(left, right) => left.value().wrapping_add(right.value()),
            Self::Call(arguments) => {
                arguments.iter().map(Self::value).fold(1, |all, value| all.wrapping_mul(31) ^ value)
            }
        }
    }
}

/// A syntax tree is built, walked, and dropped.
pub(crate) fn tree(part: Part) {
    const DEPTH: usize = 16;
    let mut random = Random::of_thread(part.thread);
    for _ in 0..part.repeats {
        black_box(Expression::random(&mut random, DEPTH).value());
    }
}

/// A JSON text of half a megabyte is parsed into a tree of values.
pub(crate) fn json(part: Part) {
    const RECORDS: usize = 4000;
    let mut random = Random::of_thread(part.thread);
    let mut text = String::from("[");
    for number in 0..RECORDS {
        let comma = if number == 0 { "" } else { "," };
        let (score, tag) = (random.below(10_000), random.below(100));
        write!(
            text,
            "{comma}{{\"id\":{number},\"name\":\"user {score}\",\"score\":{score}.5,\
             \"tags\":[\"tag{tag}\",\"all\"],\"address\":{{\"city\":\"City {tag}\",\"no\":{tag}}}}}"
        )
        .expect("a string takes any text");
    }
    text.push(']');
    for _ in 0..part.repeats {
        let value: serde_json::Value = serde_json::from_str(&text).expect("the text is JSON");
        assert_eq!(value.as_array().map(Vec::len), Some(RECORDS));
    }
}

/// A map from strings to strings grows, is searched, loses half, and is dropped. Its hashes are the
/// same in every run.
pub(crate) fn strings(part: Part) {
    const KEYS: usize = 50_000;
    for _ in 0..part.repeats {
        let mut random = Random::of_thread(part.thread);
        let mut map: HashMap<String, String, FixedHasher> = HashMap::default();
        for number in 0..KEYS {
            let value = "v".repeat(1 + random.below(60));
            map.insert(format!("key/{number}"), value);
        }
        for number in (0..KEYS).step_by(2) {
            map.remove(&format!("key/{number}"));
        }
        assert_eq!(map.len(), KEYS / 2);
    }
}

/// A B-tree grows in random order, loses every other key, and is dropped.
pub(crate) fn btree(part: Part) {
    const KEYS: usize = 100_000;
    for _ in 0..part.repeats {
        let mut random = Random::of_thread(part.thread);
        let keys: Vec<u64> = (0..KEYS).map(|_| random.next()).collect();
        let mut map: BTreeMap<u64, [u64; 3]> = keys.iter().map(|&key| (key, [key; 3])).collect();
        for &key in keys.iter().rev() {
            map.entry(key ^ 1).or_insert([key; 3]);
        }
        for key in keys.iter().step_by(2) {
            map.remove(key);
        }
        black_box(map.len());
    }
}

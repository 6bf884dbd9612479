//! What programs do all day: text, caches, sorting, graphs, events, indexes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Write;
use std::hint::black_box;

use crate::random::Random;
use crate::{FixedHasher, Part};

/// A report is written: fields are formatted, joined, searched and replaced, lines appended.
pub(crate) fn text(part: Part) {
    const LINES: usize = 500;
    let mut random = Random::of_thread(part.thread);
    for _ in 0..part.repeats {
        let mut report = String::new();
        for number in 0..LINES {
            let fields: Vec<String> = (0..1 + random.below(8))
                .map(|field| format!("field {field} = {:x}", random.next()))
                .collect();
            let line =
                fields.join("; ").replace("field", if number % 2 == 0 { "f" } else { "item" });
            let title: Vec<String> =
                line.split(' ').take(3).map(|word| word.to_uppercase()).collect();
            writeln!(report, "{number:>6} {} {line}", title.concat()).expect("a string takes all");
        }
        let longest = report.lines().map(str::to_owned).max_by_key(String::len);
        black_box((longest, report));
    }
}

struct Cached {
    key: usize,
    value: Vec<u8>,
    newer: usize,
    older: usize,
}

/// A cache of the most recently used values, linked by index; entry 0 is the end of both ways.
struct Cache {
    places: HashMap<usize, usize, FixedHasher>,
    entries: Vec<Cached>,
}

impl Cache {
    fn unlink(&mut self, place: usize) {
        let Cached { newer, older, .. } = self.entries[place];
        self.entries[newer].older = older;
        self.entries[older].newer = newer;
    }

    fn link_as_newest(&mut self, place: usize) {
        let newest = self.entries[0].older;
        (self.entries[place].newer, self.entries[place].older) = (0, newest);
        self.entries[newest].newer = place;
        self.entries[0].older = place;
    }

    fn oldest(&self) -> usize {
        self.entries[0].newer
    }
}

/// A cache of 20,000 values of 16 bytes to 16 KiB, most of them small, is asked for keys of which
/// some are wanted far more often than others; what it lacks is made, and the oldest dropped.
pub(crate) fn cache(part: Part) {
    const ENTRIES: usize = 20_000;
    const KEYS: usize = 100_000;
    let mut random = Random::of_thread(part.thread);
    let mut cache = Cache { places: HashMap::default(), entries: Vec::new() };
    cache.entries.push(Cached { key: KEYS, value: Vec::new(), newer: 0, older: 0 });
    for _ in 0..part.repeats {
        let key = random.below(KEYS) * random.below(KEYS) / KEYS;
        if let Some(&place) = cache.places.get(&key) {
            black_box(cache.entries[place].value.first());
            cache.unlink(place);
            cache.link_as_newest(place);
            continue;
        }
        let largest = if random.below(8) == 0 { 16 << 10 } else { 512 };
        let value = vec![key as u8; random.size_bytes(16, largest)];
        let place = if cache.entries.len() <= ENTRIES {
            cache.entries.push(Cached { key, value, newer: 0, older: 0 });
            cache.entries.len() - 1
        } else {
            let oldest = cache.oldest();
            cache.unlink(oldest);
            let entry = &mut cache.entries[oldest];
            cache.places.remove(&entry.key);
            (entry.key, entry.value) = (key, value);
            oldest
        };
        cache.places.insert(key, place);
        cache.link_as_newest(place);
    }
    assert_eq!(cache.places.len() + 1, cache.entries.len());
}

/// Vectors of short vectors are made, sorted, grouped by length and merged.
pub(crate) fn sort(part: Part) {
    const VECTORS: usize = 30_000;
    const LONGEST: usize = 24;
    let mut random = Random::of_thread(part.thread);
    for _ in 0..part.repeats {
        let mut vectors: Vec<Vec<u32>> = (0..VECTORS)
            .map(|_| (0..random.below(LONGEST)).map(|_| random.below(1000) as u32).collect())
            .collect();
        for vector in &mut vectors {
            vector.sort();
        }
        vectors.sort();
        let mut groups: Vec<Vec<Vec<u32>>> = vec![Vec::new(); LONGEST];
        for vector in &vectors {
            groups[vector.len()].push(vector.clone());
        }
        let mut merged = groups.concat();
        merged.sort();
        assert!(merged == vectors, "grouping loses nothing");
    }
}

/// A graph of 40,000 nodes and 240,000 random edges is built, searched in breadth from a few nodes,
/// and turned round.
pub(crate) fn graph(part: Part) {
    const NODES: usize = 40_000;
    const EDGES: usize = 240_000;
    const SEARCHES: usize = 2;
    let mut random = Random::of_thread(part.thread);
    for _ in 0..part.repeats {
        let mut edges: Vec<Vec<usize>> = vec![Vec::new(); NODES];
        for _ in 0..EDGES {
            edges[random.below(NODES)].push(random.below(NODES));
        }
        for start in 0..SEARCHES {
            let mut distances = vec![usize::MAX; NODES];
            let mut queue = VecDeque::from([start]);
            distances[start] = 0;
            while let Some(node) = queue.pop_front() {
                for &next in &edges[node] {
                    if distances[next] == usize::MAX {
                        distances[next] = distances[node] + 1;
                        queue.push_back(next);
                    }
                }
            }
            black_box(distances);
        }
        let mut turned: Vec<Vec<usize>> = vec![Vec::new(); NODES];
        for (node, next) in edges.iter().enumerate() {
            next.iter().for_each(|&next| turned[next].push(node));
        }
        assert_eq!(turned.iter().map(Vec::len).sum::<usize>(), EDGES);
    }
}

/// What happens at an event's time.
type Action = Box<dyn FnOnce(&mut World)>;

struct World {
    random: Random,
    /// By time, then by number; the actions stand apart, for they have no order.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    actions: HashMap<usize, Action, FixedHasher>,
    events: usize,
    sum: u64,
}

impl World {
    fn schedule(&mut self, time: u64, action: Action) {
        self.events += 1;
        self.due.push(Reverse((time, self.events)));
        self.actions.insert(self.events, action);
    }
}

/// A simulation: events are closures in boxes, of several sizes; each schedules one after it.
pub(crate) fn events(part: Part) {
    const UNDER_WAY: usize = 5000;
    let mut world = World {
        random: Random::of_thread(part.thread),
        due: BinaryHeap::new(),
        actions: HashMap::default(),
        events: 0,
        sum: 0,
    };
    for _ in 0..UNDER_WAY {
        let action = action(&mut world.random);
        world.schedule(0, action);
    }
    for _ in 0..part.repeats {
        let Reverse((time, number)) = world.due.pop().expect("each event schedules another");
        let happens = world.actions.remove(&number).expect("each event has an action");
        happens(&mut world);
        let delay = 1 + world.random.below(1000) as u64;
        let next = action(&mut world.random);
        world.schedule(time + delay, next);
    }
    black_box(world.sum);
}

fn action(random: &mut Random) -> Action {
    let number = random.next();
    match random.below(4) {
        0 => Box::new(move |world| world.sum ^= number),
        1 => {
            let numbers = [number; 6];
            Box::new(move |world| world.sum ^= numbers[(world.sum % 6) as usize])
        }
        2 => {
            let name = format!("event {number}");
            Box::new(move |world| world.sum += name.len() as u64)
        }
        _ => {
            let numbers: Vec<u64> = (0..1 + number % 40).collect();
            Box::new(move |world| world.sum += numbers.iter().sum::<u64>())
        }
    }
}

/// An index of a text: each word, in small letters, with the places where it stands.
pub(crate) fn words(part: Part) {
    const WORDS: usize = 100_000;
    const DIFFERENT: usize = 20_000;
    let mut random = Random::of_thread(part.thread);
    let mut text = String::new();
    for _ in 0..WORDS {
        let word = random.below(DIFFERENT) * random.below(DIFFERENT) / DIFFERENT;
        write!(text, "Word{word}{} ", "x".repeat(word % 12)).expect("a string takes any text");
    }
    for _ in 0..part.repeats {
        let mut index: HashMap<String, Vec<u32>, FixedHasher> = HashMap::default();
        for (place, word) in text.split_ascii_whitespace().enumerate() {
            index.entry(word.to_lowercase()).or_default().push(place as u32);
        }
        let mut by_count: Vec<(&String, &Vec<u32>)> = index.iter().collect();
        by_count.sort_by_key(|(word, places)| (Reverse(places.len()), *word));
        let top: Vec<String> = by_count
            .iter()
            .take(100)
            .map(|(word, places)| format!("{word} {}", places.len()))
            .collect();
        assert_eq!(index.values().map(Vec::len).sum::<usize>(), WORDS);
        black_box(top);
    }
}

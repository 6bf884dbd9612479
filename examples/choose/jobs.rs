//! The jobs whose traces are beside this example: what ordinary programs do, in small. Their texts
//! stand in `inputs`, so that a job does the same whatever becomes of the repository.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Does something, and gives a figure that depends on all of it.
pub(crate) type Job = fn() -> usize;

const JOBS: &[(&str, Job)] =
    &[("cache", cache), ("json", json), ("nodes", nodes), ("requests", requests), ("words", words)];

/// The job of that name.
pub(crate) fn named(name: &str) -> Result<Job, String> {
    let found = JOBS.iter().find(|(known, _)| *known == name);
    found.map(|&(_, job)| job).ok_or_else(|| {
        let names: Vec<&str> = JOBS.iter().map(|&(name, _)| name).collect();
        format!("there is no job {name}; there are {}", names.join(", "))
    })
}

/// A sequence that is the same on every run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

/// A cache of 400 values of 16 bytes to 4 KiB, most of them short, the oldest evicted first.
fn cache() -> usize {
    let mut sequence = Sequence(1);
    let mut values: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut ages = VecDeque::new();
    let mut hits = 0;
    for _ in 0..7000 {
        let key = sequence.below(50).min(sequence.below(50)) * 16 + sequence.below(16);
        if let Some(value) = values.get(&key) {
            hits += value.len();
            continue;
        }
        let most = 16 << sequence.below(9);
        let bytes = 1 + sequence.below(most);
        values.insert(key, vec![key as u8; bytes]);
        ages.push_back(key);
        if ages.len() > 400
            && let Some(oldest) = ages.pop_front()
        {
            values.remove(&oldest);
        }
    }
    hits
}

/// Reads a lock file of cargo's into a JSON document, prints that, parses it, and changes it.
fn json() -> usize {
    use serde_json::{Map, Value};

    let mut packages: Vec<Value> = vec![];
    let mut package = Map::new();
    for line in include_str!("inputs/packages.txt").lines() {
        if line == "[[package]]" && !package.is_empty() {
            packages.push(Value::Object(std::mem::take(&mut package)));
        } else if let Some((key, value)) = line.split_once(" = ") {
            package.insert(key.to_owned(), Value::String(value.trim_matches('"').to_owned()));
        } else if let Some(dependency) = line.trim().strip_suffix(',') {
            let list = package.entry("dependencies").or_insert_with(|| Value::Array(vec![]));
            match list {
                Value::Array(list) => list.push(dependency.trim_matches('"').into()),
                other => *other = Value::Array(vec![]),
            }
        }
    }
    let text = Value::Array(packages).to_string();
    let mut parsed: Value = serde_json::from_str(&text).expect("what was printed is JSON");
    let Some(list) = parsed.as_array_mut() else { return 0 };
    list.retain(|package| package["name"].as_str().is_some_and(|name| name.len() % 3 != 0));
    for (number, package) in list.iter_mut().enumerate() {
        package["checksum"] = Value::String(format!("{number:08x}"));
    }
    serde_json::to_string_pretty(&parsed).map_or(0, |text| text.len())
}

/// A node of a search tree: the one size of all.
struct Node {
    key: usize,
    children: [Option<Box<Node>>; 2],
}

fn insert(mut slot: &mut Option<Box<Node>>, key: usize) {
    while let Some(node) = slot {
        slot = &mut node.children[usize::from(key > node.key)];
    }
    *slot = Some(Box::new(Node { key, children: [None, None] }));
}

/// Takes out the node of a key, if it has a child too few; whether it did.
fn remove(mut slot: &mut Option<Box<Node>>, key: usize) -> bool {
    while slot.as_ref().is_some_and(|node| node.key != key) {
        let Some(node) = slot else { return false };
        slot = &mut node.children[usize::from(key > node.key)];
    }
    let Some(node) = slot else { return false };
    if node.children.iter().all(Option::is_some) {
        return false;
    }
    let [left, right] = &mut node.children;
    let child = left.take().or_else(|| right.take());
    *slot = child;
    true
}

/// A search tree of up to 4000 nodes that grows and shrinks.
fn nodes() -> usize {
    let mut sequence = Sequence(3);
    let (mut root, mut keys, mut removed) = (None, vec![], 0);
    for round in 0..6 {
        for _ in 0..1500 {
            let key = sequence.below(1 << 30);
            insert(&mut root, key);
            keys.push(key);
        }
        for _ in 0..if round % 2 == 0 { 500 } else { 1800 } {
            let key = keys.swap_remove(sequence.below(keys.len()));
            removed += usize::from(remove(&mut root, key));
        }
    }
    removed
}

/// 120 requests: a head is parsed into strings, a body built in a growing buffer, all is dropped;
/// every tenth leaves a line in a log.
fn requests() -> usize {
    let mut sequence = Sequence(4);
    let (mut log, mut bytes) = (vec![], 0);
    for number in 0..120 {
        let mut head = format!("GET /items/{number}?page={} HTTP/1.1\r\n", sequence.below(9));
        for field in ["Host", "Accept", "User-Agent", "Cookie", "Accept-Language"] {
            head += &format!("{field}: {}\r\n", "value ".repeat(1 + sequence.below(12)));
        }
        let mut lines = head.lines();
        let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let fields: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut body = String::new();
        for item in 0..sequence.below(60) {
            body += &format!("<li>{target} {item} for {}</li>\n", fields["host"]);
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        bytes += answer.len();
        if number % 10 == 0 {
            log.push(format!("{target} {} {bytes}", fields.len()));
        }
    }
    bytes + log.len()
}

/// An index of the words of a page: where each occurs.
fn words() -> usize {
    let mut index: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (line, text) in include_str!("inputs/words.txt").lines().enumerate() {
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        for word in text.split(|character| !is_part(character)).filter(|word| !word.is_empty()) {
            let column = word.as_ptr().addr() - text.as_ptr().addr();
            index.entry(word.to_lowercase()).or_default().push((line, column));
        }
    }
    let mut by_count: Vec<(usize, &String)> =
        index.iter().map(|(word, places)| (places.len(), word)).collect();
    by_count.sort_unstable();
    let lines: Vec<String> =
        by_count.iter().map(|(count, word)| format!("{word}: {count}")).collect();
    lines.join("\n").len()
}

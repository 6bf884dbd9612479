//! The same work for both, and what it took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::Cache;
use crate::options::Options;

pub struct Figures {
    pub seconds: f64,
    /// The most memory that the process had.
    pub peak_bytes: u64,
    hits: u64,
    operations: u64,
    evictions: u64,
    wrong: u64,
    remark: String,
}

impl Figures {
    pub fn to_line(&self) -> String {
        let Self { seconds, peak_bytes, hits, operations, evictions, wrong, remark } = self;
        format!("{seconds}\t{peak_bytes}\t{hits}\t{operations}\t{evictions}\t{wrong}\t{remark}")
    }

    pub fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let seconds = fields.next()?.parse().ok()?;
        let mut next = || fields.next()?.parse().ok();
        let [peak_bytes, hits, operations, evictions, wrong] =
            [next()?, next()?, next()?, next()?, next()?];
        let remark = fields.next()?.to_owned();
        Some(Self { seconds, peak_bytes, hits, operations, evictions, wrong, remark })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.3} s, {} bytes at most, {:.1} % found, {} evicted, {} wrong, {}",
            self.seconds,
            self.peak_bytes,
            self.hits as f64 * 100.0 / self.operations as f64,
            self.evictions,
            self.wrong,
            self.remark
        )
    }
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }

    /// Small numbers more often than large ones.
    fn skewed_below(&mut self, limit: u64) -> u64 {
        let (a, b) = (self.next() % limit, self.next() % limit);
        a * b / limit
    }
}

/// From 100 to 4195 bytes, mostly short: the value of a number, always the same.
fn value(id: u64, buffer: &mut Vec<u8>) {
    let scrambled = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let length = 100 + (scrambled % (1 << (3 + scrambled % 10))) as usize;
    buffer.clear();
    buffer.resize(length, id as u8);
    buffer[..8].copy_from_slice(&id.to_le_bytes());
}

pub fn measure(cache: &impl Cache, options: &Options) -> Figures {
    // Four times as many bytes as the cache holds.
    let ids = (options.capacity_bytes / 100).max(1) as u64;
    let (hits, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let each = options.operations / options.threads;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..options.threads {
            let (hits, wrong) = (&hits, &wrong);
            scope.spawn(move || {
                let (mut numbers, mut buffer) = (Numbers(thread + 1), Vec::new());
                let (mut found, mut bad) = (0, 0);
                for _ in 0..each {
                    let id = numbers.skewed_below(ids);
                    let is_there = cache.get(id, |bytes| {
                        let is_right = bytes[..8] == id.to_le_bytes()
                            && bytes[8..].iter().all(|byte| *byte == id as u8);
                        bad += u64::from(!is_right);
                    });
                    if is_there {
                        found += 1;
                    } else {
                        value(id, &mut buffer);
                        cache.put(id, &buffer);
                    }
                }
                hits.fetch_add(found, Ordering::Relaxed);
                wrong.fetch_add(bad, Ordering::Relaxed);
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let (evictions, remark) = cache.summary();
    Figures {
        seconds,
        peak_bytes: peak_bytes(),
        hits: hits.into_inner(),
        operations: each * options.threads,
        evictions,
        wrong: wrong.into_inner(),
        remark,
    }
}

/// The most resident memory so far; 1 where the system does not tell.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.map_or(1, |kilobytes| kilobytes * 1024)
}

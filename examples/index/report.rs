//! The figures, for people and for programs.

use std::fmt;

use heapswitch::Heap;
use heapswitch::units::CHUNK_BYTES;

use crate::job::Outcome;

/// What is told about a run.
#[derive(Debug)]
pub(crate) struct Summary {
    files: usize,
    binary_files: usize,
    unreadable: usize,
    words: usize,
    occurrences: usize,
    most_frequent: String,
    context_bytes: usize,
    thread_bytes: i64,
    global_bytes: u64,
    peak_bytes: usize,
    escapees: usize,
    chunks_taken: usize,
    chunks_returned: usize,
    chunks_held: usize,
    explained_chunks: usize,
    seconds: f64,
}

impl Summary {
    /// Of a run whose contexts were charged to `root` and whose index is still there.
    pub(crate) fn new(outcome: &Outcome, root: &Heap) -> Self {
        let contexts = &outcome.contexts;
        let account = root.account();
        Self {
            files: outcome.index.files(),
            binary_files: outcome.binary_files,
            unreadable: outcome.unreadable.len(),
            words: outcome.index.words(),
            occurrences: outcome.index.occurrences(),
            most_frequent: listed(&outcome.most_frequent),
            context_bytes: contexts.used_bytes,
            thread_bytes: outcome.thread_bytes,
            global_bytes: outcome.global_bytes,
            peak_bytes: account.peak_bytes,
            escapees: contexts.escapees,
            chunks_taken: (contexts.kept_bytes + contexts.returned_bytes) / CHUNK_BYTES,
            chunks_returned: contexts.returned_bytes / CHUNK_BYTES,
            // What the contexts' account says, not what is left of the sums above.
            chunks_held: account.committed_bytes / CHUNK_BYTES,
            explained_chunks: contexts.explained_chunks,
            seconds: outcome.duration.as_secs_f64(),
        }
    }

    /// That every chunk which is held holds an escapee.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.chunks_taken - self.chunks_returned != self.chunks_held {
            return Err(format!(
                "{} chunks were taken and {} given back, but {} are held",
                self.chunks_taken, self.chunks_returned, self.chunks_held
            ));
        }
        if self.chunks_held > self.explained_chunks {
            return Err(format!(
                "{} chunks are held and the escapees lie in {} at most",
                self.chunks_held, self.explained_chunks
            ));
        }
        Ok(())
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> String {
        let fields = [
            ("files", self.files.to_string()),
            ("words", self.words.to_string()),
            ("context_bytes", self.context_bytes.to_string()),
            ("thread_bytes", self.thread_bytes.to_string()),
            ("global_bytes", self.global_bytes.to_string()),
            ("peak_bytes", self.peak_bytes.to_string()),
            ("escapees", self.escapees.to_string()),
            ("chunks_taken", self.chunks_taken.to_string()),
            ("chunks_returned", self.chunks_returned.to_string()),
            ("chunks_held", self.chunks_held.to_string()),
            ("secs", format!("{:.6}", self.seconds)),
        ];
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}\n", fields.join(", "))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, binary_files, unreadable, words, occurrences, .. } = self;
        let mut row = |name: &str, value: String, meaning: &str| {
            writeln!(formatter, "{name:<26}{value:>12}  {meaning}")
        };
        let left_out = format!("indexed; {binary_files} binary, {unreadable} unreadable");
        row("files", files.to_string(), &left_out)?;
        row("words", words.to_string(), &format!("different ones; read {occurrences}"))?;
        row("  most frequent", String::new(), &self.most_frequent)?;
        row(
            "context heaps",
            bytes(self.context_bytes as u64),
            "the most of each coroutine, one a file, summed up",
        )?;
        row("  the most at once", bytes(self.peak_bytes as u64), "")?;
        let thread_bytes = u64::try_from(self.thread_bytes).unwrap_or(0);
        row("thread heaps", bytes(thread_bytes), "hold the words and their postings")?;
        row("global allocator", bytes(self.global_bytes), "")?;
        row("escapees", self.escapees.to_string(), "blocks made in contexts that outlive them")?;
        row(
            "chunks taken",
            self.chunks_taken.to_string(),
            "of 64 KiB, held as their contexts ended",
        )?;
        row("  given back", self.chunks_returned.to_string(), "at once")?;
        let explained =
            format!("each with an escapee, which explain up to {}", self.explained_chunks);
        row("  held", self.chunks_held.to_string(), &explained)
    }
}

fn listed(words: &[(String, u32)]) -> String {
    let words: Vec<_> = words.iter().map(|(word, count)| format!("{word} {count}")).collect();
    words.join(", ")
}

/// Bytes in a unit that people read.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

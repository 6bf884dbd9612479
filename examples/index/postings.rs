//! The index: which words occur where.

use std::cmp::Reverse;

use hashbrown::HashMap;

/// Where a word occurs in one file.
#[derive(Debug)]
struct Posting {
    file: u32,
    /// The word's part of the file's `lines`.
    first: u32,
    count: u32,
}

/// The words of some files. The words and their postings belong to all files and lie in the heap of
/// the thread that makes the index; the lines belong to one file each and lie wherever they were
/// made.
#[derive(Debug, Default)]
pub(crate) struct Index {
    words: HashMap<String, Vec<Posting>>,
    /// By file: the lines of its words, those of a word in a row.
    lines: HashMap<u32, Box<[u32]>>,
}

impl Index {
    /// Adds a file: its words, each with how many of `lines` are its.
    pub(crate) fn add_file<'a>(
        &mut self,
        file: u32,
        words: impl Iterator<Item = (&'a str, u32)>,
        lines: Box<[u32]>,
    ) {
        let mut first = 0;
        for (word, count) in words {
            self.words.entry_ref(word).or_default().push(Posting { file, first, count });
            first += count;
        }
        self.lines.insert(file, lines);
    }

    /// Moves another index, of other files, into this one.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (word, postings) in other.words {
            self.words.entry(word).or_default().extend(postings);
        }
        self.lines.extend(other.lines);
    }

    /// How many different words there are.
    pub(crate) fn words(&self) -> usize {
        self.words.len()
    }

    /// How many words were read.
    pub(crate) fn occurrences(&self) -> usize {
        self.lines.values().map(|lines| lines.len()).sum()
    }

    /// How many files have words.
    pub(crate) fn files(&self) -> usize {
        self.lines.len()
    }

    /// The `count` words that occur most often, and how often. Makes a list of all words on the
    /// way.
    pub(crate) fn most_frequent(&self, count: usize) -> Vec<(String, u32)> {
        let occurrences =
            |postings: &[Posting]| postings.iter().map(|posting| posting.count).sum::<u32>();
        let mut words: Vec<(u32, &str)> = self
            .words
            .iter()
            .map(|(word, postings)| (occurrences(postings), word.as_str()))
            .collect();
        words.sort_unstable_by_key(|&(occurrences, word)| (Reverse(occurrences), word));
        words.truncate(count);
        words.into_iter().map(|(occurrences, word)| (word.to_owned(), occurrences)).collect()
    }

    /// File and line of each place where `word` occurs, in order.
    pub(crate) fn find(&self, word: &str) -> Vec<(u32, u32)> {
        let postings = self.words.get(&*word.to_lowercase());
        let mut places: Vec<_> = postings
            .into_iter()
            .flatten()
            .flat_map(|posting| {
                let lines = self.lines.get(&posting.file).map_or(&[][..], |lines| lines);
                let (first, count) = (posting.first as usize, posting.count as usize);
                lines[first..][..count].iter().map(|&line| (posting.file, line))
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

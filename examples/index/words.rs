//! Words, cut from a text that arrives in blocks.

/// Longer ones are encoded data, hardly words; in bytes.
const MAX_WORD_BYTES: usize = 64;

/// Cuts a text into words: letters, digits and underscores. A word may begin in one block and end
/// in the next.
#[derive(Debug)]
pub(crate) struct Splitter {
    /// The end of the last block, if that may be the beginning of a word.
    begun: Vec<u8>,
    /// The word that is visited, in lower case.
    word: String,
    line: u32,
}

impl Splitter {
    pub(crate) fn new() -> Self {
        Self { begun: Vec::new(), word: String::new(), line: 1 }
    }

    /// Calls `visit` with each word that ends in `block`, in lower case, and its line from 1.
    pub(crate) fn split(&mut self, block: &[u8], mut visit: impl FnMut(&str, u32)) {
        let mut rest = block;
        while let Some(end) = rest.iter().position(|&byte| !IS_OF_WORD[usize::from(byte)]) {
            let (word, after) = rest.split_at(end);
            self.end_word(word, &mut visit);
            self.line += u32::from(after.starts_with(b"\n"));
            rest = &after[1..];
        }
        // One byte too many tells that the word is too long; more would only take memory.
        let room = (MAX_WORD_BYTES + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&rest[..rest.len().min(room)]);
    }

    /// Calls `visit` with the text's last word, if no other byte followed it.
    pub(crate) fn finish(mut self, mut visit: impl FnMut(&str, u32)) {
        self.end_word(&[], &mut visit);
    }

    #[inline]
    fn end_word(&mut self, end: &[u8], visit: &mut impl FnMut(&str, u32)) {
        if self.begun.is_empty() {
            self.visit_word(end, visit);
        } else {
            let mut word = std::mem::take(&mut self.begun);
            word.extend_from_slice(end);
            self.visit_word(&word, visit);
        }
    }

    #[inline]
    fn visit_word(&mut self, word: &[u8], visit: &mut impl FnMut(&str, u32)) {
        if !(1..=MAX_WORD_BYTES).contains(&word.len()) {
            return;
        }
        self.word.clear();
        match str::from_utf8(word) {
            Ok(word) if word.is_ascii() => {
                self.word.push_str(word);
                self.word.make_ascii_lowercase();
            }
            _ => self.word.push_str(&String::from_utf8_lossy(word).to_lowercase()),
        }
        visit(&self.word, self.line);
    }
}

/// Whether a byte belongs to a word; every byte of a character beyond ASCII does.
const IS_OF_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = character.is_ascii_alphanumeric() || character == b'_' || byte > 127;
        byte += 1;
    }
    table
};

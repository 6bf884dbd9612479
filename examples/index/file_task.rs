//! One file's part of the job. The same code runs with the switching on and off: it names no heap
//! but where something is to outlive it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hashbrown::HashMap;

use crate::postings::Index;
use crate::words::Splitter;

/// How much is read between two suspensions.
const BLOCK_BYTES: usize = 16 << 10;

/// A list of lines this long is moved to the index, and pins its chunks. A shorter one is copied:
/// it is not worth a chunk of 64 KiB, nor the system call that gives the pages around it back.
const WORTH_MOVING_BYTES: usize = 16 << 10;

/// Room for as many words as most files have, so that the map seldom grows: what it grew out of is
/// of no use to a heap that is given back whole.
const MOST_HAVE_WORDS: usize = 200;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// It is in the index, its list of lines copied.
    Copied,
    /// It is in the index, its list of lines, of so many bytes, where it was made.
    Moved { bytes: usize },
    /// It is no text.
    Binary,
}

/// Reads a file and adds it to the index; calls `pause` after each block.
///
/// Everything here is scratch memory of the file's context: the block that was read, the word at
/// hand, the map from words to lines. It goes back whole when the context ends. Two things outlive
/// it: the words and postings, which are made in the thread's heap, and the list of all lines,
/// which may escape.
pub(crate) fn run(
    path: &Path,
    file: u32,
    index: &RefCell<Index>,
    pause: impl Fn(),
) -> io::Result<Content> {
    let mut reader = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut splitter = Splitter::new();
    let mut found: HashMap<String, Vec<u32>> = HashMap::with_capacity(MOST_HAVE_WORDS);
    let mut is_first = true;
    loop {
        let length = match reader.read(&mut block) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let text = &block[..length];
        if is_first && text.contains(&0) {
            return Ok(Content::Binary);
        }
        is_first = false;
        splitter.split(text, |word, line| found.entry_ref(word).or_default().push(line));
        pause();
    }
    splitter.finish(|word, line| found.entry_ref(word).or_default().push(line));
    Ok(add_to(index, file, &found))
}

fn add_to(index: &RefCell<Index>, file: u32, found: &HashMap<String, Vec<u32>>) -> Content {
    let count = found.values().map(Vec::len).sum();
    let mut lines = Vec::with_capacity(count);
    found.values().for_each(|of_word| lines.extend_from_slice(of_word));
    let lines = lines.into_boxed_slice();
    let bytes = size_of_val(&*lines);
    let words = found.iter().map(|(word, lines)| (&**word, lines.len() as u32));

    let add = |lines| index.borrow_mut().add_file(file, words.clone(), lines);
    let content =
        if bytes >= WORTH_MOVING_BYTES { Content::Moved { bytes } } else { Content::Copied };
    // The index grows in here, and what it makes for that is to stay: not in this context, then.
    let is_added = heapswitch::with_thread_local(|| match content {
        Content::Moved { .. } => add(lines),
        _ => add(lines.clone()),
    });
    // It fails only while the thread is torn down, and no coroutine runs then.
    is_added.map_or(Content::Copied, |()| content)
}

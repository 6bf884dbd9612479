//! The smallest whole program: declare the allocator, run something in a heap of its own, close
//! the heap, go on with what outlived it.
//!
//! `cargo run --example quickstart`

use heapswitch::{Heap, HeapError};

heapswitch::global_thread_and_coroutine_switchable_allocator!();

fn main() -> Result<(), HeapError> {
    let heap = Heap::new()?;

    // Whatever this allocates comes from `heap`, in here and in every library that it calls.
    let longest = heap.run(|| {
        let text = "a heap for each request, and every request's heap given back whole";
        let mut words: Vec<String> = text.split_whitespace().map(str::to_uppercase).collect();
        words.sort_by_key(String::len);
        words.pop()
    })?;

    // The vector and the other strings are gone. The longest word escaped: it keeps its chunk of
    // the heap, stays valid, and may be freed anywhere and at any time.
    let report = heap.close();
    println!("the longest word: {}", longest.as_deref().unwrap_or("none"));
    println!("escaped: {} block, which keeps {} bytes", report.blocks, report.kept_bytes);

    let before = held_bytes();
    drop(longest);
    println!("when it is dropped: {} bytes go back", before - held_bytes());
    Ok(())
}

/// What all heaps of the process hold.
fn held_bytes() -> usize {
    heapswitch::process_usage().region.taken_bytes
}

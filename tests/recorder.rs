//! Recording what several threads allocate, each freeing what others allocated.

use std::alloc::System;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::mpsc::channel;
use std::thread;

use heapswitch::Recorder;
use heapswitch::adapt::trace::{Trace, TraceEvent};

#[global_allocator]
static RECORDER: Recorder<System> = Recorder::new(System);

/// A file that is removed again.
struct Recording(std::path::PathBuf);

impl Recording {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("heapswitch-recorder-{}", std::process::id())))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn work(seed: usize) -> Vec<String> {
    let mut made = vec![];
    for number in 0..2000 {
        let mut text = format!("{seed}:{number}");
        text.push_str(&"x".repeat((number * 7 + seed) % 90));
        made.push(text);
        if number % 3 == 0 {
            made.swap_remove(number * seed % made.len());
        }
    }
    made
}

/// One test: the recorder is the program's, and records every thread.
#[test]
fn what_threads_do_is_recorded_in_an_order_that_makes_sense() {
    assert_eq!(RECORDER.stop().map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    let recording = Recording::new();
    RECORDER.start(File::create(&recording.0).unwrap()).unwrap();
    let other = File::create("/dev/null").unwrap();
    let again = RECORDER.start(other).map_err(|error| error.kind());
    assert_eq!(again, Err(ErrorKind::AlreadyExists));
    let (send, receive) = channel();
    let threads: Vec<_> = (1..4)
        .map(|seed| {
            let send = send.clone();
            thread::spawn(move || send.send(work(seed)).unwrap())
        })
        .collect();
    drop(send);
    let made: usize =
        receive.iter().map(|texts| texts.iter().map(String::len).sum::<usize>()).sum();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let zeroed = vec![0_u64; 5000];
    drop(zeroed);
    let events = RECORDER.stop().unwrap();
    let bytes = std::fs::read(&recording.0).unwrap();
    // An address that two live blocks had would be an error here.
    let trace = Trace::read(&bytes).unwrap();
    assert!(made > 0 && trace.events.len() as u64 <= events);
    assert!(trace.events.len() > 12_000, "only {} events", trace.events.len());
    let count =
        |is: fn(&TraceEvent) -> bool| trace.events.iter().filter(|&event| is(event)).count();
    assert!(count(|event| matches!(event, TraceEvent::Reallocate { .. })) > 100);
    assert!(
        count(|event| matches!(event, TraceEvent::Allocate { is_zeroed: true, layout, .. }
        if layout.size() == 40_000))
            == 1
    );
    let (allocated, freed) = (
        count(|event| matches!(event, TraceEvent::Allocate { .. })),
        count(|event| matches!(event, TraceEvent::Free { .. })),
    );
    assert!(allocated - freed < 200, "{allocated} allocated, {freed} freed");
}

/// A full disk ends the trace, and is told at the end.
#[test]
#[cfg(target_os = "linux")]
fn a_write_that_fails_is_told() {
    let recorder = Recorder::new(System);
    recorder.start(File::create("/dev/full").unwrap()).unwrap();
    assert_eq!(recorder.stop().unwrap_err().raw_os_error(), Some(28), "no space left");
}

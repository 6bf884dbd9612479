//! `Recorder`: a global allocator that writes what the program allocates and frees to a file.
//!
//! The trace is replayed by the example `choose` over every strategy. Costs an atomic load a call
//! while it does not record; while it does, a lock and a few bytes, and a `write` every 16 KiB:
//! the program runs slower, and threads take turns, but what they do is the same.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::File;
use std::io::{self, Write};

use super::trace::{Encoder, Event, MAGIC, MAX_EVENT_BYTES};
use crate::sys::lock::Lock;

/// What is written to the file at once, in bytes.
const BUFFER_BYTES: usize = 16 << 10;

/// Passes every call on to another allocator, and records it between [`start`](Self::start) and
/// [`stop`](Self::stop).
///
/// It never allocates on its own: events wait in a buffer within it, which goes to the file by one
/// `write` when it is full. Frees are recorded before they happen and allocations after, and a
/// reallocation while no other event is, so the trace has each address at most once at a time,
/// whatever threads do.
///
/// A trace has no mark at its end: one that was cut off between two events is read as far as it
/// goes, and blocks that were not freed by then are live at its end.
///
/// A child of `fork` must not go on recording: it writes into the same file. The allocator below
/// must not call back.
///
/// ```
/// use std::alloc::System;
///
/// use heapswitch::adapt::Recorder;
/// use heapswitch::adapt::trace::Trace;
///
/// #[global_allocator]
/// static RECORDER: Recorder<System> = Recorder::new(System);
///
/// # fn main() -> std::io::Result<()> {
/// let path = std::env::temp_dir().join(format!("trace-{}", std::process::id()));
/// RECORDER.start(std::fs::File::create(&path)?)?;
/// let words: Vec<String> = (0..100).map(|number| format!("word {number}")).collect();
/// drop(words);
/// let events = RECORDER.stop()?;
/// let trace = Trace::read(&std::fs::read(&path)?).unwrap();
/// assert!(events >= 200 && trace.events.len() as u64 <= events);
/// # std::fs::remove_file(&path)
/// # }
/// ```
#[derive(Debug)]
pub struct Recorder<A> {
    allocator: A,
    is_recording: AtomicBool,
    log: Lock<Log>,
}

#[derive(Debug)]
struct Log {
    file: Option<File>,
    encoder: Encoder,
    events: u64,
    /// The first write that failed; nothing is recorded from then on.
    error: Option<io::Error>,
    used: usize,
    buffer: [u8; BUFFER_BYTES],
}

impl Log {
    const fn new() -> Self {
        Self {
            file: None,
            encoder: Encoder::new(),
            events: 0,
            error: None,
            used: 0,
            buffer: [0; BUFFER_BYTES],
        }
    }

    fn record(&mut self, event: Event) {
        if self.file.is_none() || self.error.is_some() {
            return;
        }
        if BUFFER_BYTES - self.used < MAX_EVENT_BYTES {
            self.flush();
        }
        let encoded = self.encoder.encode(event);
        self.append(encoded.as_slice());
        self.events += 1;
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if let Some(room) = self.buffer.get_mut(self.used..end) {
            room.copy_from_slice(bytes);
            self.used = end;
        }
    }

    /// Writes the buffer to the file. Neither a file's `write` nor its errors allocate.
    fn flush(&mut self) {
        if let (Some(mut file), Some(bytes)) = (self.file.as_ref(), self.buffer.get(..self.used))
            && let Err(error) = file.write_all(bytes)
        {
            self.error = Some(error);
        }
        self.used = 0;
    }
}

impl<A> Recorder<A> {
    /// Passes on to `allocator`; records nothing yet.
    pub const fn new(allocator: A) -> Self {
        Self { allocator, is_recording: AtomicBool::new(false), log: Lock::new(Log::new()) }
    }

    /// The allocator below.
    pub const fn inner(&self) -> &A {
        &self.allocator
    }

    /// Records to `file` from now on.
    ///
    /// # Errors
    /// `AlreadyExists`: it records already. The file is closed and left as it was.
    pub fn start(&self, file: File) -> io::Result<()> {
        let mut log = self.log.lock();
        if log.file.is_some() {
            drop(log);
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a recorder was started that records already; stop it first",
            ));
        }
        log.file = Some(file);
        (log.encoder, log.events, log.error, log.used) = (Encoder::new(), 0, None, 0);
        log.append(&MAGIC);
        // Relaxed: the lock orders what the flag stands for; a call on another thread that does
        // not see it yet counts as made before.
        self.is_recording.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Records no more; how many events were recorded.
    ///
    /// # Errors
    /// `NotFound`: it did not record. Or that of the first write that failed: the trace ends there.
    pub fn stop(&self) -> io::Result<u64> {
        let mut log = self.log.lock();
        self.is_recording.store(false, Ordering::Relaxed);
        log.flush();
        let (file, error, events) = (log.file.take(), log.error.take(), log.events);
        // Closing the file and making an error may allocate: not under the lock.
        drop(log);
        match (file, error) {
            (None, _) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "a recorder was stopped that does not record; start it first",
            )),
            (_, Some(error)) => Err(error),
            (Some(_), None) => Ok(events),
        }
    }

    #[inline]
    fn is_recording(&self) -> bool {
        self.is_recording.load(Ordering::Relaxed)
    }

    #[cold]
    fn record(&self, event: Event) {
        self.log.lock().record(event);
    }

    #[inline]
    fn record_new(&self, block: *mut u8, layout: Layout, is_zeroed: bool) {
        if self.is_recording() && !block.is_null() {
            self.record(Event::Allocate { address: block.addr(), layout, is_zeroed });
        }
    }
}

// SAFETY: every call is passed on unchanged, and its result passed back. Recording neither
// allocates nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Recorder<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        let block = unsafe { self.allocator.alloc(layout) };
        self.record_new(block, layout, false);
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        let block = unsafe { self.allocator.alloc_zeroed(layout) };
        self.record_new(block, layout, true);
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if self.is_recording() {
            self.record(Event::Free { address: block.addr() });
        }
        // SAFETY: the caller's contract is the same.
        unsafe { self.allocator.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.is_recording() {
            // SAFETY: the caller's contract is the same.
            return unsafe { self.allocator.realloc(block, layout, new_size) };
        }
        // The lock is held meanwhile: the old address may be another block's before this returns.
        let mut log = self.log.lock();
        let old_address = block.addr();
        // SAFETY: the caller's contract is the same.
        let moved = unsafe { self.allocator.realloc(block, layout, new_size) };
        if !moved.is_null() {
            log.record(Event::Reallocate {
                old_address,
                new_address: moved.addr(),
                size: new_size,
            });
        }
        moved
    }
}

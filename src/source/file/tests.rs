//! File sources on files of their own in the temporary folder: contents, lengths and refusals.

use super::*;
use crate::sys::SystemError;
use std::path::{Path, PathBuf};
use std::vec::Vec;

const GRANULE: usize = 4096;

fn settings() -> FileSettings {
    FileSettings { maximum_bytes: 64 * GRANULE, granule: GRANULE, is_sparse: false }
}

/// A path of its own for each test; the file goes when this is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new(test: &str) -> Self {
        let name = std::format!("heapswitch-{}-{test}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn open(&self) -> FileMemorySource {
        // SAFETY: tests write to the file while no source is open.
        unsafe { FileMemorySource::open(&self.0, settings()) }.unwrap()
    }

    fn bytes(&self) -> usize {
        std::fs::metadata(&self.0).unwrap().len() as usize
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn request(bytes: usize, alignment: usize) -> Layout {
    Layout::from_size_align(bytes, alignment).unwrap()
}

fn fill(range: MemoryRange, mark: u8) {
    // SAFETY: the range is taken.
    unsafe { range.start.write_bytes(mark, range.length) };
}

fn holds(range: MemoryRange, mark: u8) -> bool {
    // SAFETY: the range is taken; a file's pages are always initialised.
    unsafe { range.as_slice().as_ref() }.iter().all(|byte| *byte == mark)
}

#[test]
fn contents_outlive_the_source() {
    let file = Temporary::new("persist");
    let source = file.open();
    assert!(source.contents().is_none());
    let first = source.take(request(2 * GRANULE, 8)).unwrap();
    let second = source.take(request(1, 8)).unwrap();
    assert!(first.is_zeroed && holds(first, 0) && second.length == GRANULE);
    fill(first, 1);
    fill(second, 2);
    assert_eq!(source.offset_of(second.start.as_ptr()), Some(2 * GRANULE));
    assert_eq!(source.address_of(2 * GRANULE), Some(second.start));
    assert_eq!((source.address_of(3 * GRANULE), file.bytes()), (None, 3 * GRANULE));
    source.flush(second).unwrap();
    drop(source);

    let source = file.open();
    let contents = source.contents().unwrap();
    assert_eq!((contents.length, contents.start), (3 * GRANULE, source.base()));
    let read = std::fs::read(&file.0).unwrap();
    assert_eq!(read, [[1; 2 * GRANULE].as_slice(), &[2; GRANULE]].concat());
    // What is taken now lies behind the contents, and what is given back of them is taken again.
    assert_eq!(
        source.offset_of(source.take(request(1, 1)).unwrap().start.as_ptr()),
        Some(3 * GRANULE)
    );
    let first = MemoryRange { length: 2 * GRANULE, ..contents };
    // SAFETY: whole granules of the contents, not used any more.
    unsafe { source.give_back(first) };
    source.verify();
    let again = source.take(request(2 * GRANULE, 1)).unwrap();
    source.verify();
    assert_eq!((again.start, again.is_zeroed), (contents.start, false));
}

#[test]
fn serves_up_to_its_maximum_in_any_order() {
    let file = Temporary::new("maximum");
    let source = file.open();
    let ranges: Vec<_> = (0..64).map(|_| source.take(request(GRANULE, 1)).unwrap()).collect();
    for (mark, range) in ranges.iter().enumerate() {
        fill(*range, mark as u8);
    }
    assert_eq!((source.take(request(1, 1)), source.last_error()), (Err(AllocError), None));
    for (mark, range) in ranges.iter().enumerate().step_by(2) {
        assert!(holds(*range, mark as u8));
        // SAFETY: taken above.
        unsafe { source.give_back(*range) };
    }
    assert!(source.take(request(2 * GRANULE, 1)).is_err());
    for range in ranges.iter().skip(1).step_by(2) {
        // SAFETY: taken above.
        unsafe { source.give_back(*range) };
    }
    assert_eq!(source.take(request(64 * GRANULE, 1)).unwrap().start, source.base());
}

#[test]
fn tells_what_is_broken() {
    let file = Temporary::new("broken");
    let source = file.open();
    let range = source.take(request(2 * GRANULE, 1)).unwrap();
    assert_eq!(source.broken(), None);
    let marked = |run: Run, is_set: bool| {
        let mut state = source.state.lock();
        bits::mark(state.words(), run, is_set);
        state.taken = if is_set { state.taken + 1 } else { state.taken - 1 };
    };
    let behind = Run { first: 7, length: 1 };
    marked(behind, true);
    assert_eq!(source.broken(), Some("what is taken lies behind the file's end"));
    marked(behind, false);
    source.state.lock().used_once = 65;
    assert_eq!(source.broken(), Some("the file is longer than it may be"));
    source.state.lock().used_once = 0;
    source.verify();
    // Given back twice.
    // SAFETY: taken above; the second time only the source's own bits are changed.
    unsafe {
        source.give_back(range);
        source.verify();
        source.give_back(range);
    }
    let counted = Some("more or less is marked as taken than was handed out");
    assert_eq!(source.broken(), counted);
}

#[test]
fn aligns_and_grows() {
    let file = Temporary::new("align");
    let source = file.open();
    let first = source.take(request(1, 1)).unwrap();
    let aligned = source.take(request(1, 16 * GRANULE)).unwrap();
    assert!(pointers::is_aligned(aligned.start, 16 * GRANULE));
    fill(aligned, 3);
    // SAFETY: taken above; each range is replaced by what it grew to.
    unsafe {
        let grown = source.grow(aligned, 3 * GRANULE).unwrap();
        assert_eq!((grown.start, grown.length), (aligned.start, 3 * GRANULE));
        assert!(holds(aligned, 3));
        fill(grown, 4);
        assert!(source.grow(grown, 65 * GRANULE).is_err());
        source.verify();
        source.give_back(grown);
        source.give_back(first);
        source.verify();
    }
    assert_eq!(source.release_unused().unwrap() % GRANULE, 0);
    assert_eq!((source.file_bytes(), file.bytes()), (0, 0));
    assert!(source.take(request(GRANULE, 1)).unwrap().is_zeroed);
}

#[test]
fn the_unused_end_goes_back_and_the_rest_stays() {
    let file = Temporary::new("shorten");
    let source = file.open();
    let ranges: Vec<_> = (0..4).map(|_| source.take(request(GRANULE, 1)).unwrap()).collect();
    fill(ranges[1], 7);
    for index in [0, 2, 3] {
        // SAFETY: taken above.
        unsafe { source.give_back(ranges[index]) };
    }
    source.verify();
    assert_eq!(source.release_unused(), Ok(2 * GRANULE));
    source.verify();
    assert_eq!(source.release_unused(), Ok(0));
    assert!(file.bytes() == 2 * GRANULE && holds(ranges[1], 7));
    assert_eq!(source.flush(ranges[3]), Err(FileSourceError::NotInFile));
}

#[test]
fn sparse_ranges_give_their_space_back() {
    use std::os::unix::fs::MetadataExt;
    let file = Temporary::new("sparse");
    let sparse = FileSettings { is_sparse: true, ..settings() };
    // SAFETY: the file is this test's.
    let source = unsafe { FileMemorySource::open(&file.0, sparse) }.unwrap();
    let range = source.take(request(64 * GRANULE, 1)).unwrap();
    let blocks = || std::fs::metadata(&file.0).unwrap().blocks();
    assert_eq!(blocks(), 0);
    fill(range, 1);
    source.flush(range).unwrap();
    let full = blocks();
    assert!(full >= (64 * GRANULE / 512) as u64);
    // SAFETY: taken above.
    unsafe { source.give_back(range) };
    assert!(blocks() < full);
}

#[test]
fn what_is_refused_says_why() {
    let file = Temporary::new("errors");
    let open = |settings| {
        // SAFETY: nothing is opened.
        unsafe { FileMemorySource::open(&file.0, settings) }.map(|_| ()).unwrap_err()
    };
    let odd = FileSettings { granule: 3 * GRANULE, ..settings() };
    assert!(matches!(open(odd), FileSourceError::Settings { .. }));
    let none = FileSettings { maximum_bytes: 0, ..settings() };
    assert!(matches!(open(none), FileSourceError::Settings { .. }));
    assert!(!file.0.exists(), "no file is made for them");
    let source = file.open();
    assert_eq!(open(settings()), FileSourceError::InUse);
    drop(source);
    std::fs::write(&file.0, [5; GRANULE + 1]).unwrap();
    let short = FileSettings { maximum_bytes: GRANULE, ..settings() };
    let too_long = FileSourceError::TooLong { file_bytes: 4097, maximum_bytes: GRANULE };
    assert_eq!(open(short), too_long);
    // A length that is no granule is rounded up with zeros.
    let contents = file.open().contents().unwrap();
    assert_eq!((contents.length, file.bytes()), (2 * GRANULE, 2 * GRANULE));
    let missing = Path::new("/nonexistent/heapswitch");
    // SAFETY: nothing is opened.
    let error = unsafe { FileMemorySource::open(missing, settings()) }.map(|_| ()).unwrap_err();
    assert_eq!(error, FileSourceError::Open { error: SystemError(2) });
    let huge = FileSettings { maximum_bytes: 1 << 60, ..settings() };
    assert!(matches!(open(huge), FileSourceError::Reserve { .. }));
    // Not writable: the mapping is refused.
    let readable = File::open(&file.0).unwrap();
    // SAFETY: as above.
    let error = unsafe { FileMemorySource::from_fd(readable.into(), settings()) };
    let error = error.map(|_| ()).unwrap_err();
    assert!(matches!(error, FileSourceError::Grow { .. } | FileSourceError::Map { .. }), "{error}");
}

/// The kernel takes the reservation away before it asks the file for huge pages, which it has not.
#[test]
fn a_file_that_refuses_to_be_mapped_leaves_the_reservation_whole() {
    use std::os::fd::{FromRawFd, OwnedFd};
    const HUGE: usize = 2 << 20;
    // SAFETY: the name is a string.
    let file =
        unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB | libc::MFD_HUGE_2MB) };
    if file < 0 {
        // Said past the test runner's capturing.
        let error = std::io::Error::last_os_error();
        let said = format!("\n*** NOT RUN: a file of huge pages that are not there: {error}\n");
        crate::sys::write_error(said.as_bytes());
        return;
    }
    // SAFETY: a file descriptor that nobody else has.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    // More than any machine has set aside.
    let settings = FileSettings { maximum_bytes: 1 << 40, granule: HUGE, is_sparse: true };
    // SAFETY: nobody else knows the file.
    let source = unsafe { FileMemorySource::from_fd(file, settings) }.unwrap();
    for _ in 0..2 {
        assert!(source.take(request(settings.maximum_bytes, 1)).is_err());
        assert!(matches!(source.last_error(), Some(FileSourceError::Map { .. })));
        assert_eq!(source.file_bytes(), 0);
        for granule in 0..4 {
            let start = source.base().as_ptr().wrapping_add(granule * HUGE);
            let mut pages = [0];
            let start = core::ptr::NonNull::new(start).unwrap();
            crate::sys::memory::resident_pages(start, 4096, &mut pages).unwrap();
        }
    }
}

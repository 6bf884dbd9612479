//! Tests of the region as a whole; the process has one, so they share it.
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::units::{CHUNK_BYTES, HUGE_PAGE_BYTES, PAGE_BYTES};

/// A kind of a test's own, so that other tests do not disturb its figures.
fn kind_of(name: &'static core::ffi::CStr) -> SegmentKind {
    kind_with(HugePages::Never, name)
}

fn kind_with(huge_pages: HugePages, name: &'static core::ffi::CStr) -> SegmentKind {
    register_kind(KindSettings {
        placement: crate::numa::Placement::DEFAULT,
        huge_pages,
        name,
        is_dumped: true,
    })
    .unwrap()
}

fn usage_of(kind: SegmentKind) -> RegionUsage {
    let mut usage = RegionUsage::default();
    lock_of(kind).lock().add_to(&mut usage);
    usage
}

/// Takes a run as a thread does that runs on a processor.
fn take_by(processor: usize, kind: SegmentKind, chunks: usize, align: usize) -> Run {
    assert!(ensure_reserved());
    let run = lock_of(kind).lock().take(kind, chunks, align, Processor::of(processor)).unwrap();
    sys::poison::unpoison(run.start(), run.bytes());
    run
}

/// # Safety
/// As [`return_run`]'s.
unsafe fn return_by(processor: usize, mut run: Run) {
    run.is_zeroed = false;
    let Some(kind) = kind_of_chunk(run.first_chunk()) else { return };
    sys::poison::poison(run.start(), run.bytes());
    // SAFETY: the caller's contract.
    unsafe { lock_of(kind).lock().give_back(run, Processor::of(processor)) };
}

/// Takes, fills, grows and gives back at random, on three processors, and checks contents, `each`
/// some steps the bins.
fn at_random(kind: SegmentKind, longest_shift: usize, mut each: impl FnMut(usize)) {
    let mut seed = 1_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let mut runs: Vec<(Run, u8)> = Vec::new();
    for step in 0..20_000_usize {
        if runs.len() < 200 && random(2) == 0 {
            let most = 1 << random(longest_shift + 1);
            let (chunks, align) = (1 + random(most), 1 << random(6));
            let run = take_by(random(3), kind, chunks, align);
            assert_eq!(run.first_chunk() % align, 0);
            assert_eq!(run.chunks(), chunks);
            assert_ne!(run.first_chunk(), 0);
            let fill = step as u8;
            for chunk in 0..chunks {
                // SAFETY: the run is ours.
                unsafe {
                    let byte = crate::pointers::forward(run.start(), chunk * CHUNK_BYTES);
                    assert!(!run.is_zeroed || byte.read() == 0);
                    byte.write(fill);
                }
            }
            runs.push((run, fill));
        } else if !runs.is_empty() {
            let (mut run, fill) = runs.swap_remove(random(runs.len()));
            for chunk in 0..run.chunks() {
                // SAFETY: the run is ours.
                let byte =
                    unsafe { crate::pointers::forward(run.start(), chunk * CHUNK_BYTES).read() };
                assert_eq!(byte, fill);
            }
            // SAFETY: the run is ours and given back once.
            unsafe {
                if random(4) == 0
                    && let Some(grown) = grow_run(run, run.chunks() + 1 + random(4))
                {
                    assert_eq!(grown.first_chunk(), run.first_chunk());
                    // What it grew by can be written.
                    let last = crate::pointers::forward(grown.start(), grown.bytes() - 1);
                    last.write(1);
                    run = grown;
                }
                if random(4) == 0
                    && let Some(shrunk) = shrink_run(run, 1 + random(run.chunks()))
                {
                    assert_eq!(shrunk.first_chunk(), run.first_chunk());
                    assert!(shrunk.chunks() < run.chunks());
                    assert_eq!(shrunk.start().read(), fill);
                    run = shrunk;
                }
                return_by(random(3), run);
            }
        }
        if step % 64 == 0 {
            lock_of(kind).lock().verify();
        }
        each(step);
    }
    for (mut run, _) in runs {
        run.is_zeroed = false;
        // SAFETY: the run is ours and given back once.
        unsafe { return_run(run) };
    }
}

#[test]
fn who_used_a_chunk_last_takes_it_first() {
    let kind = kind_of(c"by-processor");
    let [first, kept, second] = [0; 3].map(|processor| take_by(processor, kind, 1, 1));
    let return_both = || {
        // SAFETY: they were taken, and are not used any more.
        unsafe {
            return_by(0, first);
            return_by(1, second);
        }
    };
    return_both();
    let take = |processor| take_by(processor, kind, 1, 1).first_chunk();
    assert_eq!([take(1), take(0)], [second.first_chunk(), first.first_chunk()]);
    return_both();
    assert_eq!([take(0), take(1)], [first.first_chunk(), second.first_chunk()]);
    // A third takes what they had before anything clean, wherever it is counted.
    return_both();
    lock_of(kind).lock().verify();
    let taken = [2, 2, 65].map(|processor| take_by(processor, kind, 1, 1));
    assert_eq!(taken.map(|run| run.is_zeroed), [false, false, true]);
    // SAFETY: they were taken, and are not used any more.
    taken.into_iter().chain([kept]).for_each(|run| unsafe { return_by(0, run) });
}

#[test]
fn chunks_of_several_processors_are_merged_where_a_longer_run_is_wanted() {
    let kind = kind_of(c"merged");
    let whole = take_by(0, kind, 9, 1);
    let part = |part: usize| Run::at_offset(whole.offset_bytes() + part * CHUNK_BYTES, 1, false);
    // SAFETY: each part was taken with the whole, or alone, and is not used any more; so below.
    unsafe { (0..8).for_each(|number| return_by(number % 3, part(number))) };
    lock_of(kind).lock().verify();
    let [long, short] = [5, 3].map(|chunks| take_by(1, kind, chunks, 1));
    assert_eq!([long.is_zeroed, short.is_zeroed], [false; 2]);
    lock_of(kind).lock().verify();
    assert_eq!(usage_of(kind).dirty_bytes, 0);
    // A run grows into chunks that others gave back.
    let mut runs = [long, short];
    runs.sort_by_key(|run| run.first_chunk());
    // SAFETY: as above.
    unsafe {
        let [lower, upper] = runs;
        for number in 0..upper.chunks() {
            return_by(number % 2, Run::at_offset(upper.offset_bytes() + (number << 16), 1, false));
        }
        let grown = grow_run(lower, 8).expect("what follows is free");
        lock_of(kind).lock().verify();
        assert_eq!(usage_of(kind).dirty_bytes, 0);
        return_by(0, grown);
        return_by(0, part(8));
    }
    lock_of(kind).lock().purge_all();
    lock_of(kind).lock().verify();
    assert_eq!(usage_of(kind).dirty_bytes, 0);
}

/// As much as all that is held at once, and little more, is ever touched, however many processors
/// take and give back.
#[test]
fn processors_make_no_more_memory_resident() {
    for (name, longest) in [(c"long-and-short", 20), (c"all-lengths", 64)] {
        let kind = kind_of(name);
        let mut seed = 1_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        let mut runs: Vec<Run> = Vec::new();
        for _ in 0..40_000 {
            if random(2) == 0 || runs.len() > 200 {
                if !runs.is_empty() {
                    let run = runs.swap_remove(random(runs.len()));
                    // SAFETY: it was taken, and is not used any more.
                    unsafe { return_by(random(64), run) };
                }
            } else {
                let chunks = match longest {
                    20 => [1, 20][random(2)],
                    _ => 1 + random(longest),
                };
                runs.push(take_by(random(64), kind, chunks, 1));
            }
        }
        lock_of(kind).lock().verify();
        let usage = usage_of(kind);
        let touched = usage.taken_bytes + usage.dirty_bytes;
        assert!(touched * 10 <= usage.peak_bytes * 12, "{name:?}: {touched} {}", usage.peak_bytes);
        // SAFETY: they were taken, and are not used any more.
        runs.into_iter().for_each(|run| unsafe { return_by(0, run) });
    }
}

#[test]
fn runs_keep_their_contents_while_huge_pages_come_and_go() {
    let _turn = turn_of_charging();
    let kind = kind_with(HugePages::Grown, c"comes-and-goes");
    let mut changes = 0;
    let mut was_awaited = false;
    at_random(kind, 8, |step| {
        let mut runs = lock_of(kind).lock();
        if step % 128 == 0 {
            runs.purge_all();
        }
        let is_awaited = runs.growth().is_awaited();
        changes += usize::from(is_awaited != was_awaited);
        was_awaited = is_awaited;
    });
    // Where commitments are charged, huge pages are as they were asked for.
    assert!(changes >= 4 || is_commit_charged(), "{changes}");
}

/// The bytes of a range that are resident.
fn resident_bytes(start: core::ptr::NonNull<u8>, bytes: usize) -> usize {
    let mut residence = crate::numa::Residence::new();
    residence.count_range(start, bytes).unwrap();
    residence.resident() * PAGE_BYTES
}

/// The kernel may have no huge page at hand; then there is less to give back.
#[test]
fn nothing_of_a_huge_page_stays_when_its_chunks_were_given_back() {
    let _turn = turn_of_charging();
    let kind = kind_with(HugePages::Grown, c"all-of-it");
    let page_chunks = HUGE_PAGE_BYTES / CHUNK_BYTES;
    let first = take_run(kind, SEGMENT_CHUNKS / 2, 1).unwrap();
    ask_for_huge_pages(kind);
    let touch = |run: Run| {
        // SAFETY: the run is the test's.
        unsafe { run.start().write(1) };
    };
    for beside_taken in [false, true] {
        // Each time another one: where small pages were, the kernel puts more of them.
        let filler = beside_taken.then(|| take_run(kind, page_chunks, page_chunks).unwrap());
        let run = take_run(kind, 2, page_chunks).unwrap();
        touch(run);
        let [run, neighbour] =
            [0, 1].map(|part| Run::at_offset(run.offset_bytes() + part * CHUNK_BYTES, 1, false));
        // SAFETY: it was taken, and is not used any more; and so below.
        unsafe {
            return_run(run);
            if !beside_taken {
                return_run(neighbour);
            }
        }
        lock_of(kind).lock().purge_all();
        let resident = resident_bytes(run.start(), HUGE_PAGE_BYTES);
        let most = if beside_taken { CHUNK_BYTES } else { 0 };
        assert!(resident <= most, "{beside_taken}: {resident}");
        let rest = beside_taken.then_some(neighbour).into_iter().chain(filler);
        // SAFETY: they were taken, and are not used any more.
        rest.for_each(|run| unsafe { return_run(run) });
        lock_of(kind).lock().growth().ask();
    }
    // SAFETY: it was taken, and is not used any more.
    unsafe { return_run(first) };
}

/// Writes to the first pages of a run of the test's own.
fn touch_pages(run: Run, pages: usize) {
    for page in 0..pages {
        // SAFETY: the run is the caller's alone.
        unsafe { crate::pointers::forward(run.start(), page * PAGE_BYTES).write(1) };
    }
}

#[test]
fn what_was_sparse_asks_for_huge_pages_when_it_is_nearly_full() {
    let _turn = turn_of_charging();
    let kind = kind_with(HugePages::Grown, c"filled-later");
    let take = |_| {
        let run = take_run(kind, 1, 1).unwrap();
        touch_pages(run, 1);
        run
    };
    let runs: Vec<Run> = (0..40 << 4).map(take).collect();
    // As an hour passes, a second at a time.
    let mut now = sys::coarse_milliseconds() + MAX_PERIOD_MILLISECONDS;
    let mut decay = |seconds| {
        (0..seconds).for_each(|_| {
            now += 1000;
            lock_of(kind).lock().decay(now);
        });
    };
    let first = runs[0].first_chunk() / SEGMENT_CHUNKS * SEGMENT_CHUNKS;
    let second = first + (16 << 4);
    let is_asking = |chunk| lock_of(kind).lock().growth().is_asking_at(chunk);
    decay(1000);
    assert!(!is_asking(first) && !is_asking(second));
    // Ever more seldom, but not for ever.
    let wait = lock_of(kind).lock().growth().wait_milliseconds();
    assert!((10_000..=100_000).contains(&wait) || is_commit_charged(), "{wait}");
    let pages = CHUNK_BYTES / PAGE_BYTES;
    runs.iter().filter(|run| run.first_chunk() < second).for_each(|&run| touch_pages(run, pages));
    let in_second = runs.iter().filter(|run| (second..second + 256).contains(&run.first_chunk()));
    // Not quite seven eighths.
    in_second.clone().skip(40).for_each(|&run| touch_pages(run, pages));
    decay(200);
    assert!(!is_asking(second));
    in_second.for_each(|&run| touch_pages(run, pages));
    decay(200);
    let can_be_asked = !is_commit_charged() && refused_advice(kind).is_none();
    assert_eq!(is_asking(second), can_be_asked);
    // The first never does.
    assert!(!is_asking(first));
    for run in runs {
        // SAFETY: it was taken, and is not used any more.
        unsafe { return_run(run) };
    }
    lock_of(kind).lock().purge_all();
    assert!(lock_of(kind).lock().growth().is_awaited());
}

/// As a buffer's that is filled long after it was taken.
#[test]
fn a_kind_is_large_when_what_was_taken_before_is_filled() {
    let _turn = turn_of_charging();
    let kind = kind_with(HugePages::Grown, c"fills-behind");
    let mut runs: Vec<Run> = Vec::new();
    let is_small = || lock_of(kind).lock().growth().is_awaited();
    for _ in 0..160 << 4 {
        let run = take_run(kind, 1, 1).unwrap();
        touch_pages(run, 1);
        runs.push(run);
        if let Some(behind) = runs.len().checked_sub(20 << 4) {
            touch_pages(runs[behind], CHUNK_BYTES / PAGE_BYTES);
        }
        assert!(is_small() || runs.len() > 32 << 4 || is_commit_charged());
    }
    assert!(!is_small() || refused_advice(kind).is_some());
    // SAFETY: they were taken, and are not used any more.
    runs.into_iter().for_each(|run| unsafe { return_run(run) });
}

#[test]
fn what_is_small_ends_behind_the_run_that_was_taken() {
    let _turn = turn_of_charging();
    let kind = kind_with(HugePages::Grown, c"is-aligned");
    let first = take_run(kind, 1, 1).unwrap();
    let piece = SEGMENT_CHUNKS / 2;
    let end = || lock_of(kind).lock().growth().small_end();
    assert_eq!(end() % SEGMENT_CHUNKS, piece);
    // So many that they are growth. None is as long as a huge page.
    let runs: Vec<Run> = (0..5).map(|_| take_run(kind, 16, 1).unwrap()).collect();
    let aligned = take_run(kind, 16, 2 * SEGMENT_CHUNKS).unwrap();
    assert_eq!(aligned.first_chunk() % SEGMENT_CHUNKS, 0);
    if !is_commit_charged() {
        assert_eq!(end(), aligned.first_chunk() + piece);
    }
    // SAFETY: they were taken, and are not used any more.
    runs.into_iter().chain([first, aligned]).for_each(|run| unsafe { return_run(run) });
}

#[test]
fn a_clock_that_was_read_before_purges_nothing() {
    let kind = kind_of(c"older-clock");
    let use_chunks = || {
        let mut run = take_run(kind, 4, 1).unwrap();
        run.is_zeroed = false;
        // SAFETY: it was taken, and is not used any more.
        unsafe { return_run(run) };
    };
    // So late that nobody else's turn comes.
    let start = sys::coarse_milliseconds() + MAX_PERIOD_MILLISECONDS;
    let decay = |after| lock_of(kind).lock().decay(start + after * MAX_PERIOD_MILLISECONDS);
    use_chunks();
    decay(1);
    use_chunks();
    decay(2);
    assert_eq!(usage_of(kind).dirty_bytes, 4 * CHUNK_BYTES);
    lock_of(kind).lock().decay(start + 2 * MAX_PERIOD_MILLISECONDS - 1);
    assert_eq!(usage_of(kind).dirty_bytes, 4 * CHUNK_BYTES);
    decay(3);
    assert_eq!(usage_of(kind).dirty_bytes, 0);
}

/// Under the sanitizers nothing is locked: they take the call, and do nothing.
#[test]
#[cfg(not(any(heapswitch_asan, heapswitch_tsan)))]
fn what_the_program_locked_keeps_nothing_else() {
    let kind = kind_of(c"locked");
    let [long, between, short] = [8, 1, 2].map(|chunks| take_run(kind, chunks, 1).unwrap());
    // SAFETY: the run is ours.
    if unsafe { memory::lock_in_memory(long.start(), PAGE_BYTES) }.is_err() {
        return println!("not tested here: no memory can be locked");
    }
    for mut run in [long, short] {
        run.is_zeroed = false;
        // SAFETY: it was taken, and is not used any more.
        unsafe { return_run(run) };
    }
    lock_of(kind).lock().purge_all();
    lock_of(kind).lock().verify();
    assert_eq!(usage_of(kind).dirty_bytes, 8 * CHUNK_BYTES);
    // SAFETY: it was locked above.
    unsafe { libc::munlock(long.start().as_ptr().cast(), PAGE_BYTES) };
    lock_of(kind).lock().purge_all();
    assert_eq!(usage_of(kind).dirty_bytes, 0);
    // SAFETY: it was taken, and is not used any more.
    unsafe { return_run(between) };
}

#[test]
#[cfg(not(any(heapswitch_asan, heapswitch_tsan)))]
fn many_chunks_that_the_program_locked_keep_nothing_else() {
    let kind = kind_of(c"many-locked");
    // Every other one is locked; none touch when they are free, but those that are not locked.
    let runs: Vec<Run> = (0..120).map(|_| take_run(kind, 1, 1).unwrap()).collect();
    let locked: Vec<Run> = runs.iter().copied().filter(|run| run.first_chunk() % 4 == 0).collect();
    for run in &locked {
        // SAFETY: the run is ours.
        if unsafe { memory::lock_in_memory(run.start(), PAGE_BYTES) }.is_err() {
            return println!("not tested here: no memory can be locked");
        }
    }
    let (kept, freed): (Vec<Run>, Vec<Run>) =
        runs.into_iter().partition(|run| run.first_chunk() % 2 == 1);
    // SAFETY: they were taken, and are not used any more; and so below.
    freed.into_iter().for_each(|run| unsafe { return_by(run.first_chunk() % 3, run) });
    assert!(locked.len() >= 28, "{}", locked.len());
    lock_of(kind).lock().purge_all();
    lock_of(kind).lock().verify();
    assert_eq!(usage_of(kind).dirty_bytes, locked.len() * CHUNK_BYTES);
    // SAFETY: it was locked above.
    locked.iter().for_each(|run| unsafe {
        libc::munlock(run.start().as_ptr().cast(), PAGE_BYTES);
    });
    lock_of(kind).lock().purge_all();
    assert_eq!(usage_of(kind).dirty_bytes, 0);
    // SAFETY: as above.
    kept.into_iter().for_each(|run| unsafe { return_by(0, run) });
}

#[test]
fn only_what_a_huge_page_shares_with_others_is_an_end() {
    use super::runs::shared_ends;
    assert_eq!(shared_ends(32, 64), [(32, 32), (96, 96)]);
    assert_eq!(shared_ends(33, 64), [(33, 64), (96, 97)]);
    assert_eq!(shared_ends(33, 5), [(33, 38), (38, 38)]);
    assert_eq!(shared_ends(30, 4), [(30, 32), (32, 34)]);
    assert_eq!(shared_ends(64, 1), [(64, 64), (64, 65)]);
}

#[test]
fn runs_are_disjoint_zeroed_and_merge() {
    let kind = kind_of(c"heapswitch-test");
    at_random(kind, 6, |step| {
        if step % 5000 == 0 {
            lock_of(kind).lock().purge_all();
            lock_of(kind).lock().verify();
        }
    });
    lock_of(kind).lock().purge_all();
    lock_of(kind).lock().verify();
    let usage = usage_of(kind);
    assert_eq!((usage.taken_bytes, usage.dirty_bytes), (0, 0));
    assert_eq!(usage.runs_taken, usage.runs_returned);
}

/// Treats commitments as charged while it lives, one test at a time. Others beside it may then see
/// their own charged: that changes when memory goes back, and nothing that they check.
struct Charged(#[expect(dead_code, reason = "held, and never looked at")] MutexGuard<'static, ()>);

fn turn_of_charging() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Charged {
    fn new() -> Self {
        let turn = turn_of_charging();
        assert!(ensure_reserved());
        IS_COMMIT_CHARGED.store(true, Ordering::Relaxed);
        Self(turn)
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        IS_COMMIT_CHARGED.store(sys::is_commit_charged(), Ordering::Relaxed);
    }
}

/// What may be done to the memory at an address, and the mapping's name: a line of the system's.
fn mapping_at(address: *const u8) -> std::string::String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        let parse = |text| usize::from_str_radix(text, 16).unwrap();
        (parse(start)..parse(end)).contains(&address.addr())
    };
    maps.lines().find(holds).expect("the region has no hole").into()
}

#[test]
fn whole_segments_go_back_where_commitments_are_charged() {
    let _charged = Charged::new();
    let kind = kind_of(c"heapswitch-charged");
    let small = take_run(kind, 1, 1).unwrap();
    assert_eq!(usage_of(kind).committed_bytes, SEGMENT_BYTES, "nothing is committed ahead");
    let mut large = take_run(kind, 3 * SEGMENT_CHUNKS, 1).unwrap();
    let held = usage_of(kind).committed_bytes;
    assert!(held >= 4 * SEGMENT_BYTES);
    // SAFETY: the runs are ours, and each is given back once.
    unsafe {
        large.start().write_bytes(1, 4 * PAGE_BYTES);
        assert!(mapping_at(large.start().as_ptr()).contains(" rw-p "));
        large.is_zeroed = false;
        return_run(large);
        assert_ne!(purge(), 0);
    }
    lock_of(kind).lock().verify();
    let left = usage_of(kind).committed_bytes;
    assert!(left <= held - 2 * SEGMENT_BYTES, "{left} of {held}");
    // It is still the region's, reserved and no more, and its owner is asked for as before.
    let middle = large.start().as_ptr().wrapping_add(SEGMENT_BYTES + SEGMENT_BYTES / 2);
    assert!(mapping_at(middle).contains(" ---p "), "{}", mapping_at(middle));
    assert!(contains(middle) && entry_of(middle).unwrap().owner().is_null());
    // It cannot be grown into, and is committed again before the region grows.
    // SAFETY: the run is ours.
    assert!(unsafe { grow_run(small, 4 * SEGMENT_CHUNKS) }.is_none());
    let again = take_run(kind, 2 * SEGMENT_CHUNKS, 1).unwrap();
    assert!(again.is_zeroed);
    assert_eq!(usage_of(kind).committed_bytes, left + 2 * SEGMENT_BYTES);
    let mapping = mapping_at(again.start().as_ptr());
    assert!(mapping.contains(" rw-p "), "{mapping}");
    // SAFETY: the runs are ours, and each is given back once.
    unsafe {
        assert!(again.start().cast::<[u8; 4096]>().read().iter().all(|&byte| byte == 0));
        return_run(again);
        return_run(small);
    }
}

#[test]
fn charged_runs_are_disjoint_zeroed_and_merge() {
    let _charged = Charged::new();
    let kind = kind_of(c"heapswitch-charged-too");
    let (mut most, mut least) = (0, usize::MAX);
    at_random(kind, 10, |step| {
        if step % 500 == 499 {
            most = most.max(usage_of(kind).committed_bytes);
            lock_of(kind).lock().purge_all();
            lock_of(kind).lock().verify();
            least = least.min(usage_of(kind).committed_bytes);
        }
    });
    assert!(least < most, "no segment went back: {least} of {most}");
    lock_of(kind).lock().purge_all();
    lock_of(kind).lock().verify();
    let usage = usage_of(kind);
    assert_eq!((usage.taken_bytes, usage.dirty_bytes), (0, 0));
    // The region's first segment stays: its first chunk is never handed out.
    assert!(usage.committed_bytes <= SEGMENT_BYTES, "{usage:?}");
}

#[test]
fn lookups() {
    let run = take_run(SegmentKind::CONTEXT, 3, 1).unwrap();
    assert!(contains(run.start().as_ptr()));
    assert_eq!(offset_of(run.start().as_ptr()), Some(run.offset_bytes()));
    assert!(core::ptr::eq(entry_of(run.start().as_ptr()).unwrap(), run.entry()));
    let local = 0_u8;
    assert!(!contains(&local));
    assert!(entry_of(core::ptr::null()).is_none());
    // An address in a segment that was never committed has no entry.
    let last = base().as_ptr().wrapping_add(bytes() - PAGE_BYTES);
    assert!(contains(last));
    assert!(entry_of(last).is_none());
    // SAFETY: the run is ours.
    unsafe { return_run(run) };
}

#[test]
fn too_long_runs_are_refused() {
    assert_eq!(take_run(SegmentKind::THREAD, usize::MAX, 1), None);
    assert_eq!(take_run(SegmentKind::THREAD, bytes() / CHUNK_BYTES + 1, 1), None);
}

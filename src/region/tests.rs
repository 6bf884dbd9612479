//! Tests of the region as a whole; the process has one, so they share it.
use super::*;
use crate::units::{CHUNK_BYTES, PAGE_BYTES};

fn kind() -> SegmentKind {
    // A kind of this test's own, so that other tests do not disturb the figures.
    register_kind(KindSettings {
        placement: crate::numa::Placement::DEFAULT,
        huge_pages: HugePages::Never,
        name: c"heapswitch-test",
        is_dumped: true,
    })
    .unwrap()
}

#[test]
fn runs_are_disjoint_zeroed_and_merge() {
    let kind = kind();
    let mut seed = 1_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let mut runs: Vec<(Run, u8)> = Vec::new();
    for step in 0..20_000_usize {
        if runs.len() < 200 && random(2) == 0 {
            let most = 1 << random(7);
            let (chunks, align) = (1 + random(most), 1 << random(6));
            let run = take_run(kind, chunks, align).unwrap();
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
                    run = grown;
                }
                run.is_zeroed = false;
                return_run(run);
            }
        }
        if step % 64 == 0 {
            lock_of(kind).lock().verify();
        }
        if step % 5000 == 0 {
            lock_of(kind).lock().purge_all();
            lock_of(kind).lock().verify();
        }
    }
    for (mut run, _) in runs {
        run.is_zeroed = false;
        // SAFETY: the run is ours and given back once.
        unsafe { return_run(run) };
    }
    let runs = lock_of(kind);
    runs.lock().purge_all();
    runs.lock().verify();
    let mut usage = RegionUsage::default();
    runs.lock().add_to(&mut usage);
    assert_eq!((usage.taken_bytes, usage.dirty_bytes), (0, 0));
    assert_eq!(usage.runs_taken, usage.runs_returned);
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

#[test]
fn metadata_is_zeroed_and_reused() {
    for bytes in [1, 64, 65, 4096, 5000, 1 << 20, 3 << 20] {
        let block = Metadata::take(bytes).unwrap();
        // SAFETY: the block is ours for `bytes`.
        unsafe {
            let slice = core::slice::from_raw_parts_mut(block.as_ptr(), bytes);
            assert!(slice.iter().all(|&byte| byte == 0));
            slice.fill(0xFF);
            Metadata::give_back(block, bytes);
        }
        let again = Metadata::take(bytes).unwrap();
        // SAFETY: the block is ours for `bytes`.
        unsafe {
            let slice = core::slice::from_raw_parts(again.as_ptr(), bytes);
            assert!(slice.iter().all(|&byte| byte == 0));
            Metadata::give_back(again, bytes);
        }
    }
}

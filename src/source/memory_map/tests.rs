//! Each setting as the kernel sees it, from `/proc/self/smaps`.

use super::*;
use crate::numa::{Node, Placement, Policy};
use std::string::String;
use std::vec::Vec;

const BYTES: usize = 1 << 20;

/// A mapping of `/proc/self/smaps`.
struct Entry {
    text: String,
}

impl Entry {
    /// The one that holds `address`.
    fn at(address: NonNull<u8>) -> Self {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut text = String::new();
        let mut is_found = false;
        for line in smaps.lines() {
            if let Some((start, end)) = range_of(line) {
                is_found = (start..end).contains(&address.addr().get());
            }
            if is_found {
                text.push_str(line);
                text.push('\n');
            }
        }
        assert!(!text.is_empty(), "{address:?} is not mapped");
        Self { text }
    }

    fn has_flag(&self, flag: &str) -> bool {
        let flags = self.text.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        flags.split_whitespace().any(|one| one == flag)
    }

    fn kibibytes(&self, field: &str) -> usize {
        let line = self.text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn range_of(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    Some((parse(start)?, parse(end)?))
}

/// Takes a range of `BYTES` with these settings, and shows it and its source to `test`.
fn with_range(settings: MemoryMapSettings, test: impl FnOnce(&MemoryMapSource, NonNull<u8>)) {
    let source = MemoryMapSource::with_settings(settings).unwrap();
    let range = source.take(Layout::from_size_align(BYTES, 8).unwrap()).unwrap();
    assert_eq!((source.mapping_count(), source.mapped_bytes()), (1, range.length));
    test(&source, range.start);
    // SAFETY: taken above, and `test` is done with it.
    unsafe { source.give_back(range) };
    assert_eq!((source.mapping_count(), source.mapped_bytes()), (0, 0));
}

#[test]
fn ranges_are_zeroed_aligned_and_whole_granules() {
    for shift in [12, 13, 16, 21, 26] {
        let source =
            MemoryMapSource::with_settings(MemoryMapSettings::new().granule(PAGE).alignment(PAGE))
                .unwrap();
        for bytes in [0, 1, PAGE, PAGE + 1, 3 * PAGE] {
            let range = source.take(Layout::from_size_align(bytes, 1 << shift).unwrap()).unwrap();
            assert!(pointers::is_aligned(range.start, 1 << shift));
            assert_eq!(range.length, bytes.max(1).next_multiple_of(PAGE));
            assert!(range.is_zeroed);
            // SAFETY: the range is taken, so valid for reads and writes.
            unsafe {
                assert!(range.as_slice().as_ref().iter().all(|byte| *byte == 0));
                range.start.write_bytes(0xa5, range.length);
                source.give_back(range);
            }
        }
        assert_eq!(source.mapping_count(), 0);
    }
}

const PAGE: usize = 4096;

#[test]
fn requests_that_overflow_are_refused() {
    let source = MemoryMapSource::new();
    for bytes in [isize::MAX as usize, isize::MAX as usize - CHUNK] {
        assert!(source.take(Layout::from_size_align(bytes, 1).unwrap()).is_err());
    }
    assert_eq!(source.mapping_count(), 0);
}

const CHUNK: usize = 1 << 16;

#[test]
fn settings_that_are_wrong_are_named() {
    let wrong = |settings| MemoryMapSource::with_settings(settings).unwrap_err();
    let new = MemoryMapSettings::new;
    use MemoryMapSettingsError::{Alignment, Granule, HugePageShift};
    assert_eq!(wrong(new().granule(12_288)), Granule { bytes: 12_288 });
    assert_eq!(wrong(new().granule(2048)), Granule { bytes: 2048 });
    assert_eq!(wrong(new().alignment(0)), Alignment { bytes: 0 });
    let shift = HugePages::Explicit { shift: 63 };
    assert_eq!(wrong(new().huge_pages(shift)), HugePageShift { shift: 63 });
}

#[test]
fn plain() {
    with_range(MemoryMapSettings::new(), |source, start| {
        let entry = Entry::at(start);
        for flag in ["lo", "dd", "nh", "hg", "nr"] {
            assert!(!entry.has_flag(flag), "{flag}");
        }
        assert_eq!(source.refusals().count(), 0);
    });
}

#[test]
fn huge_pages_never_and_transparent() {
    let settings = MemoryMapSettings::new();
    with_range(settings.huge_pages(HugePages::Never), |_, start| {
        assert!(Entry::at(start).has_flag("nh"));
    });
    with_range(settings.huge_pages(HugePages::Transparent), |_, start| {
        assert!(Entry::at(start).has_flag("hg"));
    });
}

#[test]
fn transparent_huge_pages_are_there_once_touched() {
    let huge = 2 << 20;
    let settings = MemoryMapSettings::new()
        .granule(huge)
        .alignment(huge)
        .huge_pages(HugePages::Transparent)
        .prefaulted(true);
    with_range(settings, |_, start| {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        if setting.is_ok_and(|setting| !setting.contains("[never]")) {
            assert!(Entry::at(start).kibibytes("AnonHugePages") >= 2048);
        }
    });
}

#[test]
fn explicit_huge_pages_or_a_report() {
    let settings = MemoryMapSettings::new().huge_pages(HugePages::Explicit { shift: 21 });
    with_range(settings, |source, start| {
        assert_eq!(source.granule(), 2 << 20);
        assert!(pointers::is_aligned(start, CHUNK));
        let entry = Entry::at(start);
        match source.refusals().next() {
            None => assert_eq!(entry.kibibytes("KernelPageSize"), 2048),
            Some(refusal) => {
                assert_eq!((refusal.step, refusal.times), (Step::HugePages, 1));
                assert!(entry.has_flag("hg"));
            }
        }
    });
}

#[test]
fn a_strict_source_gives_nothing_rather_than_less() {
    // No system has huge pages of 16 MiB and of 64 KiB on x86-64.
    let settings = MemoryMapSettings::new().huge_pages(HugePages::Explicit { shift: 24 });
    let source = MemoryMapSource::with_settings(settings.strict(true)).unwrap();
    assert!(source.take(Layout::new::<u64>()).is_err());
    assert_eq!((source.mapping_count(), source.mapped_bytes()), (0, 0));
    assert_eq!(
        source.refusals().map(|refusal| refusal.step).collect::<Vec<_>>(),
        [Step::HugePages]
    );
}

#[test]
fn locked() {
    with_range(MemoryMapSettings::new().locked(true), |source, start| {
        match source.refusals().next() {
            None => assert!(Entry::at(start).has_flag("lo")),
            Some(refusal) => assert_eq!(refusal.step, Step::Lock),
        }
    });
}

#[test]
fn prefaulted_and_not() {
    with_range(MemoryMapSettings::new().prefaulted(true), |source, start| {
        assert_eq!(source.refusals().count(), 0);
        assert!(Entry::at(start).kibibytes("Rss") >= BYTES / 1024);
    });
    // A name of its own, or a flag, keeps it from being merged with a neighbour's mapping.
    let apart = MemoryMapSettings::new().kept_out_of_core_dumps(true);
    with_range(apart.huge_pages(HugePages::Never), |_, start| {
        assert_eq!(Entry::at(start).kibibytes("Rss"), 0);
    });
}

#[test]
fn unreserved() {
    with_range(MemoryMapSettings::new().unreserved(true), |_, start| {
        assert!(Entry::at(start).has_flag("nr"));
    });
}

#[test]
fn kept_out_of_core_dumps() {
    with_range(MemoryMapSettings::new().kept_out_of_core_dumps(true), |_, start| {
        assert!(Entry::at(start).has_flag("dd"));
    });
}

#[test]
fn named_or_a_report() {
    with_range(MemoryMapSettings::new().name(c"heapswitch-test"), |source, start| {
        match source.refusals().next() {
            None => assert!(Entry::at(start).text.contains("[anon:heapswitch-test]")),
            Some(refusal) => {
                assert_eq!(refusal.step, Step::Name);
                assert!(refusal.error.is_unsupported());
            }
        }
    });
}

#[test]
fn placed() {
    let bind = Policy::Bind(crate::numa::NodeSet::of(Node::new(0).unwrap()));
    let settings = MemoryMapSettings::new().placement(Placement::new(bind)).prefaulted(true);
    with_range(settings, |source, start| {
        let Ok(maps) = std::fs::read_to_string("/proc/self/numa_maps") else { return };
        if source.refusals().count() == 0 {
            let address = std::format!("{:x} ", start.addr());
            let line = maps.lines().find(|line| line.starts_with(&address)).unwrap();
            assert!(line.contains("bind:0") && line.contains("N0="), "{line}");
        }
    });
}

#[test]
fn grows_where_it_stands_and_keeps_its_settings() {
    let settings = MemoryMapSettings::new().kept_out_of_core_dumps(true).prefaulted(true);
    let source = MemoryMapSource::with_settings(settings).unwrap();
    let layout = Layout::from_size_align(BYTES, 8).unwrap();
    // What follows the mapping must be free: take two neighbours' room and give it back.
    let room = source.take(Layout::from_size_align(64 * BYTES, 64 * BYTES).unwrap()).unwrap();
    // SAFETY: taken above and not used.
    let mut range = unsafe { source.resize(room, layout.size(), false) }.unwrap();
    // SAFETY: the range is taken; `old` bytes of it are written before the rest is read.
    unsafe {
        range.start.write_bytes(7, range.length);
        if let Ok(grown) = source.grow(range, 2 * BYTES) {
            assert_eq!((grown.start, grown.length), (range.start, 2 * BYTES));
            let (old, new) = grown.as_slice().as_ref().split_at(BYTES);
            assert!(old.iter().all(|byte| *byte == 7) && new.iter().all(|byte| *byte == 0));
            let last = pointers::forward(grown.start, grown.length - 1);
            assert!(Entry::at(last).has_flag("dd"));
            assert!(Entry::at(last).kibibytes("Rss") >= 2 * BYTES / 1024);
            range = grown;
        }
        assert_eq!(source.mapped_bytes(), range.length);
        source.give_back(range);
    }
    assert_eq!(source.mapped_bytes(), 0);
}

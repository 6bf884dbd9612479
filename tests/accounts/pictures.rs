//! The pictures: what they tell agrees with the accounts, and a browser can read them.

use std::hint::black_box;
use std::time::Duration;

use heapswitch::strategy::slab::Slab;
use heapswitch::{Account, Heap, HeapMap, LifetimeHint, MappedChunk, Timeline};

use super::{CHUNK, PROCESS};

/// Checks that a document's elements are closed in order and its text has nothing that XML
/// reserves, and gives its texts and titles.
fn texts_of(svg: &str) -> Vec<String> {
    let (mut open, mut texts) = (Vec::new(), Vec::new());
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("an element ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
        if let Some(ended) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(ended), "in order");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        if !text.trim().is_empty() {
            assert!(matches!(open.last(), Some(&"text" | &"title")), "{text:?} is in {open:?}");
            texts.push(text.to_owned());
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    texts
}

fn chunks_of(map: &HeapMap, account: &Account) -> Vec<MappedChunk> {
    map.chunks().iter().filter(|chunk| chunk.account == Some(account.id())).copied().collect()
}

#[test]
fn the_heap_map_has_every_chunk_of_every_context() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let hints = [
        (LifetimeHint::Short, "bump"),
        (LifetimeHint::Medium, "bit_set"),
        (LifetimeHint::Long, "trees"),
    ];
    for (hint, strategy) in hints {
        let heap = Heap::builder().hint(hint).name("R&D <7>").build().unwrap();
        assert_eq!(heap.strategy(), strategy);
        let account = heap.account_handle();
        let small = heap.run(|| (0..900).map(|_| Box::new([1_u8; 100])).collect::<Vec<_>>());
        let small = small.unwrap();
        let large = heap.run(|| vec![1_u8; 3 * CHUNK]).unwrap();
        heap.memory_usage().unwrap();
        let map = HeapMap::now();
        let chunks = chunks_of(&map, &account);
        assert_eq!(chunks.len() * CHUNK, account.usage().own_bytes);
        assert!(chunks.iter().all(|chunk| chunk.strategy == Some(strategy)), "{chunks:?}");
        assert!(!chunks.iter().any(|chunk| chunk.is_orphaned));
        let (whole, cut): (Vec<&MappedChunk>, Vec<_>) =
            chunks.iter().partition(|chunk| chunk.is_whole_block);
        assert_eq!((whole.len(), cut.len()), (3, 2), "90,000 bytes in 2 chunks");
        assert_eq!(whole.iter().filter(|chunk| chunk.is_run_start).count(), 1);
        assert!(whole.iter().all(|chunk| chunk.fill == Some(1.0)));
        assert!(whole.iter().all(|chunk| chunk.resident_bytes == CHUNK), "written to");
        let filled: f32 = cut.iter().map(|chunk| chunk.fill.unwrap()).sum();
        assert!((1.4..1.95).contains(&filled), "{filled} of 2 chunks");
        let texts = texts_of(&map.to_svg());
        let names = |text: &&String| text.contains("R&amp;D &lt;7&gt;");
        assert!(texts.iter().filter(names).count() >= 3, "two kinds of cells and the legend");

        // One small block and the large one outlive the heap.
        let kept = small.into_iter().nth(500);
        heap.close();
        let map = HeapMap::now();
        let orphans = chunks_of(&map, &account);
        assert_eq!(orphans.len() * CHUNK, account.usage().own_bytes);
        assert!(orphans.iter().all(|chunk| chunk.is_orphaned), "{orphans:?}");
        assert!(texts_of(&map.to_svg()).iter().any(|text| text.contains("outlive their heap")));
        drop((kept, large));
        heapswitch::flush_foreign_frees();
        assert!(chunks_of(&HeapMap::now(), &account).is_empty());
    }
}

#[test]
fn the_map_has_heaps_counted() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let heap = Heap::builder().build_kind::<Slab>(()).unwrap();
    let make = || (0..500).map(|_| Box::new([1_u8; 64])).collect::<Vec<_>>();
    let mut blocks = heap.run(make).unwrap();
    let fill = || {
        let chunks = chunks_of(&HeapMap::now(), &heap.account_handle());
        chunks.iter().filter_map(|chunk| chunk.fill).fold(0.0, f32::max)
    };
    assert!((0.4..0.7).contains(&fill()), "500 blocks of 64 bytes in 64 KiB: {}", fill());
    heap.run(|| blocks.truncate(250)).unwrap();
    assert!((0.2..0.35).contains(&fill()), "half of them: {}", fill());
    drop(black_box(blocks));
}

#[test]
fn a_map_of_a_running_heap_is_made_elsewhere() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let heap = Heap::builder().name("runs").build().unwrap();
    let account = heap.account_handle();
    heap.run(|| {
        let data = vec![1_u8; 1 << 20];
        let made = std::thread::scope(|scope| scope.spawn(HeapMap::now).join().unwrap());
        let chunks = chunks_of(&made, &account);
        assert_eq!(chunks.iter().filter(|chunk| chunk.is_whole_block).count(), 16);
        assert_eq!(made.account(account.id()).unwrap().name.as_str(), "runs");
        // Also by whoever runs it: nothing of the map lies in the heap.
        let before = account.usage().committed_bytes;
        let svg = HeapMap::now().to_svg();
        assert_eq!(account.usage().committed_bytes, before);
        assert!(!heap.contains(svg.as_ptr()));
        black_box(data);
    })
    .unwrap();
}

#[test]
fn the_timeline_shows_what_a_tree_held() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let root = Account::new("a service").unwrap().with_limit(16 * CHUNK);
    let mut timeline = Timeline::of(&root);
    texts_of(&timeline.to_svg());
    let heap = |name| Heap::builder().name(name).charged_to(&root).build().unwrap();
    timeline.sample_at(Duration::ZERO);
    let (small, large) = (heap("small"), heap("large"));
    let first = small.run(|| vec![1_u8; CHUNK]).unwrap();
    timeline.sample_at(Duration::from_secs(1));
    let second = large.run(|| vec![1_u8; 5 * CHUNK]).unwrap();
    timeline.sample_at(Duration::from_secs(2));
    drop((first, second, small, large));
    heapswitch::flush_foreign_frees();
    timeline.sample_at(Duration::from_secs(4));
    assert_eq!((timeline.samples(), timeline.peak_bytes()), (4, 6 * CHUNK));
    let svg = timeline.to_svg();
    let texts = texts_of(&svg);
    assert!(
        texts.iter().any(|text| text == "Memory of a service and all below it: at most 384 KiB")
    );
    assert!(texts.iter().any(|text| text == "limit: 1 MiB"));
    let place = |wanted: &str| texts.iter().rposition(|text| text == wanted);
    let (large, small) = (place("large: at most 320 KiB"), place("small: at most 64 KiB"));
    assert!(large.is_some() && large < small, "the largest first: {texts:?}");
    // From 80 to 980 pixels of width and 360 to 40 of height, of 4 seconds and 1 MiB: the band of
    // `small` stands on that of `large` in the third sample.
    assert!(svg.contains("M80 360L305 360L530 260L980 360"), "{svg}");
    assert!(svg.contains("M80 360L305 340L530 240L980 360"), "{svg}");
}

#[test]
fn a_timeline_stays_small() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let root = Account::new("many").unwrap();
    let mut timeline = Timeline::of(&root);
    for step in 0..3000_u64 {
        let name = format!("<{}>", step % 100);
        let heap = Heap::builder().name(&name).charged_to(&root).build().unwrap();
        let data = heap.run(|| Box::new(step)).unwrap();
        timeline.sample_at(Duration::from_millis(step));
        drop(data);
    }
    assert!((256..=512).contains(&timeline.samples()), "{}", timeline.samples());
    assert_eq!(timeline.peak_bytes(), CHUNK);
    let texts = texts_of(&timeline.to_svg());
    assert!(texts.iter().any(|text| text == "other names: at most 64 KiB"), "{texts:?}");
    assert!(texts.len() < 60);
}

//! The figures through the `metrics` facade, as Prometheus reads them, and the events through
//! `tracing`, both received for real.
#![cfg(not(heapswitch_pass_through))]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use heapswitch::{Account, Heap, HeapSwitch, checkpoint, publish_metrics};
use metrics_exporter_prometheus::PrometheusBuilder;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;

/// `tracing` may miss a subscriber that is new on one thread while another thread comes to an event
/// for the first time: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn prometheus_reads_the_accounts_by_name() {
    let _alone = ALONE.lock();
    let group = Account::new("exported group").unwrap();
    let make = || Heap::builder().name("exported").charged_to(&group).build().unwrap();
    let heaps = [make(), make()];
    let kept: Vec<_> =
        heaps.iter().map(|heap| heap.run(|| vec![1_u8; 3 * CHUNK]).unwrap()).collect();
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, publish_metrics);
    let text = recorder.handle().render();
    let value = |series: &str| -> f64 {
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{series}: {text}"))
    };
    let chunks = |count: usize| (count * CHUNK) as f64;
    assert_eq!(value("heapswitch_context_own_bytes{context=\"exported\"}"), chunks(6));
    assert_eq!(value("heapswitch_context_accounts{context=\"exported\"}"), 2.0);
    assert_eq!(value("heapswitch_context_own_bytes{context=\"exported group\"}"), 0.0);
    assert!(value("heapswitch_process_taken_bytes") >= chunks(6));
    drop(kept);
}

struct Text<'a>(&'a mut String);

impl tracing::field::Visit for Text<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

/// Calls its function with each event's text, which begins with what is in use.
struct Subscribed<F>(F);

impl<F: Fn(String) + 'static> tracing::Subscriber for Subscribed<F> {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "heapswitch"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = format!("{:?} ", heapswitch::current());
        event.record(&mut Text(&mut text));
        (self.0)(text);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn closes_escapes_and_ended_contexts_are_events() {
    let _alone = ALONE.lock();
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&events);
    let subscriber = Subscribed(move |text| kept.lock().unwrap().push(text));
    tracing::subscriber::with_default(subscriber, || {
        let heap = Heap::builder().name("greedy").limit(CHUNK).build().unwrap();
        let kept = heap.run(|| vec![1_u8; 10 * CHUNK]).unwrap();
        assert!(heap.run(checkpoint).unwrap().is_err());
        drop(heap);
        drop(kept);
        // A pool resets its heaps, and closes none.
        let mut heap = Heap::builder().name("renewed").build().unwrap();
        let kept = heap.run(|| vec![1_u8; 10]).unwrap();
        heap.reset().unwrap();
        let before = events.lock().unwrap().len();
        heap.reset().unwrap();
        assert_eq!(events.lock().unwrap().len(), before, "nothing escaped");
        drop(kept);
    });
    let events = events.lock().unwrap();
    assert!(events.iter().all(|event: &String| event.starts_with("ThreadLocal ")), "{events:#?}");
    let seen = |parts: &[&str]| {
        assert!(
            events.iter().any(|event| parts.iter().all(|part| event.contains(part))),
            "{parts:?} in {events:#?}"
        );
    };
    seen(&["an account passed a limit", "greedy", "limit=Hard"]);
    seen(&["a context over its budget was ended", "context=\"greedy\"", "limit_bytes=65536"]);
    seen(&["blocks outlive their heap", "blocks=1", "context=\"greedy\""]);
    seen(&["a heap was closed", "context=\"greedy\""]);
    seen(&["blocks outlive their heap", "blocks=1", "context=\"renewed\""]);
}

#[test]
fn a_subscriber_that_panics_leaves_heaps_whole() {
    let _alone = ALONE.lock();
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heard);
    let subscriber = Subscribed(move |text| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("a subscriber that panics at: {text}");
    });
    tracing::subscriber::with_default(subscriber, || {
        let mut parent = Heap::builder().name("told of").build().unwrap();
        for _ in 0..100 {
            let child = Heap::builder().parent(&parent).build().unwrap();
            let kept = child.run(|| vec![1_u8; 100]).unwrap();
            assert_eq!(parent.reset().unwrap().closed_children, 1);
            assert_eq!(parent.run(|| [7].to_vec()).unwrap(), [7]);
            drop((kept, child));
        }
        let group = Account::new("limited").unwrap().with_soft_limit(CHUNK);
        let heap = Heap::builder().charged_to(&group).build().unwrap();
        heap.run(|| drop(vec![1_u8; 3 * CHUNK])).unwrap();
        drop((heap, parent));
        let left = heapswitch::accounts().filter(|left| left.name().as_str() == "told of");
        assert_eq!(left.count(), 0);
    });
    // Each child's end and what outlived it, the pressure, and the two heaps' ends.
    assert_eq!(heard.load(Ordering::Relaxed), 2 * 100 + 3);
}

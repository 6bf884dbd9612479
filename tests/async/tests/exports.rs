//! The figures through the `metrics` facade and the events through `tracing`, both received for
//! real.
#![cfg(not(heapswitch_pass_through))]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use heapswitch::{Account, Heap, HeapSwitch, checkpoint, publish_metrics};
use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;

/// `tracing` may miss a subscriber that is new on one thread while another thread comes to an event
/// for the first time: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Keeps what each gauge was set to last.
#[derive(Clone, Default)]
struct Gauges(Arc<Mutex<HashMap<String, f64>>>);

struct One(Gauges, String);

impl GaugeFn for One {
    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}

    fn set(&self, value: f64) {
        self.0.0.lock().unwrap().insert(self.1.clone(), value);
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut name = key.name().to_owned();
        for label in key.labels() {
            write!(name, " {}={}", label.key(), label.value()).unwrap();
        }
        Gauge::from_arc(Arc::new(One(self.clone(), name)))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn the_accounts_are_gauges_by_name() {
    let _alone = ALONE.lock();
    let group = Account::new("exported group").unwrap();
    let make = || Heap::builder().name("exported").charged_to(&group).build().unwrap();
    let heaps = [make(), make()];
    let kept: Vec<_> =
        heaps.iter().map(|heap| heap.run(|| vec![1_u8; 3 * CHUNK]).unwrap()).collect();
    let gauges = Gauges::default();
    metrics::with_local_recorder(&gauges, publish_metrics);
    let values = gauges.0.lock().unwrap();
    assert_eq!(values["heapswitch_context_own_bytes context=exported"], 6.0 * CHUNK as f64);
    assert_eq!(values["heapswitch_context_accounts context=exported"], 2.0);
    assert_eq!(values["heapswitch_context_own_bytes context=exported group"], 0.0);
    assert!(values["heapswitch_process_taken_bytes"] >= 6.0 * CHUNK as f64);
    drop(kept);
}

/// Keeps each event's text.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

struct Text<'a>(&'a mut String);

impl tracing::field::Visit for Text<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "heapswitch"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        assert_ne!(heapswitch::current(), heapswitch::CurrentAllocatorInUse::CoroutineLocal);
        let mut text = String::new();
        event.record(&mut Text(&mut text));
        self.0.lock().unwrap().push(text);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn closes_escapes_and_ended_contexts_are_events() {
    let _alone = ALONE.lock();
    let events = Events::default();
    tracing::subscriber::with_default(events.clone(), || {
        let heap = Heap::builder().name("greedy").limit(CHUNK).build().unwrap();
        let kept = heap.run(|| vec![1_u8; 10 * CHUNK]).unwrap();
        assert!(heap.run(checkpoint).unwrap().is_err());
        drop(heap);
        drop(kept);
        // A pool resets its heaps, and closes none.
        let mut heap = Heap::builder().name("renewed").build().unwrap();
        let kept = heap.run(|| vec![1_u8; 10]).unwrap();
        heap.reset().unwrap();
        let before = events.0.lock().unwrap().len();
        heap.reset().unwrap();
        assert_eq!(events.0.lock().unwrap().len(), before, "nothing escaped");
        drop(kept);
    });
    let events = events.0.lock().unwrap();
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

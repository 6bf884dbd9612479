//! The service as a process of its own, driven by HTTP clients: polite requests, hostile ones of
//! every kind, and what is told of both. Its resident memory ends where it began.
#![cfg(not(heapswitch_pass_through))]

use std::process::Command;
use std::time::Duration;

use axum::http::Method;
use heapswitch_service::join::Tables;
use heapswitch_service::self_test::client::Client;
use heapswitch_service::self_test::load::{Load, join_request, right_answer};
use heapswitch_service::self_test::server::Server;
use heapswitch_service::self_test::{hostile, is_back, programs};

const BUDGET: usize = 1 << 20;
const AT_ONCE: usize = 32;
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

fn start(arguments: &[&str]) -> Server {
    let program = programs::beside("service", &[]).expect("the service is built");
    let budget = BUDGET.to_string();
    let arguments = [&["--port", "0", "--budget", &budget], arguments].concat();
    let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
    Server::start(&program, &arguments).expect("the service starts")
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// The value of a series of `/metrics`.
async fn metric(client: &mut Client, series: &str) -> f64 {
    let answer = client.get("/metrics").await.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

#[test]
fn thousands_of_requests_and_hostile_ones_leave_the_memory_as_it_was() {
    let server = start(&[]);
    let address = server.address();
    let load = Load::new(BUDGET);
    block_on(async {
        // Each kind at least twice, and until a round adds nothing, so that what is made once and
        // kept is there: the chunk table of where 1 GiB lay, 2 MiB, and of where it lies beside
        // what came meanwhile.
        let mut warm_kb = Vec::new();
        while warm_kb.len() < 2 || !is_back(warm_kb[warm_kb.len() - 2], warm_kb[warm_kb.len() - 1])
        {
            assert!(warm_kb.len() < 6, "each round adds to what is resident, KiB: {warm_kb:?}");
            for seen in hostile::try_all(address, BUDGET).await {
                assert!(seen.is_as_stated, "{seen:?}");
            }
            load.run(address, 300, Some(100), true).await;
            warm_kb.push(server.settled_kb(SETTLES_WITHIN).await.unwrap());
        }
        let before = warm_kb[warm_kb.len() - 1];
        server.forget_peak().unwrap();
        let outcome = load.run(address, 2000, Some(100), true).await;
        assert_eq!((outcome.failed_neighbours, outcome.hostile), (0, 20), "{outcome:?}");
        assert_eq!(outcome.over_budget, outcome.hostile, "each was told the figures");
        let budgets_kb = (BUDGET * AT_ONCE / 1024) as u64;
        let peak = server.peak_kb().unwrap();
        assert!(peak * 10 <= budgets_kb * 11, "{peak} KiB of {budgets_kb}");
        for seen in hostile::try_all(address, BUDGET).await {
            assert!(seen.is_as_stated, "{seen:?}");
        }
        let after = server.settled_kb(SETTLES_WITHIN).await.unwrap();
        assert!(is_back(before, after), "{before} KiB before, {after} after");
    });
}

#[test]
fn what_the_budgets_did_is_told() {
    let server = start(&[]);
    block_on(async {
        let mut client = Client::connect(server.address()).await.unwrap();
        let series = "heapswitch_context_overdrafts{context=\"request\"}";
        let request = join_request("unchecked", 300, 1, 0);
        let served = client.post("/join", request.to_string()).await.unwrap();
        assert!(served.is(200) && served.json() == right_answer(&request), "nothing ended it");
        assert!(metric(&mut client, series).await > 0.0, "but it is counted");
        assert_eq!(metric(&mut client, "service_requests_over_budget").await, 0.0);
        let ended = client.post("/join", join_request("await", 300, 1, 0).to_string()).await;
        let told = ended.unwrap().json();
        assert_eq!((&told["context"], &told["account"]), (&"request".into(), &"request".into()));
        assert_eq!((&told["limit_bytes"], told["largest"].is_array()), (&BUDGET.into(), true));
        assert_eq!(metric(&mut client, "service_requests_over_budget").await, 1.0);
        let picture = client.get("/heap.svg").await.unwrap();
        let text = std::str::from_utf8(&picture.body).unwrap();
        assert!(text.contains("<svg") && text.trim_end().ends_with("</svg>"), "{text:.200}");
        assert!(text.contains("request"), "the requests' chunks are shown by their name");
        let most = (AT_ONCE << 16) as f64;
        let own = metric(&mut client, "heapswitch_context_own_bytes{context=\"request\"}").await;
        assert!(own <= most, "pooled heaps keep a chunk each, no more: {own}");
    });
}

#[test]
fn what_is_wrong_is_refused() {
    // A body of 1 MiB has to fit, so that one that is longer meets its own bound.
    let server = start(&["--at-once", "2", "--budget", "8388608"]);
    block_on(async {
        let mut client = Client::connect(server.address()).await.unwrap();
        let long = format!("[{}]", " ".repeat(1 << 20));
        let cases = [
            ("/join", "{", 400),
            ("/join", "{}", 400),
            ("/join", r#"{"pace": "await", "left": [[1]], "right": []}"#, 400),
            ("/depth", r#"{"levels": 10}"#, 400),
            ("/allocate", r#"{"bytes": 99999999999}"#, 400),
            ("/count", &long, 413),
            ("/nowhere", "", 404),
            ("/metrics", "", 405),
        ];
        for (path, body, status) in cases {
            let answer = client.ask(Method::POST, path, body.to_owned().into()).await.unwrap();
            assert!(answer.is(status), "{path} {body:.40}: {answer:?}");
        }
        let counted = client.post("/count/checked", r#"[1, {"a": [2, null]}]"#).await.unwrap();
        assert_eq!(counted.json()["values"], 6);
    });
}

#[test]
fn every_pace_finds_the_same() {
    let request = serde_json::json!({
        "left": [[1, "a"], [2, "b"], [1, "c"], [3, "d"]],
        "right": [[1, "x"], [1, "y"], [2, "z"]],
    });
    let tables = Tables::read(&request).unwrap();
    let joined = tables.join_and_check().unwrap();
    assert_eq!((joined.rows, joined.bytes), (5, 15));
    assert_eq!(tables.try_join().unwrap(), joined);
    assert_eq!(tables.join(|| Ok::<(), ()>(())).unwrap(), joined);
    assert_eq!(block_on(tables.join_and_await()), joined);
    assert!(Tables::read(&serde_json::json!({ "left": [[1]], "right": [] })).is_none());
}

#[test]
fn wrong_arguments_are_refused() {
    let program = programs::beside("service", &[]).expect("the service is built");
    for wrong in [&["--port"][..], &["--port", "65536"], &["--workers", "0"], &["--frobnicate"]] {
        let output = Command::new(&program).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("service: "), "{output:?}");
    }
}

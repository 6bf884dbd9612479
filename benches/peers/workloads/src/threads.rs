//! What threads do to each other: they free one another's blocks, and they come and go.

use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use crate::random::Random;
use crate::small::{block, random_block};

/// In each pair of threads one allocates, the other frees.
pub(crate) fn foreign(repeats: usize, threads: usize) {
    let pairs = (threads / 2).max(1);
    thread::scope(|scope| {
        for pair in 1..pairs {
            scope.spawn(move || allocated_and_freed(pair, repeats.div_ceil(pairs)));
        }
        allocated_and_freed(0, repeats.div_ceil(pairs));
    });
}

fn allocated_and_freed(pair: usize, batches: usize) {
    const BATCH: usize = 64;
    const BATCHES_UNDER_WAY: usize = 64;
    let (sender, receiver) = sync_channel::<Vec<Vec<u8>>>(BATCHES_UNDER_WAY);
    thread::scope(|scope| {
        scope.spawn(move || receiver.into_iter().for_each(drop));
        let mut random = Random::of_thread(pair);
        for _ in 0..batches {
            let batch = (0..BATCH).map(|_| random_block(&mut random)).collect();
            sender.send(batch).expect("the receiver ends after the sender");
        }
        drop(sender);
    });
}

/// After the benchmark by P. Larson and M. Krishnan: each of the threads replaces random ones of
/// the blocks it was handed, then hands them to a new thread, that takes its turn, and ends.
pub(crate) fn larson(repeats: usize, threads: usize) {
    const LIVE: usize = 5000;
    thread::scope(|scope| {
        for thread in 0..threads {
            let mut random = Random::of_thread(thread);
            let blocks = (0..LIVE).map(|_| larson_block(&mut random)).collect();
            let turns = repeats.div_ceil(threads);
            scope.spawn(move || take_turn(scope, blocks, random, turns));
        }
    });
}

fn larson_block(random: &mut Random) -> Vec<u8> {
    const SMALLEST: usize = 8;
    const LARGEST: usize = 1000;
    block(SMALLEST + random.below(LARGEST - SMALLEST))
}

fn take_turn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut blocks: Vec<Vec<u8>>,
    mut random: Random,
    turns: usize,
) {
    const REPLACED_IN_A_TURN: usize = 20_000;
    for _ in 0..REPLACED_IN_A_TURN {
        let place = random.below(blocks.len());
        blocks[place] = larson_block(&mut random);
    }
    if turns > 1 {
        scope.spawn(move || take_turn(scope, blocks, random, turns - 1));
    }
}

struct Query {
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

struct Answer {
    #[expect(clippy::vec_box, reason = "a block for each row, as objects behind pointers have")]
    rows: Vec<Box<[u64; 5]>>,
    text: String,
}

/// In each pair of threads a client and a server exchange messages through bounded queues: each
/// frees what the other built.
pub(crate) fn exchange(repeats: usize, threads: usize) {
    let pairs = (threads / 2).max(1);
    let messages = repeats.div_ceil(pairs);
    thread::scope(|scope| {
        for pair in 1..pairs {
            scope.spawn(move || client(pair, messages));
        }
        client(0, messages);
    });
}

fn client(pair: usize, messages: usize) {
    const UNDER_WAY: usize = 128;
    // Both queues together hold more than is ever under way, so that neither end blocks the other.
    let (queries, to_serve) = sync_channel::<Query>(UNDER_WAY / 2);
    let (answers, answered) = sync_channel::<Answer>(UNDER_WAY);
    thread::scope(|scope| {
        scope.spawn(move || serve(&to_serve, &answers));
        let mut random = Random::of_thread(pair);
        for number in 0..messages {
            queries.send(query(&mut random, number)).expect("the server ends after the client");
            if number >= UNDER_WAY {
                black_box(read(&answered));
            }
        }
        drop(queries);
        for _ in 0..messages.min(UNDER_WAY) {
            black_box(read(&answered));
        }
        assert!(answered.recv().is_err(), "each query has one answer");
    });
}

fn query(random: &mut Random, number: usize) -> Query {
    const LARGEST_BODY: usize = 2048;
    let headers =
        (0..3).map(|header| (format!("header-{header}"), format!("value {number}"))).collect();
    let body = vec![number as u8; 16 + random.below(LARGEST_BODY)];
    Query { path: format!("/items/{}", random.below(10_000)), headers, body }
}

fn serve(queries: &Receiver<Query>, answers: &SyncSender<Answer>) {
    const MOST_ROWS: usize = 16;
    for query in queries {
        let rows = 1 + query.body.len() % MOST_ROWS;
        let headers: usize =
            query.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let answer = Answer {
            rows: (0..rows as u64).map(|row| Box::new([row; 5])).collect(),
            text: format!("{}: {} bytes, {headers} in headers", query.path, query.body.len()),
        };
        drop(query);
        answers.send(answer).expect("the client waits for every answer");
    }
}

fn read(answers: &Receiver<Answer>) -> u64 {
    let answer = answers.recv().expect("the server answers every query");
    answer.rows.iter().map(|row| row[0]).sum::<u64>() + answer.text.len() as u64
}

/// Many short threads, `threads` of them at once: each builds a few hundred objects, drops most and
/// hands the others to the thread that waits for it.
pub(crate) fn spawn(repeats: usize, threads: usize) {
    const OBJECTS: usize = 300;
    const HANDED_OVER: usize = 30;
    const BUFFER_BYTES: usize = 16 << 10;
    let short = |number: usize| {
        let mut random = Random::of_thread(number);
        let buffer = vec![number as u8; BUFFER_BYTES];
        let mut objects: Vec<Vec<u8>> = (0..OBJECTS).map(|_| random_block(&mut random)).collect();
        objects.truncate(HANDED_OVER);
        black_box(buffer);
        objects
    };
    for round in 0..repeats.div_ceil(threads) {
        thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || short(round * threads + thread)))
                .collect();
            for thread in running {
                let objects = thread.join().expect("a short thread does not panic");
                assert_eq!(objects.len(), HANDED_OVER);
            }
        });
    }
}

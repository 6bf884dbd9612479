//! Where memory lies: the machine's NUMA nodes, a worker on each, and the pages of its heaps.
//!
//! Each worker fills its thread's heap and starts a coroutine that fills a heap of its own; then
//! the coroutine moves to the next node's worker, goes on there, and its heap stays where it was.
//! What the kernel says of each heap's pages is shown as a table and, with `--svg FILE`, as a heat
//! map. On a machine with one node everything lies there, and the program says so.
//!
//! `cargo run --release --example numa -- --svg placement.svg`

mod heat_map;
mod placements;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use heapswitch::numa::{Node, Residence, Topology};
use heapswitch::{
    Coroutine, CoroutineResult, CurrentAllocatorInUse, Heap, SendCoroutine, WorkerBuilder,
    process_usage, residence_of, thread_home, worker_nodes,
};
use placements::Placements;

heapswitch::global_thread_and_coroutine_switchable_allocator! {}

/// Strings that a heap is filled with: about 4 MiB.
const STRINGS: usize = 10_000;

type Task = SendCoroutine<(), (), usize>;

fn main() -> ExitCode {
    match arguments().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("numa: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The file for the heat map, if one is wanted.
fn arguments() -> Result<Option<PathBuf>, Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(None),
        (Some(option), Some(file), None) if option == "--svg" => Ok(Some(file.into())),
        _ => Err("usage: numa [--svg FILE]".into()),
    }
}

fn run(svg: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    if heapswitch::sys::IS_PASS_THROUGH {
        println!("Every allocation passes through to the system's allocator: no heap is placed.");
        return Ok(());
    }
    let topology = Topology::of_system()?;
    show(&topology)?;
    let mut placements = Placements::new(&topology);
    let tasks = on_each_node(&mut placements)?;
    move_on(&mut placements, tasks)?;
    println!("\nPages of 4 KiB by node, as the kernel says:\n{placements}");
    let usage = process_usage();
    println!(
        "{} runs of chunks were taken away from home; {} segments are not placed as was asked.",
        usage.region.away_runs, usage.region.refused_placements
    );
    if let Some(file) = svg {
        std::fs::write(&file, heat_map::svg(&placements))?;
        println!("The heat map is in {}.", file.display());
    }
    Ok(())
}

/// The machine, and what this process may use of it.
fn show(topology: &Topology) -> Result<(), Box<dyn Error>> {
    let (nodes, usable) = (topology.nodes(), topology.usable_nodes());
    match nodes.len() {
        1 => println!("This machine has one NUMA node: every page lies there."),
        count => println!("This machine has {count} NUMA nodes ({nodes}), {usable} to be used."),
    }
    println!("{:<6}{:<16}{:>10}{:>10}  distances", "node", "processors", "MiB", "free");
    for node in nodes.iter() {
        let described = topology.node(node)?;
        let mut distances = String::new();
        topology.distances(node, |_, distance| distances += &format!("{distance:>4}"))?;
        let (memory, free) = (described.memory_bytes >> 20, described.free_bytes >> 20);
        let processors = described.processors.to_string();
        println!("{:<6}{processors:<16}{memory:>10}{free:>10} {distances}", node.to_string());
    }
    Ok(())
}

fn strings() -> Vec<String> {
    (0..STRINGS).map(|number| "memory ".repeat(1 + number % 100)).collect()
}

/// What a worker tells: of its thread's heap, and of its coroutine's.
struct Told {
    home: Option<Node>,
    thread: Result<Residence, String>,
    context: Result<Residence, String>,
    task: Task,
}

/// Fills strings, suspends, fills as many again wherever it is resumed, and suspends once more.
fn task() -> Result<Task, Box<dyn Error + Send + Sync>> {
    let heap = Heap::new()?;
    let coroutine = Coroutine::new(heap, |yielder, ()| {
        let first = strings();
        yielder.suspend(());
        let second = strings();
        yielder.suspend(());
        first.len() + second.len()
    })?;
    // SAFETY: across its suspensions the body keeps vectors of strings, and nothing of the thread.
    Ok(unsafe { coroutine.assume_send() })
}

/// What a worker on a node does.
fn work() -> Result<Told, Box<dyn Error + Send + Sync>> {
    let kept = strings();
    let mut task = task()?;
    task.resume(())?;
    let told = Told {
        home: thread_home(),
        thread: residence_of(CurrentAllocatorInUse::ThreadLocal).map_err(|error| error.to_string()),
        context: task.heap().residence().map_err(|error| error.to_string()),
        task,
    };
    drop(kept);
    Ok(told)
}

/// Starts a worker on each node; the coroutines, each with the node where it began.
fn on_each_node(placements: &mut Placements) -> Result<Vec<(Node, Task)>, Box<dyn Error>> {
    let mut tasks = Vec::new();
    for worker in WorkerBuilder::new().name("node").spawn_on_each_node(|_| work())? {
        let node = worker.node().expect("it was started for a node");
        let told = worker.join().expect("no worker panics").map_err(|error| error.to_string())?;
        if told.home.is_some_and(|home| home != node) {
            println!("Node {node} has no memory; its worker's is on node {}.", told.home.unwrap());
        }
        placements.push(format!("thread on node {node}"), told.thread);
        placements.push(format!("coroutine on node {node}"), told.context);
        tasks.push((node, told.task));
    }
    Ok(tasks)
}

/// Resumes each coroutine on the next node.
fn move_on(placements: &mut Placements, tasks: Vec<(Node, Task)>) -> Result<(), Box<dyn Error>> {
    let nodes = worker_nodes()?;
    for (node, mut task) in tasks {
        let place = nodes.iter().position(|&other| other == node).unwrap_or(0);
        let next = nodes[(place + 1) % nodes.len()];
        let resume = move || {
            task.resume(())?;
            let residence = task.heap().residence().map_err(|error| error.to_string());
            task.resume(()).map(|result| (result, residence))
        };
        let worker = WorkerBuilder::new().node(next).spawn(resume)?;
        let (result, residence) = worker.join().expect("no worker panics")?;
        let CoroutineResult::Return(count) = result else {
            return Err("a coroutine was suspended once more than expected".into());
        };
        assert_eq!(count, 2 * STRINGS);
        placements.push(format!("... begun on {node}, went on on {next}"), residence);
    }
    Ok(())
}

//! Heaps through the allocator trait: collections that name the heap they live in.
//!
//! Nothing is switched here, and the program needs no declared allocator: a `&Heap` is an
//! allocator as `allocator_api2` defines it. `hashbrown` takes those, and so do the vectors and
//! boxes of `allocator_api2`. The borrow keeps the heap alive as long as anything that lives in it.
//!
//! When to choose it over entering the heap: to place one collection and nothing else, or to have
//! several heaps in use at once. The collection's *elements* still allocate from what is current.
//!
//! `cargo run --example collections`

use std::error::Error;

use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use hashbrown::{DefaultHashBuilder, HashMap};
use heapswitch::{Heap, LifetimeHint};

/// A day's measurement, by station.
struct Station<'a> {
    name: &'static str,
    /// In tenths of a degree.
    temperatures: Vec<i32, &'a Heap>,
}

/// A map from station to measurements, all of it in `heap`.
type Stations<'a> = HashMap<u32, Box<Station<'a>, &'a Heap>, DefaultHashBuilder, &'a Heap>;

/// `count` stations with a day of measurements each.
fn measured(heap: &Heap, count: u32) -> Stations<'_> {
    let mut stations = Stations::with_hasher_in(DefaultHashBuilder::default(), heap);
    for number in 0..count {
        let mut temperatures = Vec::with_capacity_in(24, heap);
        let (name, noon) = if number % 2 == 0 { ("coast", 180) } else { ("inland", 240) };
        let tenths = |hour: i32| noon - 10 * (hour - 12).abs() + (number % 7) as i32;
        temperatures.extend((0..24).map(tenths));
        stations.insert(number, Box::new_in(Station { name, temperatures }, heap));
    }
    stations
}

/// The mean of all measurements of stations of that name, in tenths of a degree.
fn mean(stations: &Stations<'_>, name: &str) -> Option<i64> {
    let of_name = stations.values().filter(|station| station.name == name);
    let (sum, count) = of_name
        .flat_map(|station| station.temperatures.iter())
        .fold((0, 0), |(sum, count), &tenths| (sum + i64::from(tenths), count + 1));
    (count > 0).then(|| sum / count)
}

fn main() -> Result<(), std::boxed::Box<dyn Error>> {
    // Stations come and go one by one, so the space of one is to serve the next.
    let heap = Heap::with_hint(LifetimeHint::Long)?;
    let mut stations = measured(&heap, 1000);

    let full = heap.memory_usage()?;
    println!("{} stations in a heap of {}:", stations.len(), heap.strategy());
    println!("  {} blocks, {} bytes", full.allocated_blocks, full.allocated_bytes);
    println!("  {} bytes taken from the system", full.committed_bytes);
    for name in ["coast", "inland"] {
        let tenths = mean(&stations, name).ok_or("no station of that name")?;
        println!("  {name}: {}.{} degrees", tenths / 10, tenths % 10);
    }

    stations.retain(|_, station| station.name == "coast");
    let half = heap.memory_usage()?;
    println!("without those inland: {} blocks", half.allocated_blocks);

    // A second heap at the same time, for what is needed only now.
    let scratch = Heap::with_hint(LifetimeHint::Short)?;
    let mut hottest = Vec::<i32, _>::new_in(&scratch);
    hottest.extend(stations.values().filter_map(|station| station.temperatures.iter().max()));
    hottest.sort_unstable();
    let tenths = hottest.last().ok_or("no station is left")?;
    println!("the hottest hour: {}.{} degrees", tenths / 10, tenths % 10);
    drop(hottest);

    drop(stations);
    heap.release_unused()?;
    println!("when all are dropped: {} blocks", heap.memory_usage()?.allocated_blocks);
    let escaped = heap.close().blocks + scratch.close().blocks;
    println!("escaped: {escaped} blocks");
    Ok(())
}

//! NUMA, as the kernel itself and numactl tell it. `tests/numa/run` runs this program on machines
//! with several nodes; on any other the same tests run with the nodes that there are.
//!
//! Not under ThreadSanitizer: where pages lie is no question of races, and it moves mappings about.
#![cfg(not(any(heapswitch_pass_through, loom, heapswitch_tsan)))]

#[path = "numa/adoption.rs"]
mod adoption;
#[path = "numa/confined.rs"]
mod confined;
#[path = "numa/contexts.rs"]
mod contexts;
#[path = "numa/faults.rs"]
mod faults;
#[path = "numa/heaps.rs"]
mod heaps;
#[path = "numa/huge_pages.rs"]
mod huge_pages;
#[path = "numa/instructions.rs"]
mod instructions;
#[path = "numa/machine.rs"]
mod machine;
#[path = "numa/oracle.rs"]
mod oracle;
#[path = "numa/places.rs"]
mod places;
#[path = "numa/policies.rs"]
mod policies;
#[path = "numa/ranges.rs"]
mod ranges;
#[path = "numa/refused.rs"]
mod refused;
#[path = "numa/residence.rs"]
mod residence;
#[path = "numa/settings.rs"]
mod settings;
#[path = "numa/topology.rs"]
mod topology;
#[path = "numa/workers.rs"]
mod workers;

use heapswitch::HeapSwitch;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

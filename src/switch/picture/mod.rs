//! Pictures of memory as SVG text, by plain writing: which chunk is whose, and how a tree of
//! contexts grew.
//!
//! They are made from what anyone may ask for at any time (the map has heaps counted, as a report
//! does), and allocate in the thread's
//! own heap. A browser shows them; pointing at a part tells its figures.

mod heap_map;
mod svg;
mod timeline;

pub use heap_map::{HeapMap, MappedChunk};
pub use timeline::Timeline;

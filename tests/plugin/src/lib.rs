//! A plugin: a shared library whose allocator is heapswitch.

use heapswitch::{Heap, HeapSwitch};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// Allocates in the calling thread's heap and in a context's; how many bytes heapswitch served of
/// both.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_work() -> usize {
    let numbers = std::hint::black_box(vec![1_u8; 1000]);
    let Ok(heap) = Heap::new() else { return 0 };
    let Ok(text) = heap.run(|| std::hint::black_box("context".repeat(100))) else { return 0 };
    let served = |block: *const u8, bytes| if GLOBAL.contains(block) { bytes } else { 0 };
    served(numbers.as_ptr(), numbers.len()) + served(text.as_ptr(), text.len())
}

//! A heap that may become current has to find its blocks by their address.

use core::mem::MaybeUninit;

use heapswitch::{BorrowedSliceSource, Heap};

fn main() {
    let memory = Box::leak(Box::new([MaybeUninit::uninit(); 1 << 20]));
    let source: &'static BorrowedSliceSource<'static> =
        Box::leak(Box::new(BorrowedSliceSource::new(memory)));
    let _ = Heap::builder().source(source);
}

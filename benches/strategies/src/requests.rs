//! Requests' objects that are all dropped at once, in a bump and in bumpalo: 200 requests.

use std::time::{Duration, Instant};

use crate::peers::{self, Buffer, ByTrait};
use crate::workloads;

const REQUESTS: usize = 200;

/// bumpalo takes its memory from the system, so it is asked whether a block is in its chunks.
pub fn in_bumpalo() -> Duration {
    let mut bump = bumpalo::Bump::with_capacity(1 << 20);
    let chunk = bump.iter_allocated_chunks().count();
    assert!(chunk <= 1);
    let start = Instant::now();
    for _ in 0..REQUESTS {
        workloads::objects(&ByTrait(&bump), |block| {
            // SAFETY: nothing allocates while the chunks are read.
            unsafe { bump.iter_allocated_chunks_raw() }.any(|(start, length)| {
                (start.addr()..start.addr() + length).contains(&block.addr())
            })
        });
        bump.reset();
    }
    start.elapsed()
}

/// In a bump that is made anew for each request.
pub fn in_bump(buffer: &mut Buffer) -> Duration {
    let start = Instant::now();
    for _ in 0..REQUESTS {
        let addresses = buffer.addresses();
        let bump = peers::bump(buffer);
        workloads::objects(&bump, |block| addresses.contains(&block.addr()));
    }
    start.elapsed()
}

//! NUMA memory policies of ranges, by raw system calls: no library is needed to build or to run.

use core::ptr::NonNull;

use super::SystemError;
use super::fault::{self, Call};
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

/// A memory policy's number, as `include/uapi/linux/mempolicy.h` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Mode {
    /// That of the thread.
    Default = 0,
    /// The first node of the set, others where it is full.
    Preferred = 1,
    /// Only the nodes of the set.
    Bind = 2,
    /// Page by page over the nodes of the set.
    Interleave = 3,
    /// The node of the processor that touches a page first (Linux 3.8).
    Local = 4,
    /// Any node of the set, others where all are full (Linux 5.15).
    PreferredMany = 5,
    /// As `Interleave`, by the system's weights (Linux 6.9).
    WeightedInterleave = 6,
}

/// Bits in a set of nodes: what a kernel of x86-64 or aarch64 knows at most (`MAX_NUMNODES`).
pub const NODE_BITS: usize = 1024;

/// `MPOL_MF_STRICT | MPOL_MF_MOVE`: move the pages that are there, and fail where that is
/// impossible.
const STRICT: usize = 1 | 2;

/// Sets the policy of the pages of a range (`mbind`). It changes neither contents nor access, so it
/// is safe on any address.
///
/// # Errors
/// The system's: `ENOSYS` where it has no NUMA, `EINVAL` for a mode or nodes that it lacks, `EPERM`
/// where a sandbox forbids it, `EIO` where `is_strict` and a page could not be moved.
pub fn set_range_policy(
    start: NonNull<u8>,
    bytes: usize,
    mode: Mode,
    nodes: &[u64; NODE_BITS / 64],
    is_strict: bool,
) -> Result<(), SystemError> {
    if fault::strikes(Call::Policy) {
        return Err(SystemError(libc::ENOSYS));
    }
    let takes_nodes = !matches!(mode, Mode::Default | Mode::Local);
    // The kernel subtracts one from the number of bits.
    let (mask, bits) =
        if takes_nodes { (nodes.as_ptr(), NODE_BITS + 1) } else { (core::ptr::null(), 0) };
    let flags = if is_strict { STRICT } else { 0 };
    // SAFETY: the set is valid for reads of its bits, and the call changes no contents.
    let result = unsafe {
        libc::syscall(libc::SYS_mbind, start.as_ptr(), bytes, mode as usize, mask, bits, flags)
    };
    if result == 0 { Ok(()) } else { Err(SystemError::last()) }
}

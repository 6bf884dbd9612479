//! NUMA: policies of ranges and threads, where pages lie, and where a thread runs; by raw system
//! calls: no library is needed to build or to run.

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

impl Mode {
    const ALL: [Self; 7] = [
        Self::Default,
        Self::Preferred,
        Self::Bind,
        Self::Interleave,
        Self::Local,
        Self::PreferredMany,
        Self::WeightedInterleave,
    ];

    /// Whether it comes with a set of nodes.
    fn takes_nodes(self) -> bool {
        !matches!(self, Self::Default | Self::Local)
    }
}

/// `MPOL_F_STATIC_NODES`: the numbers stay what they are when the process's cpuset changes.
pub const STATIC_NODES: usize = 1 << 15;

/// `MPOL_F_RELATIVE_NODES`: the numbers count the nodes of the process's cpuset.
pub const RELATIVE_NODES: usize = 1 << 14;

/// Bits in a set of nodes: what a kernel of x86-64 or aarch64 knows at most (`MAX_NUMNODES`).
pub const NODE_BITS: usize = 1024;

/// A set of nodes, the lowest in the lowest bit of the first word.
pub type NodeWords = [u64; NODE_BITS / 64];

/// What the kernel is told of the set's length: it subtracts one.
const NODE_LENGTH: usize = NODE_BITS + 1;

/// A policy as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPolicy {
    /// The policy.
    pub mode: Mode,
    /// `STATIC_NODES` or `RELATIVE_NODES`, or neither.
    pub mode_flags: usize,
    /// The nodes; none for a mode that takes none.
    pub nodes: NodeWords,
}

impl RawPolicy {
    fn mask(&self) -> (*const u64, usize) {
        match self.mode.takes_nodes() {
            true => (self.nodes.as_ptr(), NODE_LENGTH),
            false => (core::ptr::null(), 0),
        }
    }
}

/// What happens to pages that are there already when a range gets a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Existing {
    /// `MPOL_MF_MOVE`: move them.
    pub are_moved: bool,
    /// `MPOL_MF_STRICT`: fail where one lies elsewhere and was not moved.
    pub must_follow: bool,
}

fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, SystemError> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: this file's functions give pointers that are valid for what the call does with them;
    // none of the calls changes contents of memory that is not theirs to fill in.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| SystemError::last())
}

/// Sets the policy of the pages of a range (`mbind`). It changes neither contents nor access, so it
/// is safe on any address.
///
/// # Errors
/// The system's: `ENOSYS` where it has no NUMA, `EINVAL` for a mode or nodes that it lacks, `EPERM`
/// where a sandbox forbids it, `EIO` where `must_follow` and a page lies elsewhere.
pub fn set_range_policy(
    start: NonNull<u8>,
    bytes: usize,
    policy: &RawPolicy,
    existing: Existing,
) -> Result<(), SystemError> {
    if fault::strikes(Call::Policy) {
        return Err(SystemError(libc::ENOSYS));
    }
    let (mask, bits) = policy.mask();
    let mode = policy.mode as usize | policy.mode_flags;
    let flags = usize::from(existing.must_follow) | usize::from(existing.are_moved) << 1;
    let start = start.as_ptr().expose_provenance();
    call(libc::SYS_mbind, [start, bytes, mode, mask.expose_provenance(), bits, flags]).map(|_| ())
}

/// Sets this thread's policy (`set_mempolicy`): of pages that it touches first, in ranges without a
/// policy of their own.
///
/// # Errors
/// As [`set_range_policy`].
pub fn set_thread_policy(policy: &RawPolicy) -> Result<(), SystemError> {
    if fault::strikes(Call::ThreadPolicy) {
        return Err(SystemError(libc::EPERM));
    }
    let (mask, bits) = policy.mask();
    let mode = policy.mode as usize | policy.mode_flags;
    call(libc::SYS_set_mempolicy, [mode, mask.expose_provenance(), bits, 0, 0, 0]).map(|_| ())
}

/// `MPOL_F_ADDR`: the policy of an address, not of the thread.
const OF_ADDRESS: usize = 1 << 1;
/// `MPOL_F_MEMS_ALLOWED`: the nodes of the thread's cpuset.
const ALLOWED: usize = 1 << 2;

/// The policy of this thread, or of the range that an address lies in (`get_mempolicy`).
///
/// # Errors
/// The system's: `ENOSYS`, `EPERM`; `EFAULT` where nothing is mapped; `EINVAL` for a policy that
/// this file does not know.
pub fn policy_of(address: Option<NonNull<u8>>) -> Result<RawPolicy, SystemError> {
    if fault::strikes(Call::AskPolicy) {
        return Err(SystemError(libc::ENOSYS));
    }
    let (mut mode, mut nodes) = (0_u32, NodeWords::default());
    let flags = if address.is_some() { OF_ADDRESS } else { 0 };
    let address = address.map_or(0, |address| address.as_ptr().expose_provenance());
    let (mode_out, mask) = (&raw mut mode, nodes.as_mut_ptr());
    let (mode_out, mask) = (mode_out.expose_provenance(), mask.expose_provenance());
    call(libc::SYS_get_mempolicy, [mode_out, mask, NODE_LENGTH, address, flags, 0])?;
    let mode_flags = mode as usize & (STATIC_NODES | RELATIVE_NODES);
    let number = mode as usize & !mode_flags;
    let mode = Mode::ALL.into_iter().find(|mode| *mode as usize == number);
    let mode = mode.ok_or(SystemError(libc::EINVAL))?;
    Ok(RawPolicy { mode, mode_flags, nodes })
}

/// The nodes that this thread may allocate on (`get_mempolicy` with `MPOL_F_MEMS_ALLOWED`).
///
/// # Errors
/// The system's: `ENOSYS`, `EPERM`.
pub fn allowed_nodes() -> Result<NodeWords, SystemError> {
    if fault::strikes(Call::AskPolicy) {
        return Err(SystemError(libc::ENOSYS));
    }
    let mut nodes = NodeWords::default();
    let mask = nodes.as_mut_ptr().expose_provenance();
    call(libc::SYS_get_mempolicy, [0, mask, NODE_LENGTH, 0, ALLOWED, 0])?;
    Ok(nodes)
}

/// The most addresses that [`nodes_of_pages`] takes at once.
pub const PAGES_AT_ONCE: usize = 64;

/// On which nodes pages of this process lie (`move_pages` without a target): for each address the
/// node's number, or a negative error number (`-ENOENT`: not resident). Nothing is moved.
///
/// # Errors
/// The system's: `ENOSYS`, `EPERM`.
pub fn nodes_of_pages(
    addresses: &[usize; PAGES_AT_ONCE],
    count: usize,
) -> Result<[i32; PAGES_AT_ONCE], SystemError> {
    if fault::strikes(Call::AskPages) {
        return Err(SystemError(libc::ENOSYS));
    }
    let mut status = [0_i32; PAGES_AT_ONCE];
    let pages = addresses.as_ptr().expose_provenance();
    let out = status.as_mut_ptr().expose_provenance();
    call(libc::SYS_move_pages, [0, count.min(PAGES_AT_ONCE), pages, 0, out, 0])?;
    Ok(status)
}

/// `-ENOENT`, `-EFAULT`: what [`nodes_of_pages`] says of a page that was never touched. The zero
/// page reads as `-EFAULT`.
pub fn is_not_resident(status: i32) -> bool {
    status == -libc::ENOENT || status == -libc::EFAULT
}

/// Where a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The processor's number.
    pub processor: usize,
    /// The number of its node, be it one without memory.
    pub node: usize,
}

/// Where this thread runs now (`getcpu`).
///
/// # Errors
/// The system's: `ENOSYS`.
pub fn current_place() -> Result<Place, SystemError> {
    if fault::strikes(Call::AskNode) {
        return Err(SystemError(libc::ENOSYS));
    }
    let (mut processor, mut node) = (0_u32, 0_u32);
    let outs = (&raw mut processor, &raw mut node);
    let outs = (outs.0.expose_provenance(), outs.1.expose_provenance());
    call(libc::SYS_getcpu, [outs.0, outs.1, 0, 0, 0, 0])?;
    Ok(Place { processor: processor as usize, node: node as usize })
}

/// The processor that this thread runs on now, without a system call where the C library can;
/// `None` where it cannot tell. errno stays as it was.
pub fn current_processor() -> Option<usize> {
    if fault::strikes(Call::AskNode) {
        return None;
    }
    // SAFETY: no memory is involved but errno, whose address is valid on every thread.
    unsafe {
        let error_number = libc::__errno_location();
        let saved = *error_number;
        let processor = usize::try_from(libc::sched_getcpu()).ok();
        if processor.is_none() {
            *error_number = saved;
        }
        processor
    }
}

//! Where a range's pages shall lie, and asking the kernel for it.

use core::ptr::NonNull;

use super::{Node, NodeSet};
use crate::sys::SystemError;
use crate::sys::policy::{self, Existing, Mode, RawPolicy};

/// A memory policy of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// That of the thread that touches a page first; the kernel is not asked.
    #[default]
    Default,
    /// The node of the processor that touches a page first.
    Local,
    /// This node, others where it is full.
    Preferred(Node),
    /// Any node of the set, others where all are full. Linux 5.15.
    PreferredMany(NodeSet),
    /// Only the nodes of the set: where they are full, the process is killed.
    Bind(NodeSet),
    /// Page by page over the nodes of the set.
    Interleave(NodeSet),
    /// As `Interleave`, in proportion to the weights in `/sys/kernel/mm/mempolicy`. Linux 6.9.
    WeightedInterleave(NodeSet),
}

impl Policy {
    fn mode(&self) -> Mode {
        match self {
            Self::Default => Mode::Default,
            Self::Local => Mode::Local,
            Self::Preferred(_) => Mode::Preferred,
            Self::PreferredMany(_) => Mode::PreferredMany,
            Self::Bind(_) => Mode::Bind,
            Self::Interleave(_) => Mode::Interleave,
            Self::WeightedInterleave(_) => Mode::WeightedInterleave,
        }
    }

    /// The nodes that it names.
    pub fn nodes(&self) -> NodeSet {
        match self {
            Self::Default | Self::Local => NodeSet::EMPTY,
            Self::Preferred(node) => NodeSet::of(*node),
            Self::PreferredMany(nodes)
            | Self::Bind(nodes)
            | Self::Interleave(nodes)
            | Self::WeightedInterleave(nodes) => *nodes,
        }
    }

    /// The nearest policy that an older kernel has.
    fn fallback(&self) -> Option<Self> {
        match self {
            Self::PreferredMany(nodes) => nodes.first().map(Self::Preferred),
            Self::WeightedInterleave(nodes) => Some(Self::Interleave(*nodes)),
            _ => None,
        }
    }
}

/// What the numbers of a policy's nodes mean, also after the process's cpuset changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeNumbers {
    /// The nodes of these numbers now; the kernel puts others in their place when the cpuset
    /// changes.
    #[default]
    Remapped,
    /// The nodes of these numbers always (`MPOL_F_STATIC_NODES`): where the cpuset leaves none of
    /// them the policy is off.
    Static,
    /// The n-th nodes of the cpuset, whichever those are (`MPOL_F_RELATIVE_NODES`).
    Relative,
}

/// A policy and how it is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The policy.
    pub policy: Policy,
    /// What the policy's numbers mean.
    pub numbers: NodeNumbers,
    /// Whether pages that lie elsewhere already are moved (`MPOL_MF_MOVE`).
    pub are_pages_moved: bool,
    /// Whether no other policy may take its place, and a page that lies elsewhere and stays there
    /// is an error (`MPOL_MF_STRICT`).
    pub is_strict: bool,
}

/// What became of a [`Placement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel took it, or nothing was asked.
    AsAsked,
    /// The kernel refused it and took an older policy.
    Instead {
        /// The policy that holds now.
        policy: Policy,
        /// Why the kernel refused the one that was asked.
        error: SystemError,
    },
    /// The kernel refused it; the thread's policy holds.
    Refused {
        /// Why.
        error: SystemError,
    },
}

impl Outcome {
    /// Why the kernel refused what was asked; `None` where it took it.
    pub const fn error(self) -> Option<SystemError> {
        match self {
            Self::AsAsked => None,
            Self::Instead { error, .. } | Self::Refused { error } => Some(error),
        }
    }
}

impl Placement {
    /// The thread's policy.
    pub const DEFAULT: Self = Self::new(Policy::Default);

    /// This policy, or where the kernel lacks it the nearest older one; pages that are there stay.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, numbers: NodeNumbers::Remapped, are_pages_moved: false, is_strict: false }
    }

    /// This policy or none, also for pages that are there already, which are moved.
    pub const fn strict(policy: Policy) -> Self {
        Self { policy, numbers: NodeNumbers::Remapped, are_pages_moved: true, is_strict: true }
    }

    /// What the numbers of the policy's nodes mean.
    #[must_use]
    pub const fn numbers(self, numbers: NodeNumbers) -> Self {
        Self { numbers, ..self }
    }

    /// Whether pages that lie elsewhere already are moved.
    #[must_use]
    pub const fn moving_pages(self, are_pages_moved: bool) -> Self {
        Self { are_pages_moved, ..self }
    }

    /// Asks the kernel for it, for the whole pages of `bytes` from `start`.
    ///
    /// It never fails: a kernel without NUMA (`ENOSYS`), without the policy or the nodes
    /// (`EINVAL`), or a sandbox that forbids the call (`EPERM`) leaves the thread's policy in
    /// force, or an older one (preferred-many: the first node preferred; weighted interleave:
    /// interleave), and the outcome says which.
    pub fn apply(&self, start: NonNull<u8>, bytes: usize) -> Outcome {
        if self.policy == Policy::Default && !self.is_strict && !self.are_pages_moved {
            return Outcome::AsAsked;
        }
        let existing = Existing { are_moved: self.are_pages_moved, must_follow: self.is_strict };
        self.ask(|raw| policy::set_range_policy(start, bytes, raw, existing))
    }

    /// The policy that holds for the range that an address lies in, as the kernel has it.
    ///
    /// # Errors
    /// The system's: `ENOSYS`, `EPERM`; `EFAULT` where nothing is mapped.
    pub fn of_range(start: NonNull<u8>) -> Result<Self, SystemError> {
        policy::policy_of(Some(start)).map(Self::from_raw)
    }

    /// This thread's policy, as the kernel has it.
    ///
    /// # Errors
    /// The system's: `ENOSYS`, `EPERM`.
    pub fn of_thread() -> Result<Self, SystemError> {
        policy::policy_of(None).map(Self::from_raw)
    }

    /// Tries the policy and, unless it is strict, what may take its place.
    pub(super) fn ask(&self, set: impl Fn(&RawPolicy) -> Result<(), SystemError>) -> Outcome {
        let Err(error) = set(&self.raw(&self.policy)) else { return Outcome::AsAsked };
        match self.policy.fallback() {
            Some(policy) if !self.is_strict && set(&self.raw(&policy)).is_ok() => {
                Outcome::Instead { policy, error }
            }
            _ => Outcome::Refused { error },
        }
    }

    fn raw(&self, policy: &Policy) -> RawPolicy {
        let nodes = policy.nodes();
        let mode_flags = match self.numbers {
            // A policy without nodes takes no flags.
            _ if nodes.is_empty() => 0,
            NodeNumbers::Remapped => 0,
            NodeNumbers::Static => policy::STATIC_NODES,
            NodeNumbers::Relative => policy::RELATIVE_NODES,
        };
        RawPolicy { mode: policy.mode(), mode_flags, nodes: *nodes.as_words() }
    }

    fn from_raw(raw: RawPolicy) -> Self {
        let nodes = NodeSet::from_words(raw.nodes);
        let policy = match (raw.mode, nodes.first()) {
            (Mode::Default, _) => Policy::Default,
            // Before Linux 5.14 the kernel said so of the local policy.
            (Mode::Local, _) | (Mode::Preferred, None) => Policy::Local,
            (Mode::Preferred, Some(node)) => Policy::Preferred(node),
            (Mode::PreferredMany, _) => Policy::PreferredMany(nodes),
            (Mode::Bind, _) => Policy::Bind(nodes),
            (Mode::Interleave, _) => Policy::Interleave(nodes),
            (Mode::WeightedInterleave, _) => Policy::WeightedInterleave(nodes),
        };
        let numbers = match raw.mode_flags {
            policy::STATIC_NODES => NodeNumbers::Static,
            policy::RELATIVE_NODES => NodeNumbers::Relative,
            _ => NodeNumbers::Remapped,
        };
        Self::new(policy).numbers(numbers)
    }
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests {
    use super::*;
    use crate::sys::memory::{MapFlags, map_anonymous};
    use std::string::String;

    const BYTES: usize = 1 << 20;

    /// What `/proc/self/numa_maps` says of the mapping that `start` lies in, which the kernel may
    /// have joined with its neighbour below; `None` where there is no such file.
    fn numa_maps_line(start: NonNull<u8>) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
        let address_of = |line: &&str| {
            let address = line.split(' ').next().unwrap_or_default();
            usize::from_str_radix(address, 16).expect("a line begins with an address")
        };
        let below = maps.lines().filter(|line| address_of(line) <= start.addr().get());
        Some(below.max_by_key(address_of).map(String::from).expect("the mapping has a line"))
    }

    #[test]
    fn the_kernel_lists_each_policy() {
        let node = Node::new(0).unwrap();
        let nodes = NodeSet::of(node);
        let cases = [
            (Policy::Local, "local"),
            (Policy::Preferred(node), "prefer:0"),
            (Policy::PreferredMany(nodes), "prefer (many):0"),
            (Policy::Bind(nodes), "bind:0"),
            (Policy::Interleave(nodes), "interleave:0"),
            (Policy::WeightedInterleave(nodes), "weighted interleave:0"),
        ];
        for (policy, name) in cases {
            let start = map_anonymous(BYTES, MapFlags::default()).unwrap();
            let outcome = Placement::strict(policy).apply(start, BYTES);
            let Some(line) = numa_maps_line(start) else { continue };
            match outcome {
                Outcome::AsAsked => assert!(line.contains(name), "{policy:?}: {line}"),
                outcome => std::println!("not tested here: {policy:?}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn what_was_set_is_read_back() {
        let nodes = NodeSet::of(Node::new(0).unwrap());
        let node = Node::new(0).unwrap();
        for policy in [Policy::Local, Policy::Preferred(node), Policy::Bind(nodes)] {
            for numbers in [NodeNumbers::Remapped, NodeNumbers::Static, NodeNumbers::Relative] {
                let start = map_anonymous(BYTES, MapFlags::default()).unwrap();
                let placement = Placement::new(policy).numbers(numbers);
                if let outcome @ Outcome::Refused { .. } = placement.apply(start, BYTES) {
                    std::println!("not tested here: {placement:?}: {outcome:?}");
                    continue;
                }
                let found = Placement::of_range(start).unwrap();
                // A policy without nodes has no flags.
                let expected = match policy {
                    Policy::Local => Placement::new(policy),
                    _ => placement,
                };
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_reported() {
        let start = map_anonymous(BYTES, MapFlags::default()).unwrap();
        let far = NodeSet::of(Node::new(1023).unwrap());
        let outcome = Placement::new(Policy::Bind(far)).apply(start, BYTES);
        assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
        assert_eq!(Placement::DEFAULT.apply(start, BYTES), Outcome::AsAsked);
    }
}

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
            Self::PreferredMany(nodes) => nodes.iter().next().map(Self::Preferred),
            Self::WeightedInterleave(nodes) => Some(Self::Interleave(*nodes)),
            _ => None,
        }
    }
}

/// A policy and how strictly it is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The policy.
    pub policy: Policy,
    /// Whether no other policy may take its place, and pages that lie elsewhere already are moved.
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

impl Placement {
    /// The thread's policy.
    pub const DEFAULT: Self = Self { policy: Policy::Default, is_strict: false };

    /// This policy, or where the kernel lacks it the nearest older one.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, is_strict: false }
    }

    /// This policy or none, also for pages that are there already.
    pub const fn strict(policy: Policy) -> Self {
        Self { policy, is_strict: true }
    }

    /// Asks the kernel for it, for the whole pages of `bytes` from `start`.
    ///
    /// It never fails: a kernel without NUMA (`ENOSYS`), without the policy or the nodes
    /// (`EINVAL`), or a sandbox that forbids the call (`EPERM`) leaves the thread's policy in
    /// force, or an older one (preferred-many: the first node preferred; weighted interleave:
    /// interleave), and the outcome says which.
    pub fn apply(&self, start: NonNull<u8>, bytes: usize) -> Outcome {
        if self.policy == Policy::Default && !self.is_strict {
            return Outcome::AsAsked;
        }
        let ask = |policy: &Policy| {
            let nodes = policy.nodes();
            let raw = RawPolicy { mode: policy.mode(), mode_flags: 0, nodes: *nodes.as_words() };
            let existing = Existing { are_moved: self.is_strict, must_follow: self.is_strict };
            policy::set_range_policy(start, bytes, &raw, existing)
        };
        let Err(error) = ask(&self.policy) else { return Outcome::AsAsked };
        match self.policy.fallback() {
            Some(policy) if !self.is_strict && ask(&policy).is_ok() => {
                Outcome::Instead { policy, error }
            }
            _ => Outcome::Refused { error },
        }
    }
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests {
    use super::*;
    use crate::sys::memory::{MapFlags, map_anonymous};
    use std::string::String;

    const BYTES: usize = 1 << 20;

    /// What `/proc/self/numa_maps` says of the mapping at `start`; `None` where there is no such
    /// file.
    fn numa_maps_line(start: NonNull<u8>) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
        let address = std::format!("{:08x} ", start.addr());
        let line = maps.lines().find(|line| line.starts_with(&address));
        Some(line.map(String::from).expect("a mapping with a policy of its own has a line"))
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
    fn a_node_that_is_not_there_is_reported() {
        let start = map_anonymous(BYTES, MapFlags::default()).unwrap();
        let far = NodeSet::of(Node::new(1023).unwrap());
        let outcome = Placement::new(Policy::Bind(far)).apply(start, BYTES);
        assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
        assert_eq!(Placement::DEFAULT.apply(start, BYTES), Outcome::AsAsked);
    }
}

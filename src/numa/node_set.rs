//! Nodes and sets of them, in the kernel's list syntax.

use core::fmt;
use core::num::NonZeroU16;
use core::str::FromStr;

use super::numbers::{Numbers, ParseListError};
use crate::sys::policy::NODE_BITS;

/// A NUMA node's number, below [`Node::LIMIT`].
///
/// # Invariants
/// Holds the number's successor, so that an `Option` of it is as large, and none of all zero bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Node(NonZeroU16);

impl Node {
    /// One more than the highest number: 1024, the most nodes that any kernel is built for.
    pub const LIMIT: usize = NODE_BITS;

    /// The node of this number; `None` from [`LIMIT`](Self::LIMIT) up.
    pub const fn new(number: usize) -> Option<Self> {
        if number >= Self::LIMIT {
            return None;
        }
        match NonZeroU16::new(number as u16 + 1) {
            Some(successor) => Some(Self(successor)),
            None => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(formatter)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Node({self})")
    }
}

/// A set of NUMA nodes. Printed and parsed as the kernel does, `0-3,8`.
///
/// ```
/// use heapswitch::numa::{Node, NodeSet};
///
/// let set: NodeSet = "0-2,8".parse()?;
/// assert_eq!(set.len(), 4);
/// assert!(set.contains(Node::new(8).unwrap()));
/// assert_eq!(set.to_string(), "0-2,8");
///
/// const FIRST_TWO: NodeSet = NodeSet::from_numbers(&[0, 1]).unwrap();
/// assert_eq!(FIRST_TWO.to_string(), "0-1");
/// # Ok::<(), heapswitch::numa::ParseListError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeSet {
    numbers: Numbers<WORDS>,
}

const WORDS: usize = NODE_BITS / 64;

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self { numbers: Numbers::EMPTY };

    /// The nodes of these numbers; `None` if one is [`Node::LIMIT`] or more.
    pub const fn from_numbers(numbers: &[usize]) -> Option<Self> {
        let mut set = Self::EMPTY;
        let mut rest = numbers;
        while let [number, tail @ ..] = rest {
            match Node::new(*number) {
                Some(node) => set = set.with(node),
                None => return None,
            }
            rest = tail;
        }
        Some(set)
    }

    /// Only this node.
    pub const fn of(node: Node) -> Self {
        Self::EMPTY.with(node)
    }

    /// This set and `node`.
    #[must_use]
    pub const fn with(self, node: Node) -> Self {
        // INVARIANT of `Node`: the number is below the limit.
        Self { numbers: self.numbers.with(node.number()) }
    }

    /// This set less `node`.
    #[must_use]
    pub const fn without(self, node: Node) -> Self {
        // INVARIANT of `Node`: the number is below the limit.
        Self { numbers: self.numbers.without(node.number()) }
    }

    /// The nodes that are in both sets.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        Self { numbers: self.numbers.and(&other.numbers) }
    }

    /// Whether `node` is in it.
    pub const fn contains(&self, node: Node) -> bool {
        self.numbers.contains(node.number())
    }

    /// How many nodes are in it.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no node is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Its nodes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Node> + '_ {
        self.numbers.iter().filter_map(Node::new)
    }

    /// The lowest of its nodes.
    pub fn first(&self) -> Option<Node> {
        self.iter().next()
    }

    /// One bit a node, the lowest number in the lowest bit of the first word: what the kernel
    /// takes.
    pub const fn as_words(&self) -> &[u64; WORDS] {
        &self.numbers.words
    }

    pub(super) const fn from_words(words: [u64; WORDS]) -> Self {
        Self { numbers: Numbers { words } }
    }

    /// Reads a list from its bytes.
    pub(super) fn parse(bytes: &mut dyn Iterator<Item = u8>) -> Result<Self, ParseListError> {
        Ok(Self { numbers: Numbers::parse(bytes)? })
    }
}

impl Default for NodeSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.numbers.fmt(formatter)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NodeSet({self})")
    }
}

impl FromStr for NodeSet {
    type Err = ParseListError;

    /// Reads `0-3,8`; white space around the list, as in sysfs, is ignored, and an empty list is
    /// the empty set.
    fn from_str(list: &str) -> Result<Self, ParseListError> {
        Self::parse(&mut list.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        for (list, length) in [("", 0), ("0", 1), ("0-3,8", 5), ("0,2,1023", 3), ("0-1023", 1024)] {
            let set: NodeSet = list.parse().unwrap();
            assert_eq!((set.len(), set.to_string().as_str()), (length, list));
        }
        assert_eq!("0-3\n".parse::<NodeSet>().unwrap().to_string(), "0-3");
        assert_eq!("0,1,2,7".parse::<NodeSet>().unwrap().to_string(), "0-2,7");
    }

    #[test]
    fn names_the_item_that_is_wrong() {
        use ParseListError::{Descending, NotANumber, TooLarge};
        let cases = [
            ("0,x", NotANumber { item: 1 }),
            ("0,,1", NotANumber { item: 1 }),
            ("+1", NotANumber { item: 0 }),
            ("1-", NotANumber { item: 0 }),
            ("0-3,1024", TooLarge { item: 1 }),
            ("99999999999999999999999", TooLarge { item: 0 }),
            ("3-1", Descending { item: 0 }),
            ("0 1", NotANumber { item: 0 }),
            ("0-1-2", NotANumber { item: 0 }),
            ("-1", NotANumber { item: 0 }),
            (",", NotANumber { item: 0 }),
        ];
        for (list, error) in cases {
            assert_eq!(list.parse::<NodeSet>(), Err(error), "{list}");
        }
    }

    #[test]
    fn is_made_in_constants() {
        const SET: Option<NodeSet> = NodeSet::from_numbers(&[1, 1023]);
        assert_eq!(SET.unwrap().to_string(), "1,1023");
        assert_eq!(NodeSet::from_numbers(&[1024]), None);
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(numbers in prop::collection::vec(0_usize..1024, 0..9)) {
            let set = NodeSet::from_numbers(&numbers).unwrap();
            prop_assert_eq!(set.to_string().parse::<NodeSet>(), Ok(set));
            for node in set.iter() {
                prop_assert!(numbers.contains(&node.number()));
                prop_assert!(!set.without(node).contains(node));
            }
        }
    }
}

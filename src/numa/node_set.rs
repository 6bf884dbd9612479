//! Nodes and sets of them, in the kernel's list syntax.

use core::fmt;
use core::str::FromStr;

use crate::sys::policy::NODE_BITS;

/// A NUMA node's number, below [`Node::LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(u16);

impl Node {
    /// One more than the highest number: 1024, the most nodes that any kernel is built for.
    pub const LIMIT: usize = NODE_BITS;

    /// The node of this number; `None` from [`LIMIT`](Self::LIMIT) up.
    pub const fn new(number: usize) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number as u16)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

const WORDS: usize = NODE_BITS / 64;

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
/// # Ok::<(), heapswitch::numa::ParseNodeSetError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NodeSet {
    words: [u64; WORDS],
}

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

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
    pub const fn with(mut self, node: Node) -> Self {
        // INVARIANT of `Node`: the number is below 64 * WORDS.
        self.words[node.number() / 64] |= 1 << (node.number() % 64);
        self
    }

    /// This set less `node`.
    #[must_use]
    pub const fn without(mut self, node: Node) -> Self {
        // INVARIANT of `Node`: the number is below 64 * WORDS.
        self.words[node.number() / 64] &= !(1 << (node.number() % 64));
        self
    }

    /// Whether `node` is in it.
    pub const fn contains(&self, node: Node) -> bool {
        self.words[node.number() / 64] & (1 << (node.number() % 64)) != 0
    }

    /// How many nodes are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no node is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Its nodes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Node> + '_ {
        (0..Node::LIMIT).filter_map(Node::new).filter(|node| self.contains(*node))
    }

    /// One bit a node, the lowest number in the lowest bit of the first word: what the kernel
    /// takes.
    pub const fn as_words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// The first node at or after `from` whose membership is `is_member`, or the limit.
    fn next(&self, from: usize, is_member: bool) -> usize {
        (from..Node::LIMIT)
            .find(|&number| Node::new(number).is_some_and(|node| self.contains(node) == is_member))
            .unwrap_or(Node::LIMIT)
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut start = self.next(0, true);
        let mut comma = "";
        while start < Node::LIMIT {
            let end = self.next(start, false);
            write!(formatter, "{comma}{start}")?;
            if end - start > 1 {
                write!(formatter, "-{}", end - 1)?;
            }
            comma = ",";
            start = self.next(end, true);
        }
        Ok(())
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NodeSet({self})")
    }
}

/// A list of nodes that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseNodeSetError {
    /// Something between two commas is neither a number nor two with a hyphen.
    NotANumber {
        /// Its place in the list, from 0.
        item: usize,
    },
    /// A node's number is 1024 or more.
    TooLarge {
        /// Its place in the list, from 0.
        item: usize,
    },
    /// A range ends before it starts.
    Descending {
        /// Its place in the list, from 0.
        item: usize,
    },
}

impl fmt::Display for ParseNodeSetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (item, problem) = match self {
            Self::NotANumber { item } => (item, "is not a number or a range"),
            Self::TooLarge { item } => (item, "names a node above 1023"),
            Self::Descending { item } => (item, "ends before it starts"),
        };
        write!(
            formatter,
            "cannot read a list of NUMA nodes: item {item} {problem}; write it like \"0-3,8\""
        )
    }
}

impl core::error::Error for ParseNodeSetError {}

impl FromStr for NodeSet {
    type Err = ParseNodeSetError;

    /// Reads `0-3,8`; white space around the list, as in sysfs, is ignored, and an empty list is
    /// the empty set.
    fn from_str(list: &str) -> Result<Self, ParseNodeSetError> {
        let list = list.trim();
        let mut set = Self::EMPTY;
        if list.is_empty() {
            return Ok(set);
        }
        for (item, text) in list.split(',').enumerate() {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (parse_node(first, item)?, parse_node(last, item)?);
            if last < first {
                return Err(ParseNodeSetError::Descending { item });
            }
            for node in (first.number()..=last.number()).filter_map(Node::new) {
                set = set.with(node);
            }
        }
        Ok(set)
    }
}

fn parse_node(text: &str, item: usize) -> Result<Node, ParseNodeSetError> {
    // `parse` alone would take a sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseNodeSetError::NotANumber { item });
    }
    let too_large = ParseNodeSetError::TooLarge { item };
    text.parse().ok().and_then(Node::new).ok_or(too_large)
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
        use ParseNodeSetError::{Descending, NotANumber, TooLarge};
        let cases = [
            ("0,x", NotANumber { item: 1 }),
            ("0,,1", NotANumber { item: 1 }),
            ("+1", NotANumber { item: 0 }),
            ("1-", NotANumber { item: 0 }),
            ("0-3,1024", TooLarge { item: 1 }),
            ("99999999999999999999999", TooLarge { item: 0 }),
            ("3-1", Descending { item: 0 }),
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

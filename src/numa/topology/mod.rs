//! The machine's nodes, processors, memory and distances, as sysfs tells them, and what this
//! process may use of them.
//!
//! Reading allocates nothing: sets are bit maps, files go through a small buffer, and what belongs
//! to one node is read when it is asked for. A topology is a snapshot of the sets, of 3 KiB.
//!
//! ```text
//!   /sys/devices/system/node/online, has_memory, has_cpu      which nodes
//!   /sys/devices/system/node/node1/cpulist, meminfo, distance one of them
//!   /sys/devices/system/cpu/online                            which processors
//!   /proc/thread-self/status                                  what this thread may use
//! ```
//!
//! A kernel without NUMA has no folder of nodes. It is described as what it is: node 0 with all
//! processors and all memory.

mod error;
mod huge_pages;
mod tree;

use core::fmt;

pub use error::{TopologyError, TopologyFile};
pub use huge_pages::HugePagePool;
pub(super) use tree::{Bytes, Root};

use super::numbers::ParseListError;
use super::{Node, NodeSet, ProcessorSet};

/// The distance of a node from itself.
pub const LOCAL_DISTANCE: u32 = 10;

/// What the machine consists of, when it was read.
///
/// ```
/// use heapswitch::numa::Topology;
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let topology = Topology::of_system()?;
/// for node in topology.nodes().iter() {
///     let described = topology.node(node)?;
///     println!("node {node}: processors {}", described.processors);
/// }
/// # Ok::<(), heapswitch::numa::TopologyError>(())
/// ```
#[derive(Clone)]
pub struct Topology {
    root: Root,
    has_numa: bool,
    nodes: NodeSet,
    with_memory: NodeSet,
    with_processors: NodeSet,
    usable_nodes: NodeSet,
    processors: ProcessorSet,
    usable_processors: ProcessorSet,
}

/// One node, when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeDescription {
    /// Its processors that are online.
    pub processors: ProcessorSet,
    /// Its memory in bytes; 0 for a node without.
    pub memory_bytes: u64,
    /// What of it is free, in bytes.
    pub free_bytes: u64,
}

/// Reads a list of a file below a root.
fn list<T>(
    root: &Root,
    file: TopologyFile,
    parse: impl FnOnce(&mut Bytes) -> Result<T, ParseListError>,
) -> Result<T, TopologyError> {
    let bytes = root.open(&file);
    bytes
        .and_then(|bytes| bytes.read(parse))
        .map_err(|error| TopologyError::Read { file, error })?
        .map_err(|error| TopologyError::Parse { file, error: Some(error) })
}

/// As [`list`]; `None` where the file does not exist.
fn list_if_there<T>(
    root: &Root,
    file: TopologyFile,
    parse: impl FnOnce(&mut Bytes) -> Result<T, ParseListError>,
) -> Result<Option<T>, TopologyError> {
    match list(root, file, parse) {
        Ok(list) => Ok(Some(list)),
        Err(TopologyError::Read { error, .. }) if error.is_no_entry() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The list in a line of a status file; `None` where there is no such line.
fn status_list<T>(
    root: &Root,
    key: &'static str,
    parse: impl FnOnce(&mut dyn Iterator<Item = u8>) -> Result<T, ParseListError>,
) -> Result<Option<T>, TopologyError> {
    let file = TopologyFile::Status;
    list_if_there(root, file, |bytes| {
        bytes.find_line(key.as_bytes()).then(|| parse(&mut bytes.line())).transpose()
    })
    .map(Option::flatten)
}

/// The nodes with memory of this machine; `None` where it has no NUMA or sysfs is not mounted.
/// Needs little of the stack: a thread's first allocation may come here.
#[cfg(not(loom))]
pub(super) fn nodes_with_memory_of_system() -> Option<NodeSet> {
    let root = Root::new("")?;
    list(&root, TopologyFile::NodesWithMemory, |bytes| NodeSet::parse(bytes)).ok()
}

/// The node of this machine among these that is nearest to `from`; `None` where none is, or sysfs
/// is not mounted. Needs little of the stack, as above.
#[cfg(not(loom))]
pub(super) fn nearest_of_system(from: Node, among: &NodeSet) -> Option<Node> {
    let root = Root::new("")?;
    let nodes = list(&root, TopologyFile::Nodes, |bytes| NodeSet::parse(bytes)).ok()?;
    let mut nearest = Nearest::default();
    visit_distances(&root, &nodes, from, |node, distance| nearest.visit(node, distance, among))
        .ok()?;
    nearest.node()
}

/// The nearest of the nodes visited, the lowest of several.
#[derive(Default)]
struct Nearest(Option<(u32, Node)>);

impl Nearest {
    fn visit(&mut self, node: Node, distance: u32, among: &NodeSet) {
        if among.contains(node) && self.0.is_none_or(|(least, _)| distance < least) {
            self.0 = Some((distance, node));
        }
    }

    fn node(self) -> Option<Node> {
        self.0.map(|(_, node)| node)
    }
}

/// Calls `visit` with each of the nodes that are online and how far it is from `from`.
fn visit_distances(
    root: &Root,
    nodes: &NodeSet,
    from: Node,
    mut visit: impl FnMut(Node, u32),
) -> Result<(), TopologyError> {
    let file = TopologyFile::NodeDistances(from);
    let parse = |bytes: &mut Bytes| {
        // The row has a column for each node that is online, so holes in the numbering do not show.
        nodes.iter().all(|node| {
            let distance = bytes.number().and_then(|number| u32::try_from(number).ok());
            distance.inspect(|&distance| visit(node, distance)).is_some()
        })
    };
    match root.open(&file).and_then(|bytes| bytes.read(parse)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(TopologyError::Parse { file, error: None }),
        Err(error) => Err(TopologyError::Read { file, error }),
    }
}

impl Topology {
    /// That of this machine.
    ///
    /// # Errors
    /// A file could not be read, or does not say what it should.
    pub fn of_system() -> Result<Self, TopologyError> {
        Self::read("")
    }

    /// That which the files below `root` tell: of another machine, say. An empty root is this
    /// machine's.
    ///
    /// # Errors
    /// As [`of_system`](Self::of_system); the root is longer than 255 bytes.
    pub fn read(root: &str) -> Result<Self, TopologyError> {
        let root = Root::new(root).ok_or(TopologyError::Root)?;
        let processors = list(&root, TopologyFile::Processors, |bytes| ProcessorSet::parse(bytes))?;
        let allowed = status_list(&root, "Cpus_allowed_list:", |line| ProcessorSet::parse(line))?;
        let usable_processors = allowed.map_or(processors, |allowed| allowed.and(&processors));
        let only = Node::new(0).map_or(NodeSet::EMPTY, NodeSet::of);
        let Some(nodes) = list_if_there(&root, TopologyFile::Nodes, |bytes| NodeSet::parse(bytes))?
        else {
            return Ok(Self {
                root,
                has_numa: false,
                nodes: only,
                with_memory: only,
                with_processors: only,
                usable_nodes: only,
                processors,
                usable_processors,
            });
        };
        let some = |file| list_if_there(&root, file, |bytes| NodeSet::parse(bytes));
        // Linux before 3.8 had only the one that leaves out nodes of high or movable memory.
        let with_memory = match some(TopologyFile::NodesWithMemory)? {
            Some(nodes) => nodes,
            None => some(TopologyFile::NodesWithNormalMemory)?.unwrap_or(nodes),
        };
        let with_memory = with_memory.and(&nodes);
        let with_processors = some(TopologyFile::NodesWithProcessors)?.unwrap_or(nodes).and(&nodes);
        let allowed = status_list(&root, "Mems_allowed_list:", |line| NodeSet::parse(line))?;
        let usable_nodes = allowed.map_or(with_memory, |allowed| allowed.and(&with_memory));
        Ok(Self {
            root,
            has_numa: true,
            nodes,
            with_memory,
            with_processors,
            usable_nodes,
            processors,
            usable_processors,
        })
    }

    /// Whether the kernel has NUMA at all, be it with one node.
    pub fn has_numa(&self) -> bool {
        self.has_numa
    }

    /// The nodes that are online.
    pub fn nodes(&self) -> &NodeSet {
        &self.nodes
    }

    /// Those with memory.
    pub fn nodes_with_memory(&self) -> &NodeSet {
        &self.with_memory
    }

    /// Those with processors.
    pub fn nodes_with_processors(&self) -> &NodeSet {
        &self.with_processors
    }

    /// Those with memory that this thread may allocate on: what its cpuset leaves it.
    pub fn usable_nodes(&self) -> &NodeSet {
        &self.usable_nodes
    }

    /// The processors that are online.
    pub fn processors(&self) -> &ProcessorSet {
        &self.processors
    }

    /// Those that this thread may run on.
    pub fn usable_processors(&self) -> &ProcessorSet {
        &self.usable_processors
    }

    /// One node, as it is now.
    ///
    /// # Errors
    /// [`TopologyError::NoNode`]; a file could not be read, or does not say what it should.
    pub fn node(&self, node: Node) -> Result<NodeDescription, TopologyError> {
        Ok(NodeDescription {
            processors: self.processors_of(node)?,
            memory_bytes: self.memory(node, "MemTotal:")?,
            free_bytes: self.memory(node, "MemFree:")?,
        })
    }

    /// The processors of a node that are online.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    pub fn processors_of(&self, node: Node) -> Result<ProcessorSet, TopologyError> {
        self.check(node)?;
        if !self.has_numa {
            return Ok(self.processors);
        }
        let file = TopologyFile::NodeProcessors(node);
        Ok(list(&self.root, file, |bytes| ProcessorSet::parse(bytes))?.and(&self.processors))
    }

    /// A figure of a node's memory, in bytes.
    fn memory(&self, node: Node, key: &str) -> Result<u64, TopologyError> {
        self.check(node)?;
        let (file, is_of_node) = match self.has_numa {
            true => (TopologyFile::NodeMemory(node), true),
            false => (TopologyFile::Memory, false),
        };
        let kibibytes = self
            .root
            .open(&file)
            .and_then(|bytes| {
                bytes.read(|bytes| {
                    // "Node 1 MemTotal:  8 kB" in a node's file, "MemTotal:  8 kB" in the other.
                    if !is_of_node {
                        return bytes.find_line(key.as_bytes()).then(|| bytes.number()).flatten();
                    }
                    while bytes.find_line(b"Node ") {
                        bytes.number()?;
                        if key.bytes().all(|byte| bytes.next() == Some(byte)) {
                            return bytes.number();
                        }
                        // Behind a key that differs: the rest of its line holds no other.
                        let _ = bytes.line().last();
                    }
                    None
                })
            })
            .map_err(|error| TopologyError::Read { file, error })?;
        let bytes = kibibytes.and_then(|kibibytes| kibibytes.checked_mul(1024));
        bytes.ok_or(TopologyError::Parse { file, error: None })
    }

    /// How far it is from one node to another, as the firmware says: 10 to itself, and relative to
    /// that.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    pub fn distance(&self, from: Node, to: Node) -> Result<u32, TopologyError> {
        self.check(to)?;
        let mut found = None;
        self.distances(from, |node, distance| {
            if node == to {
                found = Some(distance);
            }
        })?;
        let file = TopologyFile::NodeDistances(from);
        found.ok_or(TopologyError::Parse { file, error: None })
    }

    /// Calls `visit` with each node that is online and how far it is from `from`, ascending by
    /// number.
    ///
    /// # Errors
    /// As [`node`](Self::node); `visit` may have been called then.
    pub fn distances(
        &self,
        from: Node,
        mut visit: impl FnMut(Node, u32),
    ) -> Result<(), TopologyError> {
        self.check(from)?;
        if !self.has_numa {
            visit(from, LOCAL_DISTANCE);
            return Ok(());
        }
        visit_distances(&self.root, &self.nodes, from, visit)
    }

    /// The node among these that is nearest to `from`, the lowest of several; `None` where none of
    /// them is online.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    pub fn nearest(&self, from: Node, among: &NodeSet) -> Result<Option<Node>, TopologyError> {
        let mut nearest = Nearest::default();
        self.distances(from, |node, distance| nearest.visit(node, distance, among))?;
        Ok(nearest.node())
    }

    /// The node that a processor belongs to; `None` where it is not online.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    pub fn node_of(&self, processor: usize) -> Result<Option<Node>, TopologyError> {
        for node in self.with_processors.iter() {
            if self.processors_of(node)?.contains(processor) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    fn check(&self, node: Node) -> Result<(), TopologyError> {
        if self.nodes.contains(node) { Ok(()) } else { Err(TopologyError::NoNode { node }) }
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Topology")
            .field("root", &self.root)
            .field("nodes", &self.nodes)
            .field("usable_nodes", &self.usable_nodes)
            .field("usable_processors", &self.usable_processors)
            .finish_non_exhaustive()
    }
}

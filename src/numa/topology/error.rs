//! What can be wrong with the files that tell the topology.

use core::fmt;

use super::super::Node;
use super::super::numbers::ParseListError;
use crate::sys::SystemError;

/// A file that tells a part of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopologyFile {
    /// The nodes that are online.
    Nodes,
    /// The nodes with memory.
    NodesWithMemory,
    /// The nodes with memory that is neither high nor movable.
    NodesWithNormalMemory,
    /// The nodes with processors.
    NodesWithProcessors,
    /// The processors that are online.
    Processors,
    /// What this thread may use.
    Status,
    /// The memory of a machine without NUMA.
    Memory,
    /// A node's processors.
    NodeProcessors(Node),
    /// A node's memory.
    NodeMemory(Node),
    /// A node's distances.
    NodeDistances(Node),
    /// A node's pool of huge pages of one size.
    HugePages {
        /// The node.
        node: Node,
        /// The page's length in KiB.
        kibibytes: u64,
    },
    /// What of that is free.
    FreeHugePages {
        /// The node.
        node: Node,
        /// The page's length in KiB.
        kibibytes: u64,
    },
}

/// Its path, below the root.
impl fmt::Display for TopologyFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NODES: &str = "/sys/devices/system/node";
        match *self {
            Self::Nodes => write!(formatter, "{NODES}/online"),
            Self::NodesWithMemory => write!(formatter, "{NODES}/has_memory"),
            Self::NodesWithNormalMemory => write!(formatter, "{NODES}/has_normal_memory"),
            Self::NodesWithProcessors => write!(formatter, "{NODES}/has_cpu"),
            Self::Processors => formatter.write_str("/sys/devices/system/cpu/online"),
            Self::Status => formatter.write_str("/proc/thread-self/status"),
            Self::Memory => formatter.write_str("/proc/meminfo"),
            Self::NodeProcessors(node) => write!(formatter, "{NODES}/node{node}/cpulist"),
            Self::NodeMemory(node) => write!(formatter, "{NODES}/node{node}/meminfo"),
            Self::NodeDistances(node) => write!(formatter, "{NODES}/node{node}/distance"),
            Self::HugePages { node, kibibytes } => write!(
                formatter,
                "{NODES}/node{node}/hugepages/hugepages-{kibibytes}kB/nr_hugepages"
            ),
            Self::FreeHugePages { node, kibibytes } => write!(
                formatter,
                "{NODES}/node{node}/hugepages/hugepages-{kibibytes}kB/free_hugepages"
            ),
        }
    }
}

/// Why the topology could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopologyError {
    /// The root is longer than 255 bytes or holds a zero.
    Root,
    /// No such node is online.
    NoNode {
        /// The node that was asked for.
        node: Node,
    },
    /// A file could not be read.
    Read {
        /// The file, below the root.
        file: TopologyFile,
        /// The system's reason.
        error: SystemError,
    },
    /// A file could not be written.
    Write {
        /// The file, below the root.
        file: TopologyFile,
        /// The system's reason.
        error: SystemError,
    },
    /// A file does not say what it should.
    Parse {
        /// The file, below the root.
        file: TopologyFile,
        /// What is wrong with a list; `None` where a figure is missing.
        error: Option<ParseListError>,
    },
}

impl fmt::Display for TopologyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => formatter.write_str(
                "the topology below a root was asked for, and its path is longer than 255 bytes",
            ),
            Self::NoNode { node } => write!(
                formatter,
                "node {node} was asked for and is not online; choose one of `nodes()`"
            ),
            Self::Read { file, error } => write!(
                formatter,
                "the topology was to be read, and the system refused {file} ({error}); mount sysfs \
                 and proc"
            ),
            Self::Write { file, error } => write!(
                formatter,
                "{file} was to be changed and the system refused ({error}); run this as root, with \
                 sysfs writable"
            ),
            Self::Parse { file, error: Some(error) } => write!(formatter, "{file}: {error}"),
            Self::Parse { file, error: None } => {
                write!(formatter, "{file}: a figure that the kernel writes there is missing")
            }
        }
    }
}

impl core::error::Error for TopologyError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Read { error, .. } | Self::Write { error, .. } => Some(error),
            Self::Parse { error: Some(error), .. } => Some(error),
            _ => None,
        }
    }
}

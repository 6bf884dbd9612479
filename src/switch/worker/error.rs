//! Why a worker could not be started.

use crate::numa::{Node, ProcessorSet, TopologyError};
use crate::sys::SystemError;

/// Why a worker could not be started. Its body was not called.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerError {
    /// The processors that this process may use could not be listed.
    Processors(SystemError),
    /// The system refused to run the thread on the processor.
    Pin {
        /// The processor that was asked for.
        processor: usize,
        /// The system's reason; `None` where the number is beyond what a set can hold (8191).
        error: Option<SystemError>,
    },
    /// The system refused to run the thread on a set of processors: a node's, or a given one.
    PinToSet {
        /// The processors that were asked for.
        processors: Box<ProcessorSet>,
        /// The system's reason.
        error: SystemError,
    },
    /// No processor of a NUMA node may be used, or the node has none.
    NoProcessor {
        /// The node that was asked for.
        node: Node,
    },
    /// The machine's nodes could not be found out.
    Topology(TopologyError),
    /// The system refused the thread.
    Start(std::io::Error),
}

impl core::fmt::Display for WorkerError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Processors(error) => write!(
                formatter,
                "the processors of this process were to be listed and the system refused ({error})"
            ),
            Self::Pin { processor, error } => {
                write!(formatter, "a worker was to be pinned to processor {processor} and ")?;
                match error {
                    Some(error) => write!(formatter, "the system refused ({error})")?,
                    None => formatter.write_str("no processor has that number")?,
                }
                formatter.write_str("; choose one of `processors()`")
            }
            Self::PinToSet { processors, error } => write!(
                formatter,
                "a worker was to be confined to the processors {processors} and the system refused \
                 ({error}); choose among `processors()`"
            ),
            Self::NoProcessor { node } => write!(
                formatter,
                "a worker was to run on node {node}, of which this process may use no processor; \
                 see taskset and numactl"
            ),
            Self::Topology(error) => error.fmt(formatter),
            Self::Start(error) => {
                write!(
                    formatter,
                    "a worker thread was to be started and the system refused: {error}"
                )
            }
        }
    }
}

impl core::error::Error for WorkerError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Processors(error) | Self::Pin { error: Some(error), .. } => Some(error),
            Self::PinToSet { error, .. } => Some(error),
            Self::Topology(error) => Some(error),
            Self::Pin { error: None, .. } | Self::NoProcessor { .. } => None,
            Self::Start(error) => Some(error),
        }
    }
}

//! A node's pool of explicit huge pages: how many it has, and reserving them up front.

use core::fmt::Write;

use super::tree::Root;
use super::{Topology, TopologyError, TopologyFile};
use crate::numa::Node;
use crate::sys::SystemError;

/// The pool of huge pages of one size on one node.
///
/// Explicit huge pages come from such pools only, and the kernel finds room for a pool best soon
/// after its start: reserve early, and for each node.
///
/// ```
/// use heapswitch::numa::{HugePagePool, Node, Topology};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let topology = Topology::of_system()?;
/// let node = topology.nodes().first().unwrap();
/// match topology.huge_page_pool(node, 2 << 20) {
///     Ok(pool) => println!("{} of {} huge pages are free", pool.free()?, pool.total()?),
///     Err(error) => println!("{error}"),
/// }
/// # Ok::<(), heapswitch::numa::TopologyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HugePagePool {
    root: Root,
    node: Node,
    kibibytes: u64,
}

impl Topology {
    /// A node's pool of huge pages of so many bytes.
    ///
    /// # Errors
    /// [`TopologyError::NoNode`]; [`TopologyError::Read`] where the system has no huge pages of
    /// that size.
    pub fn huge_page_pool(
        &self,
        node: Node,
        page_bytes: usize,
    ) -> Result<HugePagePool, TopologyError> {
        self.check(node)?;
        let kibibytes = (page_bytes >> 10) as u64;
        let pool = HugePagePool { root: self.root, node, kibibytes };
        pool.total()?;
        Ok(pool)
    }
}

impl HugePagePool {
    /// The node that it is on.
    pub fn node(&self) -> Node {
        self.node
    }

    /// A page's length in bytes.
    pub fn page_bytes(&self) -> usize {
        usize::try_from(self.kibibytes << 10).unwrap_or(usize::MAX)
    }

    /// Pages in the pool, used ones included.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn total(&self) -> Result<usize, TopologyError> {
        self.read(self.total_file())
    }

    /// Pages in the pool that nobody uses.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn free(&self) -> Result<usize, TopologyError> {
        let (node, kibibytes) = (self.node, self.kibibytes);
        self.read(TopologyFile::FreeHugePages { node, kibibytes })
    }

    /// Asks for a pool of `total` pages; how many it then has. The kernel gives what it finds room
    /// for, and keeps used pages in any case: fewer, or more, is no error. Needs the right to write
    /// to sysfs, root's as a rule.
    ///
    /// # Errors
    /// [`TopologyError::Write`]; the file could not be read.
    pub fn reserve(&self, total: usize) -> Result<usize, TopologyError> {
        let mut text = Decimal { digits: [0; 20], length: 0 };
        // Twenty digits hold any number.
        let _ = write!(text, "{total}");
        let file = self.total_file();
        let digits = text.digits.get(..text.length).unwrap_or_default();
        self.root
            .open_for_writing(&file)
            .and_then(|mut pool| pool.write(digits))
            .map_err(|error| TopologyError::Write { file, error })?;
        self.total()
    }

    fn total_file(&self) -> TopologyFile {
        TopologyFile::HugePages { node: self.node, kibibytes: self.kibibytes }
    }

    fn read(&self, file: TopologyFile) -> Result<usize, TopologyError> {
        let refused = |error: SystemError| TopologyError::Read { file, error };
        let number = self.root.open(&file).and_then(|bytes| bytes.read(|bytes| bytes.number()));
        let number = number.map_err(refused)?.and_then(|number| usize::try_from(number).ok());
        number.ok_or(TopologyError::Parse { file, error: None })
    }
}

/// A number being written.
struct Decimal {
    digits: [u8; 20],
    length: usize,
}

impl Write for Decimal {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.length + text.len();
        let part = self.digits.get_mut(self.length..end).ok_or(core::fmt::Error)?;
        part.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

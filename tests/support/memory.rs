//! What the kernel says of this process's memory.

use std::fs;

/// A figure of `/proc/self/status`, in bytes: "VmRSS", "VmPTE".
pub(crate) fn status_bytes(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    let kibibytes: usize = line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}

/// Resident memory with the page tables, in bytes.
pub(crate) fn resident_bytes() -> usize {
    status_bytes("VmRSS") + status_bytes("VmPTE")
}

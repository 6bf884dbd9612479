//! The memory sources.

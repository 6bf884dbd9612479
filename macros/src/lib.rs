//! The procedural macro of heapswitch.
#![forbid(unsafe_code)]

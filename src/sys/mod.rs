//! The only user of libc.

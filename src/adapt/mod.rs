//! Adaptors: theirs to ours, ours to theirs.

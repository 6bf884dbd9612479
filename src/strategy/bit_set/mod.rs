//! `BitSet`: a bit set of free blocks, searched 64 bits at a time.

//! What the types refuse: each file of `ui/` makes one mistake; the `.stderr` beside it is the
//! compiler's answer.
//!
//! `TRYBUILD=overwrite cargo test -p heapswitch-lean-tests --test ui` writes the answers anew.
#![cfg(not(any(heapswitch_pass_through, heapswitch_check, heapswitch_tsan, loom)))]

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

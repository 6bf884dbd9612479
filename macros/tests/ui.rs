//! Each file of `ui/` makes one mistake; the `.stderr` beside it is the message.
//!
//! `TRYBUILD=overwrite cargo test -p heapswitch-macros --test ui` writes the messages anew.

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

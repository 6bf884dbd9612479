//! What the library's file has to be like.
#![cfg(not(heapswitch_pass_through))]

use crate::support::library;

/// The allocator's thread-local state is read at an offset from the thread pointer that the dynamic
/// linker fills in when it loads the library: no call of `__tls_get_addr`, which may allocate.
#[test]
fn thread_local_state_is_initial_exec() {
    let bytes = std::fs::read(library()).expect("the library");
    let contains = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    assert!(contains(b"\0malloc\0"), "the library's dynamic symbols are not where they should be");
    assert_eq!(relocations(&bytes, THREAD_POINTER_OFFSET), 1);
}

/// The relocation that asks for a symbol's offset from the thread pointer: `R_X86_64_TPOFF64` and
/// `R_AARCH64_TLS_TPREL64`.
const THREAD_POINTER_OFFSET: u32 = if cfg!(target_arch = "aarch64") { 1030 } else { 18 };

/// How many relocations of a kind a shared library has.
fn relocations(file: &[u8], kind: u32) -> usize {
    const SHT_RELA: u32 = 4;
    const RELA_BYTES: usize = 24;
    let number = |offset: usize, bytes: usize| {
        let little_endian = file[offset..offset + bytes].iter().rev();
        little_endian.fold(0_usize, |value, &byte| value << 8 | usize::from(byte))
    };
    let (sections, each, count) = (number(0x28, 8), number(0x3A, 2), number(0x3C, 2));
    let sections = (0..count).map(|index| sections + index * each);
    let relocations = sections
        .filter(|&section| number(section + 4, 4) == SHT_RELA as usize)
        .flat_map(|section| {
            let (start, bytes) = (number(section + 0x18, 8), number(section + 0x20, 8));
            (start..start + bytes).step_by(RELA_BYTES)
        });
    relocations.filter(|relocation| number(relocation + 8, 4) == kind as usize).count()
}

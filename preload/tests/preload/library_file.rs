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

/// Threads run its code when they end, and where it serves the dynamic linker it cannot ask that.
#[test]
fn the_library_stays_loaded() {
    let bytes = std::fs::read(library()).expect("the library");
    const FLAGS: usize = 0x6FFF_FFFB;
    const NO_DELETE: usize = 8;
    let flags = entries(&bytes, SHT_DYNAMIC, 16).find(|&entry| number(&bytes, entry, 8) == FLAGS);
    let flags = flags.map(|entry| number(&bytes, entry + 8, 8));
    assert_eq!(flags.map(|flags| flags & NO_DELETE), Some(NO_DELETE), "{flags:x?}");
}

/// The relocation that asks for a symbol's offset from the thread pointer: `R_X86_64_TPOFF64` and
/// `R_AARCH64_TLS_TPREL64`.
const THREAD_POINTER_OFFSET: u32 = if cfg!(target_arch = "aarch64") { 1030 } else { 18 };

/// Kinds of sections.
const SHT_RELA: usize = 4;
const SHT_DYNAMIC: usize = 6;

/// How many relocations of a kind a shared library has.
fn relocations(file: &[u8], kind: u32) -> usize {
    let relocations = entries(file, SHT_RELA, 24);
    relocations.filter(|relocation| number(file, relocation + 8, 4) == kind as usize).count()
}

/// Where the entries of all sections of a kind start, each so many bytes long.
fn entries(file: &[u8], kind: usize, entry_bytes: usize) -> impl Iterator<Item = usize> {
    let (sections, each, count) =
        (number(file, 0x28, 8), number(file, 0x3A, 2), number(file, 0x3C, 2));
    let sections = (0..count).map(move |index| sections + index * each);
    sections.filter(move |&section| number(file, section + 4, 4) == kind).flat_map(move |section| {
        let (start, bytes) = (number(file, section + 0x18, 8), number(file, section + 0x20, 8));
        (start..start + bytes).step_by(entry_bytes)
    })
}

fn number(file: &[u8], offset: usize, bytes: usize) -> usize {
    let little_endian = file[offset..offset + bytes].iter().rev();
    little_endian.fold(0_usize, |value, &byte| value << 8 | usize::from(byte))
}

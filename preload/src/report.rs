//! What the library tells when the program ends, where `HEAPSWITCH_REPORT` asks for it.
//!
//! `HEAPSWITCH_REPORT=-` writes to the standard error, anything else is a file's path, to which the
//! program and those that it starts append. The variable is read when the library is loaded:
//! programs that retitle themselves overwrite their environment. A program that ends by `_exit`, by
//! a signal, or by becoming another tells nothing.

use core::ffi::{c_char, c_int};
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

use heapswitch::__private::malloc::usage_by_length;
use heapswitch::process_usage;

use crate::served::are_operators_ours;
use crate::text::{Bytes, Text, write_to};

/// The longest path, in bytes, its zero byte included.
const PATH_BYTES: usize = 4096;

/// Where to write: empty for nowhere. Written when the library is loaded, before there are threads.
static PATH: [AtomicU8; PATH_BYTES] = [const { AtomicU8::new(0) }; PATH_BYTES];

/// Long enough for 45 lengths of blocks.
const REPORT_BYTES: usize = 8192;

const CHUNK_BYTES: u64 = 64 << 10;

type Text8k = Text<REPORT_BYTES>;

extern "C" fn on_load() {
    // From here on threads may be started, and the C library has the environment.
    heapswitch::__private::start_what_is_set();
    // Now, for it asks the dynamic linker, also for the runtime's operators where they are left to
    // it. Later another thread may hold its lock, or have held it where a process forked.
    are_operators_ours();
    // SAFETY: the name is a C string, and the value, if there is one, too; nobody else runs yet.
    unsafe {
        // Whoever starts a set-user-ID program does not choose what that writes to.
        if libc::getauxval(libc::AT_SECURE) != 0 {
            return;
        }
        let value = libc::getenv(c"HEAPSWITCH_REPORT".as_ptr());
        if value.is_null() || libc::strlen(value) >= PATH_BYTES {
            return;
        }
        for (index, slot) in PATH.iter().take(libc::strlen(value)).enumerate() {
            slot.store(*value.add(index).cast::<u8>(), Ordering::Relaxed);
        }
    }
}

extern "C" fn on_unload() {
    let mut path = [0; PATH_BYTES];
    for (byte, slot) in path.iter_mut().zip(&PATH) {
        *byte = slot.load(Ordering::Relaxed) as c_char;
    }
    let descriptor = match path {
        [0, ..] => return,
        [first, 0, ..] if first == b'-' as c_char => 2,
        _ => open(&path),
    };
    if descriptor >= 0 {
        write_report(descriptor);
    }
}

// The dynamic linker calls what stands here when it loads the library, and when the program exits.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;
#[used]
#[unsafe(link_section = ".fini_array")]
static ON_UNLOAD: extern "C" fn() = on_unload;

fn open(path: &[c_char]) -> c_int {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero byte. The descriptor is closed with the process.
    unsafe { libc::open(path.as_ptr(), flags, 0o600) }
}

/// The program's name, as the kernel has it.
struct ProgramName;

impl fmt::Display for ProgramName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0_u8; 17];
        // SAFETY: the kernel writes at most 16 bytes and ends them with a zero.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        let name = name.split(|&byte| byte == 0).next().unwrap_or(&[]);
        formatter.write_str(str::from_utf8(name).unwrap_or("?"))
    }
}

/// The most memory that was resident, in bytes.
pub(crate) fn peak_resident_bytes() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is valid for writes, and zeros are a valid value should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10
}

/// Writes all figures, as one piece, so that several programs may append to one file.
pub(crate) fn write_report(descriptor: c_int) {
    let mut text = Text8k::new();
    // What does not fit is left out.
    let _ = write_figures(&mut text);
    write_to(descriptor, text.as_str());
}

fn write_figures(text: &mut Text8k) -> fmt::Result {
    heapswitch::flush_foreign_frees();
    let usage = process_usage();
    // SAFETY: reads a number.
    let process = unsafe { libc::getpid() };
    writeln!(text, "heapswitch: process {process} ({ProgramName})")?;
    writeln!(
        text,
        "  peak           {} in heaps, {} resident",
        Bytes(usage.region.peak_bytes as u64),
        Bytes(peak_resident_bytes())
    )?;
    writeln!(text, "  threads        {}, in {} heaps", usage.threads_started, usage.thread_heaps)?;
    writeln!(text, "  foreign frees  {}", usage.foreign_frees)?;
    writeln!(
        text,
        "  slow paths     {} allocations that no list served, {} runs taken, {} given back",
        usage.slow_allocations, usage.region.runs_taken, usage.region.runs_returned
    )?;
    writeln!(
        text,
        "  C library      {} in all, {} blocks because heaps had no memory",
        Bytes(usage.global_bytes),
        usage.overflow_blocks
    )?;
    writeln!(text, "  classes        bytes a block: memory taken for them in all (held now)")?;
    for length in usage_by_length().filter(|length| length.given_runs != 0) {
        match length.block_bytes {
            Some(bytes) => writeln!(
                text,
                "    {bytes:>10}   {} ({})",
                Bytes(length.given_runs * CHUNK_BYTES),
                Bytes(length.held_runs * CHUNK_BYTES)
            )?,
            None => writeln!(
                text,
                "        larger   {} blocks ({})",
                length.given_runs, length.held_runs
            )?,
        }
    }
    Ok(())
}

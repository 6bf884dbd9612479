//! What a run took: times, and memory as the system counts it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

/// What one run of a workload took; written and read back as numbers between blanks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// From start to end of the timed part.
    pub wall_seconds: f64,
    /// User and system time of all the process's threads in the timed part.
    pub processor_seconds: f64,
    /// The most memory that was resident at once, since the process began.
    pub peak_kib: u64,
    /// Resident after the timed part, written to, and of this process alone.
    pub private_dirty_kib: u64,
    /// Of that, what the system may take when it needs it: counted as resident until then.
    pub lazy_free_kib: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wall_seconds, processor_seconds, .. } = self;
        let Self { peak_kib, private_dirty_kib, lazy_free_kib, .. } = self;
        write!(f, "{wall_seconds:.6} {processor_seconds:.6} ")?;
        write!(f, "{peak_kib} {private_dirty_kib} {lazy_free_kib}")
    }
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let &[wall, processor, peak, dirty, lazy] = parts.as_slice() else {
            return Err(format!("`{text}`: not five numbers"));
        };
        let seconds = |part: &str| part.parse().map_err(|error| format!("`{part}`: {error}"));
        let kib = |part: &str| part.parse().map_err(|error| format!("`{part}`: {error}"));
        Ok(Self {
            wall_seconds: seconds(wall)?,
            processor_seconds: seconds(processor)?,
            peak_kib: kib(peak)?,
            private_dirty_kib: kib(dirty)?,
            lazy_free_kib: kib(lazy)?,
        })
    }
}

/// The user and system time of all threads of this process so far, the ended ones too.
pub(crate) fn processor_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is that of a variable of the type it fills.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(status, 0, "the system does not tell the time used");
    // SAFETY: zeroed is a value of this type of numbers, and the call filled it.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The field `name` of a file of the process's own, in KiB. It reads to the stack: what it asks
/// about is the allocator's doing.
pub(crate) fn own_kib(path: &str, name: &str) -> u64 {
    let mut buffer = [0; 8192];
    let mut length = 0;
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    while let Ok(more @ 1..) = file.read(&mut buffer[length..]) {
        length += more;
    }
    let text = std::str::from_utf8(&buffer[..length]).expect("the system writes ASCII");
    field(text, name).unwrap_or_else(|| panic!("{path} says nothing of {name}"))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let measured = Measured {
            wall_seconds: 0.25,
            processor_seconds: 0.5,
            peak_kib: 3,
            private_dirty_kib: 2,
            lazy_free_kib: 1,
        };
        assert_eq!(measured.to_string().parse(), Ok(measured));
        for bad in ["", "1 2 3 4", "1 2 3 4 5 6", "1 2 3 4 x", "x 2 3 4 5"] {
            assert!(bad.parse::<Measured>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "LazyFree:\t 8 kB\nPrivate_Dirty_More: 2 kB\nPrivate_Dirty:   4096 kB\n";
        assert_eq!(field(text, "Private_Dirty"), Some(4096));
        assert_eq!(field(text, "LazyFree"), Some(8));
        assert_eq!(field(text, "Lazy"), None);
    }

    #[test]
    fn what_is_touched_and_what_is_worked_is_seen() {
        const KIB: u64 = 32 << 10;
        let before = own_kib("/proc/self/smaps_rollup", "Private_Dirty");
        let touched = vec![1_u8; (KIB as usize) << 10];
        assert!(own_kib("/proc/self/smaps_rollup", "Private_Dirty") >= before + KIB / 2);
        assert!(own_kib("/proc/self/status", "VmHWM") >= KIB);
        let start = processor_seconds();
        while processor_seconds() == start {
            std::hint::black_box(touched.iter().map(|&byte| u64::from(byte)).sum::<u64>());
        }
    }
}

//! What can be chosen of a mapping.
#![forbid(unsafe_code)]

use core::ffi::CStr;
use core::fmt;

use crate::numa::Placement;
use crate::units::{CHUNK_BYTES, PAGE_BYTES};

/// Which pages back a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// As the system is set.
    #[default]
    AsSystem,
    /// Never transparent huge pages (`MADV_NOHUGEPAGE`): a touched page costs one page.
    Never,
    /// Transparent huge pages where the system's setting is `madvise` or `always`
    /// (`MADV_HUGEPAGE`). Best with an alignment and a granule of 2 MiB.
    Transparent,
    /// Pages from the system's pool of huge pages of `2^shift` bytes (`MAP_HUGETLB`): 21 for 2 MiB,
    /// 30 for 1 GiB. Where the pool is empty: as `Transparent`, and reported. Bound to nodes
    /// ([`Policy::Bind`](crate::numa::Policy::Bind)) they are prefaulted, which needs Linux 5.14:
    /// only so can it be told that those nodes' pools are empty.
    Explicit {
        /// log2 of the page's bytes, from 16 to 34.
        shift: u32,
    },
}

impl HugePages {
    /// The least page that this asks for, in bytes.
    pub(super) const fn page_bytes(self) -> usize {
        match self {
            Self::Explicit { shift } => 1 << shift,
            _ => PAGE_BYTES,
        }
    }
}

/// The settings of a [`MemoryMapSource`](super::MemoryMapSource), each with a default.
///
/// ```
/// use heapswitch::source::{HugePages, MemoryMapSettings, MemoryMapSource};
///
/// static SOURCE: MemoryMapSource = match MemoryMapSource::with_settings(
///     MemoryMapSettings::new()
///         .granule(2 << 20)
///         .alignment(2 << 20)
///         .huge_pages(HugePages::Transparent)
///         .kept_out_of_core_dumps(true)
///         .name(c"sessions"),
/// ) {
///     Ok(source) => source,
///     Err(_) => panic!("the settings are wrong"),
/// };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMapSettings {
    pub(super) granule: usize,
    pub(super) alignment: usize,
    pub(super) huge_pages: HugePages,
    pub(super) is_locked: bool,
    pub(super) is_prefaulted: bool,
    pub(super) is_collapsed: bool,
    pub(super) is_unreserved: bool,
    pub(super) is_kept_out_of_core_dumps: bool,
    pub(super) is_strict: bool,
    pub(super) name: Option<&'static CStr>,
    pub(super) placement: Placement,
}

impl MemoryMapSettings {
    /// A granule and an alignment of 64 KiB, everything else as the system does it.
    pub const fn new() -> Self {
        Self {
            granule: CHUNK_BYTES,
            alignment: CHUNK_BYTES,
            huge_pages: HugePages::AsSystem,
            is_locked: false,
            is_prefaulted: false,
            is_collapsed: false,
            is_unreserved: false,
            is_kept_out_of_core_dumps: false,
            is_strict: false,
            name: None,
            placement: Placement::DEFAULT,
        }
    }

    /// The unit of a mapping's length in bytes, a power of two of at least 4096. It is raised to
    /// the system's page, and to the huge page where those are explicit.
    #[must_use]
    pub const fn granule(mut self, bytes: usize) -> Self {
        self.granule = bytes;
        self
    }

    /// The least alignment of a mapping in bytes, a power of two. Above the page it costs two more
    /// system calls a mapping.
    #[must_use]
    pub const fn alignment(mut self, bytes: usize) -> Self {
        self.alignment = bytes;
        self
    }

    /// Which pages back the mapping.
    #[must_use]
    pub const fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Whether its pages stay in memory from their first touch on (`mlock2`). Bounded by
    /// `RLIMIT_MEMLOCK`, often 8 MiB.
    #[must_use]
    pub const fn locked(mut self, is_locked: bool) -> Self {
        self.is_locked = is_locked;
        self
    }

    /// Whether its pages are there before the first touch (`MADV_POPULATE_WRITE`, Linux 5.14).
    #[must_use]
    pub const fn prefaulted(mut self, is_prefaulted: bool) -> Self {
        self.is_prefaulted = is_prefaulted;
        self
    }

    /// Whether its pages are transparent huge ones at once (`MADV_COLLAPSE`, Linux 6.1), also where
    /// the system's setting is `never`; after prefaulting, if that is asked, for what is not there
    /// cannot be collapsed. Best with an alignment and a granule of 2 MiB.
    #[must_use]
    pub const fn collapsed(mut self, is_collapsed: bool) -> Self {
        self.is_collapsed = is_collapsed;
        self
    }

    /// Whether it is left out of the commit limit (`MAP_NORESERVE`). Explicit huge pages are always
    /// reserved: without that an empty pool is a `SIGBUS` at the first touch.
    #[must_use]
    pub const fn unreserved(mut self, is_unreserved: bool) -> Self {
        self.is_unreserved = is_unreserved;
        self
    }

    /// Whether core dumps leave it out (`MADV_DONTDUMP`).
    #[must_use]
    pub const fn kept_out_of_core_dumps(mut self, is_kept_out: bool) -> Self {
        self.is_kept_out_of_core_dumps = is_kept_out;
        self
    }

    /// The name that `/proc/self/maps` shows, `[anon:name]` (Linux 5.17 with
    /// `CONFIG_ANON_VMA_NAME`); at most 79 bytes, printable, none of ``[]\$` ``.
    #[must_use]
    pub const fn name(mut self, name: &'static CStr) -> Self {
        self.name = Some(name);
        self
    }

    /// On which NUMA nodes its pages lie.
    #[must_use]
    pub const fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Whether a range is refused where the system refuses a setting, for those who would rather
    /// have no memory than memory that may be swapped or dumped. Otherwise the range is given
    /// without it, and [`MemoryMapSource::refusals`](super::MemoryMapSource::refusals) says so.
    #[must_use]
    pub const fn strict(mut self, is_strict: bool) -> Self {
        self.is_strict = is_strict;
        self
    }

    /// The least alignment of a mapping in bytes.
    pub const fn minimum_alignment(&self) -> usize {
        self.alignment
    }

    pub(super) const fn check(&self) -> Result<(), MemoryMapSettingsError> {
        if !self.granule.is_power_of_two() || self.granule < PAGE_BYTES {
            return Err(MemoryMapSettingsError::Granule { bytes: self.granule });
        }
        if !self.alignment.is_power_of_two() {
            return Err(MemoryMapSettingsError::Alignment { bytes: self.alignment });
        }
        match self.huge_pages {
            HugePages::Explicit { shift } if shift < 16 || shift > 34 => {
                Err(MemoryMapSettingsError::HugePageShift { shift })
            }
            _ => Ok(()),
        }
    }
}

impl Default for MemoryMapSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// Settings that no mapping can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryMapSettingsError {
    /// The granule is no power of two of at least 4096.
    Granule {
        /// What was asked.
        bytes: usize,
    },
    /// The alignment is no power of two.
    Alignment {
        /// What was asked.
        bytes: usize,
    },
    /// No system has huge pages of that size.
    HugePageShift {
        /// What was asked.
        shift: u32,
    },
}

impl fmt::Display for MemoryMapSettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granule { bytes } => write!(
                formatter,
                "a mapping's granule of {bytes} bytes was asked, which is no power of two of at \
                 least {PAGE_BYTES}; use {CHUNK_BYTES}"
            ),
            Self::Alignment { bytes } => write!(
                formatter,
                "a mapping's alignment of {bytes} bytes was asked, which is no power of two; use \
                 {CHUNK_BYTES}"
            ),
            Self::HugePageShift { shift } => write!(
                formatter,
                "huge pages of 2^{shift} bytes were asked, which no system has; use 21 for 2 MiB, \
                 or another of /sys/kernel/mm/hugepages"
            ),
        }
    }
}

impl core::error::Error for MemoryMapSettingsError {}

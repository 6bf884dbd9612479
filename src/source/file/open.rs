//! Opening and closing: the file's lock, its address space, what it has already.

use core::ptr::NonNull;
use std::fs::{File, OpenOptions, TryLockError};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::Path;

use super::bits::{self, Run};
use super::{FileMemorySource, FileSettings, FileSourceError, State};
use crate::pointers;
use crate::sys;
use crate::sys::lock::Lock;
use crate::sys::memory::{self, MapFlags};

/// Whether any file could have such settings.
fn check(settings: FileSettings) -> Result<(), FileSourceError> {
    let FileSettings { maximum_bytes, granule, .. } = settings;
    let is_granule = granule.is_power_of_two() && granule >= sys::page_bytes();
    if !is_granule || maximum_bytes < granule || maximum_bytes > isize::MAX as usize / 2 {
        return Err(FileSourceError::Settings { granule, maximum_bytes });
    }
    Ok(())
}

impl FileMemorySource {
    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    /// See [`FileSourceError`]; nothing is reserved or mapped then, and what the file had it has.
    ///
    /// # Safety
    /// What lies in a file changes with it: while the source exists nobody writes to the file or
    /// makes it shorter but through ranges of the source, and of two processes that share it after
    /// a `fork` only one uses it. The lock keeps other sources off, and nobody else.
    ///
    /// ```compile_fail,E0133
    /// use heapswitch::{FileMemorySource, FileSettings};
    ///
    /// FileMemorySource::open("values".as_ref(), FileSettings::default()).unwrap();
    /// ```
    pub unsafe fn open(path: &Path, settings: FileSettings) -> Result<Self, FileSourceError> {
        // Before a file is made for it.
        check(settings)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file =
            options.open(path).map_err(|error| FileSourceError::Open { error: (&error).into() })?;
        Self::from_file(file, settings)
    }

    /// Uses an open file: one opened for reading and writing, or a `memfd`.
    ///
    /// # Errors
    /// See [`FileSourceError`]; the file is closed then.
    ///
    /// # Safety
    /// As for [`open`](Self::open).
    #[cfg(unix)]
    pub unsafe fn from_fd(file: OwnedFd, settings: FileSettings) -> Result<Self, FileSourceError> {
        Self::from_file(File::from(file), settings)
    }

    fn from_file(file: File, settings: FileSettings) -> Result<Self, FileSourceError> {
        check(settings)?;
        let FileSettings { maximum_bytes, granule, .. } = settings;
        let open_error = |error: std::io::Error| FileSourceError::Open { error: (&error).into() };
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FileSourceError::InUse,
            TryLockError::Error(error) => open_error(error),
        })?;
        let file_bytes = file.metadata().map_err(open_error)?.len();
        let granules = usize::try_from(file_bytes)
            .ok()
            .filter(|bytes| *bytes <= maximum_bytes - maximum_bytes % granule)
            .map(|bytes| bytes.div_ceil(granule))
            .ok_or(FileSourceError::TooLong { file_bytes, maximum_bytes })?;
        let source = Self::reserve(file, settings)?;
        source.adopt(granules)
    }

    /// Reserves the address space and the bits.
    fn reserve(file: File, settings: FileSettings) -> Result<Self, FileSourceError> {
        let FileSettings { maximum_bytes, granule, .. } = settings;
        // One granule more, so that the base can be aligned to it.
        let bytes = maximum_bytes + granule;
        let failed = |error| FileSourceError::Reserve { bytes, error };
        let word_count = (maximum_bytes / granule).div_ceil(64);
        let how = MapFlags { is_unreserved: true, ..MapFlags::default() };
        let words = memory::map_anonymous(word_count * size_of::<u64>(), how).map_err(failed)?;
        let reservation = memory::reserve(bytes).map_err(|error| {
            // SAFETY: mapped above, and unknown to anybody.
            let _ = unsafe { memory::unmap(words, word_count * size_of::<u64>()) };
            failed(error)
        })?;
        // SAFETY: the padding is below a granule, which the reservation has to spare.
        let base =
            unsafe { pointers::forward(reservation, pointers::padding(reservation, granule)) };
        let words = NonNull::slice_from_raw_parts(words.cast(), word_count);
        Ok(Self {
            file,
            settings,
            reservation,
            reserved_bytes: bytes,
            base,
            contents_bytes: 0,
            state: Lock::new(State {
                words,
                granules: 0,
                used_once: 0,
                taken: 0,
                lost: None,
                last_error: None,
            }),
        })
    }

    /// Maps what the file has, as one taken range.
    fn adopt(mut self, granules: usize) -> Result<Self, FileSourceError> {
        if granules > 0 {
            self.extend(&mut self.state.lock(), granules)?;
            let state = self.state.get_mut();
            bits::mark(state.words(), Run { first: 0, length: granules }, true);
            state.taken = granules;
            self.contents_bytes = granules * self.settings.granule;
        }
        Ok(self)
    }
}

impl Drop for FileMemorySource {
    /// Unmaps the file, whose contents stay, and opens its lock.
    fn drop(&mut self) {
        let &mut State { words, lost, .. } = self.state.get_mut();
        let granule = self.settings.granule;
        let reserved = self.reserved_bytes;
        // What a refused mapping lost may be anybody's now.
        let at =
            |granules: usize| pointers::distance(self.reservation, self.base) + granules * granule;
        let (until, from) =
            lost.map_or((reserved, reserved), |lost| (at(lost.first), at(lost.end())));
        // SAFETY: the mappings are the source's alone; who still has a range must not outlive it.
        // What the system refuses stays mapped, as a leak.
        unsafe {
            let _ = memory::unmap(words.cast(), words.len() * size_of::<u64>());
            let _ = memory::unmap(self.reservation, until);
            if from < reserved {
                let _ = memory::unmap(pointers::forward(self.reservation, from), reserved - from);
            }
        }
    }
}

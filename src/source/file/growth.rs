//! The file made longer, with what is new mapped; undone where the system refuses a part of it.

use super::bits::Run;
use super::{FileMemorySource, FileSourceError, State};
use crate::allocator::AllocError;
use crate::pointers;
use crate::sys::SystemError;
use crate::sys::file::{self, Refused};
use crate::sys::memory;

impl FileMemorySource {
    /// Makes the file `granules` long and maps what is new. Where that is refused, the file is as
    /// long as before.
    pub(super) fn extend(&self, state: &mut State, granules: usize) -> Result<(), FileSourceError> {
        let granule = self.settings.granule;
        let (old, new) = (state.granules * granule, granules * granule);
        // More than `old` in a file that is opened, and where it could not be shortened.
        let present = self.length_on_disk()?;
        let extended = self
            .lengthen(present, old, new)
            .map_err(|error| FileSourceError::Grow { bytes: new, error })
            .and_then(|()| self.map_behind(state, old, new));
        match extended {
            Ok(()) => state.granules = granules,
            // A part may have been allocated all the same, and the file must not keep zeros that
            // nobody has. If this fails too, it does.
            Err(_) if present < new => {
                let _ = memory::set_file_length(file::descriptor(&self.file), present);
            }
            Err(_) => {}
        }
        extended
    }

    fn length_on_disk(&self) -> Result<usize, FileSourceError> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        let length = length.map_err(|error| FileSourceError::Open { error: (&error).into() })?;
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Makes the file `new` bytes long, with disk space behind `old` unless it is sparse.
    fn lengthen(&self, present: usize, old: usize, new: usize) -> Result<(), SystemError> {
        let descriptor = file::descriptor(&self.file);
        if present < new {
            file::check_limit(new)?;
        }
        if !self.settings.is_sparse {
            match file::allocate_space(descriptor, old, new - old) {
                // The file system cannot allocate ahead.
                Err(error) if error.is_unsupported() => {}
                done => return done,
            }
        }
        memory::set_file_length(descriptor, new)
    }

    fn map_behind(&self, state: &mut State, old: usize, new: usize) -> Result<(), FileSourceError> {
        let descriptor = file::descriptor(&self.file);
        // SAFETY: what is behind the mapped granules is reserved, ours, and used by nobody.
        let mapped = unsafe {
            file::map_part_over(pointers::forward(self.base, old), descriptor, old, new - old)
        };
        mapped.map_err(|Refused { error, is_still_reserved }| {
            if !is_still_reserved {
                let granule = self.settings.granule;
                state.lost = Some(Run { first: old / granule, length: (new - old) / granule });
            }
            FileSourceError::Map { bytes: new - old, error }
        })
    }

    /// Extends the file if `end` lies behind its end; whether that went well.
    pub(super) fn reach(&self, state: &mut State, end: usize) -> Result<(), AllocError> {
        if end <= state.granules {
            return Ok(());
        }
        self.extend(state, end).map_err(|error| {
            state.last_error = Some(error);
            AllocError
        })
    }

    /// How many granules the file may have: the maximum, or as far as its addresses are ours.
    pub(super) fn most_granules(&self, state: &State) -> usize {
        state.lost.map_or(self.maximum_granules(), |lost| lost.first)
    }
}

//! The file made longer, with what is new mapped; undone where the system refuses a part of it.

use super::bits::Run;
use super::{FileMemorySource, FileSourceError, State};
use crate::allocator::AllocError;
use crate::pointers;
use crate::sys::SystemError;
use crate::sys::file::{self, Refused};
use crate::sys::memory;

/// Of the file, in bytes.
#[derive(Clone, Copy)]
struct Lengths {
    /// On the disk: more than is mapped in a file that is opened, and where it could not be
    /// shortened.
    present: usize,
    mapped: usize,
    new: usize,
}

impl FileMemorySource {
    /// Makes the file `granules` long and maps what is new. Where that is refused, the file is as
    /// long as before.
    pub(super) fn extend(&self, state: &mut State, granules: usize) -> Result<(), FileSourceError> {
        let granule = self.settings.granule;
        let (mapped, new) = (state.granules * granule, granules * granule);
        let grow = |error| FileSourceError::Grow { bytes: new, error };
        let present = self.length_on_disk().map_err(grow)?;
        let lengths = Lengths { present, mapped, new };
        let extended =
            self.lengthen(lengths).map_err(grow).and_then(|()| self.map_behind(state, lengths));
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

    fn length_on_disk(&self) -> Result<usize, SystemError> {
        let metadata = self.file.metadata().map_err(|error| SystemError::from(&error))?;
        Ok(usize::try_from(metadata.len()).unwrap_or(usize::MAX))
    }

    /// Makes the file longer, with disk space behind what is mapped unless it is sparse.
    fn lengthen(&self, Lengths { present, mapped, new }: Lengths) -> Result<(), SystemError> {
        let descriptor = file::descriptor(&self.file);
        if present < new {
            file::check_limit(new)?;
        }
        if !self.settings.is_sparse {
            match file::allocate_space(descriptor, mapped, new - mapped) {
                // The file system cannot allocate ahead.
                Err(error) if error.is_unsupported() => {}
                done => return done,
            }
        }
        memory::set_file_length(descriptor, new)
    }

    fn map_behind(&self, state: &mut State, lengths: Lengths) -> Result<(), FileSourceError> {
        let Lengths { mapped, new, .. } = lengths;
        let (descriptor, bytes) = (file::descriptor(&self.file), new - mapped);
        // SAFETY: what is behind the mapped granules is reserved, ours, and used by nobody.
        let done = unsafe {
            let start = pointers::forward(self.base, mapped);
            file::map_part_over(start, descriptor, mapped, bytes)
        };
        done.map_err(|Refused { error, is_still_reserved }| {
            if !is_still_reserved {
                // All up to the end of what was lost before: what lies between serves nobody.
                let granule = self.settings.granule;
                let end = state.lost.map_or(0, Run::end).max(new / granule);
                let first = mapped / granule;
                state.lost = Some(Run { first, length: end - first });
            }
            FileSourceError::Map { bytes, error }
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

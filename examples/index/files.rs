//! The files below a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders that hold no text of the user's.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Regular files, in order.
    pub(crate) paths: Vec<PathBuf>,
    /// Folders that could not be read, and why.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
}

impl Files {
    /// The regular files below `folder`. Follows no symbolic link, so it ends.
    ///
    /// # Errors
    /// That `folder` itself cannot be read.
    pub(crate) fn below(folder: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        let mut waiting = Vec::new();
        files.read_folder(folder, &mut waiting)?;
        while let Some(folder) = waiting.pop() {
            if let Err(error) = files.read_folder(&folder, &mut waiting) {
                files.unreadable.push((folder, error));
            }
        }
        files.paths.sort_unstable();
        Ok(files)
    }

    fn read_folder(&mut self, folder: &Path, waiting: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_file() {
                self.paths.push(entry.path());
            } else if kind.is_dir() && !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
                waiting.push(entry.path());
            }
        }
        Ok(())
    }
}

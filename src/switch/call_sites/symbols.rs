//! Addresses as functions: when a report is written, and never in the allocator.
//!
//! With the feature `symbols` by the `backtrace` crate, which reads the program's symbols and debug
//! information and keeps them; inlined functions are told too. Without it an address is told as a
//! distance from where its file was loaded, by `/proc/self/maps`.

use std::collections::HashMap;

use crate::heap::CallSite;

/// A function that was on the stack.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) function: String,
    /// File and line.
    pub(super) place: Option<(String, u32)>,
}

/// What was found out, by address, for one report.
pub(super) struct Symbols {
    known: HashMap<usize, Vec<Frame>>,
    files: Files,
}

impl Symbols {
    pub(super) fn new() -> Self {
        Self { known: HashMap::new(), files: Files::now() }
    }

    /// The functions of a site, innermost first.
    pub(super) fn frames_of(&mut self, site: &CallSite) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &address in &site.frames {
            let files = &self.files;
            let known = self.known.entry(address).or_insert_with(|| {
                let mut found = resolve(address);
                if found.is_empty() {
                    found.push(Frame { function: files.name_of(address), place: None });
                }
                found
            });
            frames.extend_from_slice(known);
        }
        frames
    }
}

#[cfg(feature = "symbols")]
fn resolve(address: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(core::ptr::without_provenance_mut(address), |symbol| {
        if let Some(name) = symbol.name() {
            let place = symbol.filename().zip(symbol.lineno());
            frames.push(Frame {
                // Without the hash at the name's end.
                function: format!("{name:#}"),
                place: place.map(|(file, line)| (shown_path(file), line)),
            });
        }
    });
    frames
}

#[cfg(not(feature = "symbols"))]
fn resolve(_: usize) -> Vec<Frame> {
    Vec::new()
}

/// A path as a reader finds it: below the directory where the program runs, if it is.
#[cfg(feature = "symbols")]
fn shown_path(path: &std::path::Path) -> String {
    let here = std::env::current_dir().ok();
    let shown = here.and_then(|here| path.strip_prefix(here).ok().map(|path| path.to_owned()));
    shown.as_deref().unwrap_or(path).display().to_string()
}

impl Frame {
    /// Whether it is of a library that allocates for others, and tells nothing of who wanted it:
    /// ours, the standard one, and hashbrown, which is part of that.
    pub(super) fn is_of_library(&self) -> bool {
        const CRATES: [&str; 8] = [
            "heapswitch",
            "alloc",
            "core",
            "std",
            "hashbrown",
            "allocator_api2",
            "__rustc",
            "__rust",
        ];
        // The program's own, but what the allocator's declaration made; and calls by pointer.
        if self.function.contains(" as core::alloc::global::GlobalAlloc>")
            || self.function.starts_with("<fn(")
        {
            return true;
        }
        // `<alloc::vec::Vec<T> as core::clone::Clone>::clone`; of `<T as alloc::..>` the trait.
        let name = self.function.trim_start_matches(['<', '&', '[', '(']);
        let name = match name.split_once(" as ") {
            Some((own, of_trait)) if !own.contains("::") => of_trait,
            _ => name,
        };
        let first = name.split("::").next().unwrap_or(name);
        CRATES.contains(&first) || name.starts_with("__rust") || name.starts_with("_Unwind_")
    }

    /// Whether what is beyond it is how a thread starts.
    pub(super) fn is_start_of_thread(&self) -> bool {
        self.function.contains("__rust_begin_short_backtrace")
    }
}

/// The files that are mapped as code.
struct Files {
    /// First address, end, and the file with the address that its first byte would have.
    mappings: Vec<Mapping>,
}

struct Mapping {
    range: core::ops::Range<usize>,
    file: String,
    base: usize,
}

impl Files {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mut mappings: Vec<Mapping> = text.lines().filter_map(Mapping::read).collect();
        // A file is loaded where its first mapping begins.
        for index in 1..mappings.len() {
            let (before, from) = mappings.split_at_mut(index);
            if let (Some(before), Some(mapping)) = (before.last(), from.first_mut())
                && before.file == mapping.file
            {
                mapping.base = before.base;
            }
        }
        Self { mappings }
    }

    /// `file+0x1234`.
    fn name_of(&self, address: usize) -> String {
        match self.mappings.iter().find(|mapping| mapping.range.contains(&address)) {
            Some(mapping) => format!("{}+{:#x}", mapping.file, address - mapping.base),
            None => format!("{address:#x}"),
        }
    }
}

impl Mapping {
    /// `start-end rights offset device inode  file`.
    fn read(line: &str) -> Option<Self> {
        let file = line.get(line.find('/')?..)?;
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let number = |digits| usize::from_str_radix(digits, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        Some(Self { range: start..end, file: file.to_owned(), base: start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str) -> Frame {
        Frame { function: function.to_owned(), place: None }
    }

    #[test]
    fn who_allocates_is_told_from_who_wanted_it() {
        for function in [
            "alloc::raw_vec::RawVec<T>::reserve_for_push",
            "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
            "<T as alloc::slice::<impl [T]>::to_vec_in::ConvertVec>::to_vec",
            "heapswitch::switch::route::alloc_slow",
            "<service::Global as core::alloc::global::GlobalAlloc>::alloc",
            "<fn() -> service::Reply as core::ops::function::FnOnce<()>>::call_once",
            "__rustc::__rust_alloc",
            "__rust_alloc",
        ] {
            assert!(frame(function).is_of_library(), "{function}");
        }
        for function in ["service::handle", "main", "<service::Cache as core::fmt::Debug>::fmt"] {
            assert!(!frame(function).is_of_library(), "{function}");
        }
    }

    #[test]
    fn an_address_is_told_by_its_file() {
        let files = Files::now();
        let name = files.name_of(Files::now as *const () as usize);
        assert!(name.contains("+0x") && name.starts_with('/'), "{name}");
        assert_eq!(files.name_of(16), "0x10");
    }
}

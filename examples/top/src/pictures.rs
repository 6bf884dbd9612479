//! The pictures: the heap map and the timeline as the library draws them, and a flame graph of what
//! is live, by context and call site, that inferno draws of the library's stacks.

use std::io;
use std::path::{Path, PathBuf};

use heapswitch::{Account, HeapMap, LiveSites, Timeline};
use inferno::flamegraph;

/// What is pictured.
#[derive(Debug)]
pub(crate) struct Album {
    timeline: Timeline,
}

impl Album {
    /// Of all contexts of the process.
    pub(crate) fn new() -> Self {
        Self { timeline: Timeline::of(&Account::process()) }
    }

    /// Notes what is held now.
    pub(crate) fn sample(&mut self) {
        self.timeline.sample();
    }

    /// Writes the pictures into a directory; their paths.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(directory)?;
        let pictures = [
            ("heap.svg", HeapMap::now().to_svg()),
            ("timeline.svg", self.timeline.to_svg()),
            ("flame.svg", flame_graph()?),
        ];
        pictures
            .into_iter()
            .map(|(name, svg)| {
                let path = directory.join(name);
                std::fs::write(&path, svg)?;
                Ok(path)
            })
            .collect()
    }
}

/// What is live now, as a flame graph: contexts at the bottom, who asked for memory on top.
pub(crate) fn flame_graph() -> io::Result<String> {
    let stacks = LiveSites::now().to_folded();
    let mut options = flamegraph::Options::default();
    options.title = "Live bytes by context and call site".to_owned();
    options.count_name = "bytes".to_owned();
    let mut svg = Vec::new();
    match flamegraph::from_lines(&mut options, stacks.lines(), &mut svg) {
        // Where nothing is live it draws a picture that says so, and calls that an error.
        Err(_) if stacks.is_empty() => {}
        drawn => drawn.map_err(io::Error::other)?,
    }
    String::from_utf8(svg).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use heapswitch::AccountReport;

    use super::*;
    use crate::load::Load;
    use crate::model::Snapshot;

    #[test]
    fn the_pictures_show_the_load() {
        let mut load = Load::new().unwrap();
        let mut album = Album::new();
        let holds = |snapshot: &Snapshot, name: &str| {
            let large = |one: &&AccountReport| one.usage.own_bytes > 1 << 20;
            snapshot.contexts.iter().filter(large).any(|one| one.name.as_str().starts_with(name))
        };
        while !["query ", "import "].iter().all(|name| holds(&Snapshot::now(&load), name)) {
            load.step().unwrap();
            album.sample();
        }
        let directory = std::env::temp_dir().join(format!("pictures-{}", std::process::id()));
        let files = album.write(&directory).unwrap();
        let texts: Vec<_> =
            files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        std::fs::remove_dir_all(&directory).unwrap();
        let [map, timeline, flame] = &texts[..] else { panic!("{files:?}") };
        assert!(map.contains("query ") && map.contains("import ") && map.contains("in blocks"));
        assert!(timeline.contains("queries: at most") && timeline.contains("imports: at most"));
        for function in ["fill_buffer", "read_row"] {
            assert!(flame.contains(function), "{function} is not in the flame graph");
        }
        assert!(texts.iter().all(|text| text.trim_end().ends_with("</svg>")));
    }
}

//! A bar on the terminal, if there is one and the job takes long.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter jobs show nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Of one run.
#[derive(Debug)]
pub(crate) struct Progress {
    label: &'static str,
    files: usize,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(label: &'static str, files: usize) -> Self {
        Self { label, files, start: Instant::now(), bar: None }
    }

    /// Shows how many files are finished. Draws on stderr, and only where that is a terminal.
    pub(crate) fn show(&mut self, finished: usize) {
        if self.start.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(self.files as u64), target);
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} files {eta}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(self.label)
        });
        bar.set_position(finished as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

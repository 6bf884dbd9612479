//! The same job with the switching on and off.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use heapswitch::Heap;

use crate::job::{self, Failure, Switching};
use crate::progress::Progress;

/// How long all measurements may take together, if the job is short enough to be repeated.
const BUDGET: Duration = Duration::from_secs(3);

/// Medians of several runs of each kind.
#[derive(Debug)]
pub(crate) struct Timing {
    pub(crate) rounds: usize,
    pub(crate) on: Duration,
    pub(crate) off: Duration,
}

/// Times the job, which took `once` before. The kinds take turns, and turns at being first, so that
/// whatever else the machine does meets both alike.
pub(crate) fn measure(paths: &Arc<[PathBuf]>, once: Duration) -> Result<Timing, Failure> {
    let affordable = BUDGET.as_secs_f64() / (2.0 * once.as_secs_f64().max(1e-6));
    // Odd, for the median to be one of the runs.
    let rounds = (affordable as usize).clamp(1, 41) | 1;
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut kinds = [(Switching::On, &mut on), (Switching::Off, &mut off)];
        if round % 2 == 1 {
            kinds.reverse();
        }
        for (switching, durations) in kinds {
            let root = Heap::new()?;
            let mut progress = Progress::new("measuring", paths.len());
            let outcome = job::run(paths, switching, &root, |done| progress.show(done))?;
            durations.push(outcome.duration);
        }
    }
    Ok(Timing { rounds, on: median(on), off: median(off) })
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}

impl fmt::Display for Timing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |duration: Duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3);
        let ratio = self.on.as_secs_f64() / self.off.as_secs_f64().max(1e-9);
        let rounds = self.rounds;
        writeln!(formatter, "{:<26}{:>12}  median of {rounds}", "time", milliseconds(self.on))?;
        let off = milliseconds(self.off);
        writeln!(formatter, "{:<26}{off:>12}  all in the threads' heaps", "  switching off")?;
        writeln!(formatter, "{:<26}{ratio:>12.3}  below 1: switching is faster", "  on / off")
    }
}

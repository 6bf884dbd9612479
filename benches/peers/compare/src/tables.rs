//! The tables, as text that a page can show.

use std::fmt::Write;

use workloads::THREADS;

use crate::comparison::{Comparison, Line};
use crate::programs::Role;
use crate::results::{Measure, Results};
use crate::statistics::Figure;

/// As `median [lower, upper]` end of the interval.
fn cell(figure: Option<&Figure>) -> String {
    let Some(figure) = figure else { return "–".to_owned() };
    let (low, high) = figure.interval();
    format!("{:.2} [{low:.2}, {high:.2}]", figure.middle)
}

fn head(text: &mut String, columns: impl Iterator<Item = String>) {
    let columns: Vec<String> = columns.collect();
    *text += &format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
}

/// A line a row: what the best peer took, and every program's ratio to it.
pub(crate) fn ratios(comparison: &Comparison) -> String {
    let Comparison { name, unit, programs, lines } = comparison;
    let mut text = format!("\n## {name}, as a ratio to each row's best peer\n\n");
    let names = programs.iter().map(|program| program.name.to_owned());
    head(&mut text, ["row".to_owned(), "best peer".to_owned()].into_iter().chain(names));
    for line in lines {
        let best = format!("{} {:.1} {unit}", line.best.name, line.best_figure.middle);
        let cells: Vec<String> = line.ratios.iter().map(|ratio| cell(ratio.as_ref())).collect();
        text += &format!("| {} | {best} | {} |\n", line.row, cells.join(" | "));
    }
    text
}

/// A line a row: the median of what each program took, for measures that may be next to nothing.
pub(crate) fn amounts(comparison: &Comparison, measure: Measure, results: &Results) -> String {
    let Comparison { programs, lines, .. } = comparison;
    let mut text = format!("\n## {}, in {}\n\n", measure.name, measure.unit);
    let names = programs.iter().map(|program| program.name.to_owned());
    head(&mut text, std::iter::once("row".to_owned()).chain(names));
    for Line { row, .. } in lines {
        let amounts = programs.iter().map(|program| results.figure(*row, program, measure));
        let cells: Vec<String> = amounts
            .map(|figure| figure.map_or("–".to_owned(), |figure| format!("{:.1}", figure.middle)))
            .collect();
        text += &format!("| {row} | {} |\n", cells.join(" | "));
    }
    text
}

/// The geometric means, over all rows and by count of threads.
pub(crate) fn means(comparisons: &[&Comparison]) -> String {
    let mut text = String::from(
        "\n## Geometric means, as a ratio to the best single peer's\n\n\
         Each workload counts once.\n\n",
    );
    let Some(first) = comparisons.first() else { return text };
    let names = first.programs.iter().map(|program| program.name.to_owned());
    head(&mut text, std::iter::once("measure".to_owned()).chain(names));
    for comparison in comparisons {
        let counts = THREADS
            .iter()
            .filter(|&&threads| comparison.lines.iter().any(|line| line.row.threads == threads));
        for threads in std::iter::once(None).chain(counts.map(Some)) {
            let means = comparison.means(threads.copied());
            let cells: Vec<String> = means.iter().map(|(_, mean)| cell(mean.as_ref())).collect();
            let which = threads.map_or("all".to_owned(), |threads| format!("threads: {threads}"));
            text += &format!("| {}, {which} | {} |\n", comparison.name, cells.join(" | "));
        }
    }
    text
}

/// Up to where a row counts as no slower than the best peer.
const LEVEL: f64 = 1.03;
/// Beyond this, a row is a failure.
const TOO_SLOW: f64 = 1.10;
/// What small loops may cost beside the floor.
const ABOVE_FLOOR: f64 = 1.25;

/// What the subject misses: every row above the level by its interval's lower end, and every loop
/// too far above the floor.
pub(crate) fn misses(comparison: &Comparison) -> String {
    let mut text = String::new();
    let subjects = comparison.programs.iter().enumerate();
    for (place, subject) in subjects.filter(|(_, program)| program.role == Role::Subject) {
        let ran: Vec<(String, &Figure)> = comparison
            .lines
            .iter()
            .filter_map(|line| {
                let row = format!("{} (best: {})", line.row, line.best.name);
                Some((row, line.ratios[place].as_ref()?))
            })
            .collect();
        let low = |figure: &Figure| figure.interval().0;
        let above = |limit: f64| ran.iter().filter(move |(_, figure)| low(figure) > limit);
        let by_median = ran.iter().filter(|(_, figure)| figure.middle > LEVEL).count();
        let _infallible = writeln!(
            text,
            "\n## {}: {} of {} rows at most {LEVEL} of the best peer in {} by the interval's lower \
             end, {} by the median; {} above {TOO_SLOW}\n",
            subject.name,
            ran.len() - above(LEVEL).count(),
            ran.len(),
            comparison.name,
            ran.len() - by_median,
            above(TOO_SLOW).count(),
        );
        for (row, figure) in above(LEVEL) {
            text += &format!("- {row}: {}\n", cell(Some(figure)));
        }
        let beside_floor = comparison.between(subject.name, "floor");
        if beside_floor.is_empty() {
            continue;
        }
        let above_floor = beside_floor.iter().filter(|(_, ratio)| low(ratio) > ABOVE_FLOOR).count();
        let _infallible = writeln!(
            text,
            "\nBeside the floor, {above_floor} of {} small loops above {ABOVE_FLOOR}:\n",
            beside_floor.len()
        );
        for (row, ratio) in &beside_floor {
            text += &format!("- {row}: {}\n", cell(Some(ratio)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::tests::comparison;

    #[test]
    fn ratios_are_to_the_best_peer_and_what_does_not_run_has_none() {
        let comparison = comparison(|_, program| match program.name {
            "heapswitch" => 0.5,
            "jemalloc" => 1.0,
            _ => 2.0,
        });
        let text = ratios(&comparison);
        let row = text.lines().find(|line| line.starts_with("| tree, 8 threads |"));
        let two = "2.00 [2.00, 2.00]";
        let expected = format!(
            "| tree, 8 threads | jemalloc 1000.0 ms | 0.50 [0.50, 0.50] | – | {two} | {two} | \
             {two} | 1.00 [1.00, 1.00] | {two} | {two} | – |"
        );
        assert_eq!(row, Some(expected.as_str()));
    }

    #[test]
    fn a_slow_row_is_a_miss_and_a_slow_loop_is_beside_the_floor() {
        let comparison = comparison(|row, program| match (program.name, row.workload.name) {
            ("heapswitch", "tree") => 1.05,
            ("heapswitch", "pairs") => 1.2,
            ("floor", _) => 0.9,
            _ => 1.0,
        });
        let text = misses(&comparison);
        let rows = comparison.lines.len();
        assert!(text.contains(&format!("{} of {rows} rows at most 1.03", rows - 6)), "{text}");
        assert!(text.contains("; 3 above 1.1\n"), "{text}");
        assert!(text.contains("- tree, 2 threads (best: mimalloc2): 1.05 [1.05, 1.05]\n"));
        assert!(text.contains("3 of 18 small loops above 1.25"), "{text}");
        assert!(text.contains("- pairs, 1 thread: 1.33 [1.33, 1.33]\n"));
    }
}

//! The charts: horizontal bars as SVG, which a page can show as it is.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use workloads::THREADS;

use crate::comparison::Comparison;
use crate::programs::{PROGRAMS, Program};
use crate::statistics::Figure;

/// A colour for each of the programs, in their order; told apart by the colour-blind as well.
const COLOURS: [&str; 9] = [
    "#d62728", "#ff9896", "#1f77b4", "#7fb2d9", "#2ca02c", "#9467bd", "#e6a817", "#7f7f7f",
    "#111111",
];
const _: () = assert!(COLOURS.len() == PROGRAMS.len());

const LABEL_WIDTH: f64 = 110.0;
const BARS_WIDTH: f64 = 560.0;
const MARGIN: f64 = 60.0;
const BAR_HEIGHT: f64 = 7.0;
const GAP_HEIGHT: f64 = 9.0;
const HEAD_HEIGHT: f64 = 64.0;
/// Bars end here, with their figure beside them: else one slow row would flatten all others.
const LONGEST_RATIO: f64 = 3.0;

/// Bars that stand together under one name.
struct Group {
    name: String,
    bars: Vec<(&'static Program, Figure)>,
}

/// Draws every chart to the folder: for each count of threads the ratios of each workload, and the
/// geometric means of all.
pub(crate) fn draw(
    folder: &Path,
    by_workload: &[(&str, &Comparison)],
    means: &[&Comparison],
) -> Result<(), String> {
    let write = |name: String, chart: String| {
        let path = folder.join(name);
        fs::write(&path, chart).map_err(|error| format!("{}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for &(file, comparison) in by_workload {
        for &threads in THREADS {
            let groups = groups(comparison, threads);
            if !groups.is_empty() {
                let title = format!(
                    "{} as a ratio to each workload's best peer, threads: {threads}",
                    comparison.name
                );
                write(format!("{file}-{threads}.svg"), chart(&title, &groups))?;
            }
        }
    }
    let groups: Vec<Group> = means
        .iter()
        .map(|comparison| Group {
            name: comparison.name.to_owned(),
            bars: shown(comparison.means(None).into_iter()),
        })
        .collect();
    let title = "Geometric means over all workloads as a ratio to the best single peer's";
    write("means.svg".to_owned(), chart(title, &groups))
}

fn shown(
    bars: impl Iterator<Item = (&'static Program, Option<Figure>)>,
) -> Vec<(&'static Program, Figure)> {
    bars.filter_map(|(program, figure)| Some((program, figure?))).collect()
}

fn groups(comparison: &Comparison, threads: usize) -> Vec<Group> {
    let lines = comparison.lines.iter().filter(|line| line.row.threads == threads);
    let group = |line: &crate::comparison::Line| Group {
        name: line.row.workload.name.to_owned(),
        bars: shown(comparison.programs.iter().copied().zip(line.ratios.iter().cloned())),
    };
    lines.map(group).collect()
}

fn colour(program: &Program) -> &'static str {
    let place = PROGRAMS.iter().position(|known| known.name == program.name);
    place.map_or("#000000", |place| COLOURS[place])
}

fn chart(title: &str, groups: &[Group]) -> String {
    let width = LABEL_WIDTH + BARS_WIDTH + MARGIN;
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEAD_HEIGHT + bars as f64 * BAR_HEIGHT + (groups.len() + 1) as f64 * GAP_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"14\">{title}</text>\n"
    );
    key(&mut svg, groups);
    scale(&mut svg, height);
    let mut y = HEAD_HEIGHT + GAP_HEIGHT;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR_HEIGHT / 2.0 + 4.0;
        let x = LABEL_WIDTH - 6.0;
        let _infallible = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            group.name
        );
        for (program, ratio) in &group.bars {
            bar(&mut svg, y, program, ratio);
            y += BAR_HEIGHT;
        }
        y += GAP_HEIGHT;
    }
    svg + "</svg>\n"
}

/// Which colour is whose, of the programs that are shown.
fn key(svg: &mut String, groups: &[Group]) {
    let mut x = 8.0;
    for program in PROGRAMS {
        let is_shown =
            |group: &Group| group.bars.iter().any(|(shown, _)| shown.name == program.name);
        if groups.iter().any(is_shown) {
            let _infallible = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"37\">{}</text>",
                colour(program),
                x + 13.0,
                program.name
            );
            x += 80.0;
        }
    }
}

fn at(ratio: f64) -> f64 {
    LABEL_WIDTH + ratio.min(LONGEST_RATIO) / LONGEST_RATIO * BARS_WIDTH
}

/// A line at each half; that at 1, the best peer, is heavier.
fn scale(svg: &mut String, height: f64) {
    for halves in 0..=(2.0 * LONGEST_RATIO) as usize {
        let ratio = halves as f64 / 2.0;
        let (x, colour) = (at(ratio), if halves == 2 { "#444444" } else { "#dddddd" });
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD_HEIGHT}\" y2=\"{height}\" \
             stroke=\"{colour}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666666\">{ratio}</text>",
            HEAD_HEIGHT - 6.0
        );
    }
}

/// A bar, and over its end the interval.
fn bar(svg: &mut String, y: f64, program: &Program, ratio: &Figure) {
    let (low, high) = ratio.interval();
    let (width, middle) = (at(ratio.middle) - LABEL_WIDTH, y + BAR_HEIGHT / 2.0 - 0.5);
    let _infallible = writeln!(
        svg,
        "<rect x=\"{LABEL_WIDTH}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\">\
         <title>{} {:.2} [{low:.2}, {high:.2}]</title></rect>\
         <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>",
        BAR_HEIGHT - 1.0,
        colour(program),
        program.name,
        ratio.middle,
        at(low),
        at(high),
    );
    if ratio.middle > LONGEST_RATIO {
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\">{:.1}</text>",
            at(LONGEST_RATIO) + 3.0,
            middle + 3.0,
            ratio.middle
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::tests::comparison;
    use workloads::WORKLOADS;

    #[test]
    fn a_chart_has_a_bar_for_each_program_in_each_row() {
        let comparison = comparison(|_, program| match program.name {
            "system" => 4.0,
            _ => 1.0,
        });
        let groups = groups(&comparison, 2);
        let svg = chart("title", &groups);
        let bars = PROGRAMS.iter().flat_map(|program| {
            WORKLOADS.iter().filter(move |workload| program.runs(workload)).map(move |_| program)
        });
        for program in PROGRAMS {
            let of_program = bars.clone().filter(|other| other.name == program.name).count();
            let drawn = svg.matches(&format!("<title>{} ", program.name)).count();
            assert_eq!(drawn, of_program, "{}", program.name);
        }
        // Each of the system's bars is cut, and says where it would end.
        assert_eq!(svg.matches(">4.0</text>").count(), WORKLOADS.len());
        let longest = format!("width=\"{BARS_WIDTH:.1}\"");
        assert_eq!(svg.matches(&longest).count(), WORKLOADS.len());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        for tag in ["svg", "text", "title"] {
            let (opened, closed) = (format!("<{tag} "), format!("</{tag}>"));
            let opened = svg.matches(&opened).count() + svg.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, svg.matches(&closed).count(), "{tag}");
        }
    }
}

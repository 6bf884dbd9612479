//! The table as a picture: a cell for each node and heap, the darker the more of the heap's pages
//! lie there.

use std::fmt::Write;

use crate::placements::Placements;

const NAME_WIDTH: usize = 260;
const CELL_WIDTH: usize = 84;
const CELL_HEIGHT: usize = 28;

/// A complete SVG file.
pub(crate) fn svg(placements: &Placements) -> String {
    let width = NAME_WIDTH + CELL_WIDTH * placements.nodes.len();
    let height = CELL_HEIGHT * (placements.rows.len() + 1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<title>Pages of heaps by NUMA node</title>\n"
    );
    for (column, node) in placements.nodes.iter().enumerate() {
        text(&mut svg, center_of(column), 0, "middle", "#222", &format!("node {node}"));
    }
    for (index, row) in placements.rows.iter().enumerate() {
        let line = index + 1;
        text(&mut svg, 8, line, "start", "#222", &row.name);
        let Ok(pages) = &row.pages else {
            text(&mut svg, NAME_WIDTH + 8, line, "start", "#a00", "not told");
            continue;
        };
        let all: usize = pages.iter().sum();
        for (column, &count) in pages.iter().enumerate() {
            cell(&mut svg, column, line, count, all);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn center_of(column: usize) -> usize {
    NAME_WIDTH + CELL_WIDTH * column + CELL_WIDTH / 2
}

fn text(svg: &mut String, x: usize, line: usize, anchor: &str, fill: &str, content: &str) {
    let y = CELL_HEIGHT * line + 19;
    // Writing to a string cannot fail; names hold no character that XML reserves.
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{content}</text>"
    );
}

fn cell(svg: &mut String, column: usize, line: usize, count: usize, all: usize) {
    let share = count * 100 / all.max(1);
    // From white to a dark blue.
    let lightness = 97 - share * 62 / 100;
    let (x, y) = (NAME_WIDTH + CELL_WIDTH * column, CELL_HEIGHT * line);
    let (cell_width, cell_height) = (CELL_WIDTH - 2, CELL_HEIGHT - 2);
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{cell_width}\" height=\"{cell_height}\" \
         fill=\"hsl(212, 60%, {lightness}%)\"><title>{count} of {all} pages</title></rect>"
    );
    let fill = if share > 50 { "#fff" } else { "#222" };
    text(svg, center_of(column), line, "middle", fill, &count.to_string());
}

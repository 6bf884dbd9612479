//! The address space over time, as an SVG.
//!
//! A panel a strategy: time goes to the right, addresses upwards. The darker a cell, the more of
//! it was in blocks.

use std::fmt::Write;

use heapswitch::adapt::trace::Trace;

use crate::replay::{Placed, Replayed};

const COLUMNS: usize = 150;
const ROWS: usize = 100;
/// A cell's sides in the drawing.
const CELL: usize = 2;
const LEVELS: [&str; 4] = ["#cfe0f3", "#8db4de", "#4a84c0", "#1d4f8c"];
const MARGIN: usize = 16;
const LABELS: usize = 34;
const PANEL_WIDTH: usize = COLUMNS * CELL + MARGIN;
const PANEL_HEIGHT: usize = ROWS * CELL + LABELS + MARGIN;
const PANELS_ABREAST: usize = 3;

/// How full each cell is, from 0 to 1, by column and row from the lowest address on.
fn fill(placed: &[Placed], events: usize, row_bytes: usize) -> Vec<[f64; ROWS]> {
    let mut cells = vec![[0.0; ROWS]; COLUMNS];
    let column_of = |event: usize| event * COLUMNS / events.max(1);
    for block in placed {
        // A block that lives shorter than a column is drawn in one.
        let columns = column_of(block.from)..(column_of(block.to)).max(column_of(block.from) + 1);
        let end = block.offset + block.bytes;
        for row in block.offset / row_bytes..end.div_ceil(row_bytes) {
            let covered = end.min((row + 1) * row_bytes) - block.offset.max(row * row_bytes);
            for column in columns.clone() {
                if let Some(cell) = cells.get_mut(column).and_then(|column| column.get_mut(row)) {
                    *cell += covered as f64 / row_bytes as f64;
                }
            }
        }
    }
    cells
}

/// The index of a cell's colour, or none where it is empty.
fn level(fill: f64) -> Option<usize> {
    (fill > 0.0).then(|| ((fill * LEVELS.len() as f64) as usize).min(LEVELS.len() - 1))
}

/// One path for each level, of upright bars.
fn paths(cells: &[[f64; ROWS]]) -> [String; LEVELS.len()] {
    let mut paths = [const { String::new() }; LEVELS.len()];
    for (column, cells) in cells.iter().enumerate() {
        let mut row = 0;
        while row < ROWS {
            let colour = level(cells[row]);
            let length = cells[row..].iter().take_while(|&&fill| level(fill) == colour).count();
            if let Some(colour) = colour {
                let (x, y) = (column * CELL, (ROWS - row - length) * CELL);
                write!(paths[colour], "M{x} {y}h{CELL}v{}h-{CELL}z", length * CELL)
                    .expect("a string takes everything");
            }
            row += length;
        }
    }
    paths
}

fn panel(text: &mut String, result: &Replayed, events: usize, place: (usize, usize)) {
    let end = result.placed.iter().map(|block| block.offset + block.bytes).max().unwrap_or(1);
    let row_bytes = end.div_ceil(ROWS).max(1);
    let cells = fill(&result.placed, events, row_bytes);
    let (x, y) = place;
    let (width, height) = (COLUMNS * CELL, ROWS * CELL);
    let mut write = |line: String| text.push_str(&line);
    write(format!("<g transform=\"translate({x} {y})\">\n"));
    write(format!("<text y=\"12\" font-weight=\"bold\">{}</text>\n", result.name));
    write(format!(
        "<text y=\"27\">{:.0} KiB of addresses, peak {:.0} KiB, {} refused</text>\n",
        end as f64 / 1024.0,
        result.peak_bytes as f64 / 1024.0,
        result.refused
    ));
    write(format!("<g transform=\"translate(0 {LABELS})\">\n"));
    write(format!("<rect width=\"{width}\" height=\"{height}\" fill=\"#f6f6f6\"/>\n"));
    for (path, colour) in paths(&cells).iter().zip(LEVELS) {
        if !path.is_empty() {
            write(format!("<path fill=\"{colour}\" d=\"{path}\"/>\n"));
        }
    }
    write("</g>\n</g>\n".to_owned());
}

/// All panels.
pub(crate) fn render(name: &str, trace: &Trace, results: &[Replayed]) -> String {
    let events = trace.events.len();
    let width = PANELS_ABREAST * PANEL_WIDTH + MARGIN;
    let height = results.len().div_ceil(PANELS_ABREAST) * PANEL_HEIGHT + MARGIN + LABELS;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{name}: addresses (upwards) over \
         {events} events (to the right)</text>\n"
    );
    for (index, result) in results.iter().enumerate() {
        let x = MARGIN + index % PANELS_ABREAST * PANEL_WIDTH;
        let y = MARGIN + LABELS + index / PANELS_ABREAST * PANEL_HEIGHT;
        panel(&mut text, result, events, (x, y));
    }
    text.push_str("</svg>\n");
    text
}

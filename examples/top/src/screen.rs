//! The screen: who holds what, drawn from a snapshot.
//!
//! ```text
//!  heapswitch top  19 contexts  41.2 MiB in heaps, at most 55.1 MiB  327 KiB of records ...
//!  queries   ███████░░░░░  57 %  18.2 MiB of 32 MiB
//!  CONTEXT             BYTES  BUDGET              PEAK      ESCAPEES
//!  import 6          9.4 MiB  ███████░░░  59 %    9.4 MiB          0
//! ```

use std::error::Error;

use heapswitch::units::Bytes;
use heapswitch::{AccountReport, AccountUsage};
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};
use ratatui::{Frame, Terminal};

use crate::model::Snapshot;

const BAR_COLUMNS: usize = 12;

/// Draws a snapshot.
pub(crate) fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot) {
    let heights = [
        Constraint::Length(1),
        Constraint::Length(snapshot.groups.len() as u16),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ];
    let [head, groups, _, contexts, foot] = Layout::vertical(heights).areas(frame.area());
    let usage = &snapshot.process.usage;
    let text = format!(
        " heapswitch top  {} contexts  {} in heaps, at most {}  {} of records  {} over budget",
        snapshot.contexts.len(),
        Bytes::of(usage.committed_bytes),
        Bytes::of(usage.peak_bytes),
        Bytes::of(snapshot.metadata_bytes),
        snapshot.over_budget,
    );
    let reversed = Style::new().fg(Color::Black).bg(Color::Gray);
    frame.render_widget(Paragraph::new(text).style(reversed), head);
    let lines: Vec<Line<'_>> = snapshot.groups.iter().map(group_line).collect();
    frame.render_widget(Paragraph::new(lines), groups);
    draw_contexts(frame, contexts, &snapshot.contexts);
    frame.render_widget(
        Paragraph::new(" q: end   p: pause   w: write heap.svg, timeline.svg and flame.svg"),
        foot,
    );
}

fn group_line(group: &AccountReport) -> Line<'_> {
    let mut line = Line::from(format!(" {:<9}", group.name));
    line.extend(bar(&group.usage, group.usage.committed_bytes));
    let limit = group.usage.hard_limit_bytes.unwrap_or(0);
    let (held, limit) = (Bytes::of(group.usage.committed_bytes), Bytes::of(limit));
    line.push_span(format!("  {held} of {limit}"));
    line
}

fn draw_contexts(frame: &mut Frame<'_>, area: Rect, contexts: &[AccountReport]) {
    let rows = contexts.iter().map(|context| {
        let usage = &context.usage;
        Row::new([
            Line::from(format!(" {}", context.name)),
            Line::from(Bytes::of(usage.own_bytes).to_string()).right_aligned(),
            Line::from_iter(bar(usage, usage.committed_bytes)),
            Line::from(Bytes::of(usage.peak_bytes).to_string()).right_aligned(),
            Line::from(usage.escapees.to_string()).right_aligned(),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(BAR_COLUMNS as u16 + 6),
        Constraint::Length(10),
        Constraint::Length(9),
    ];
    let head = Row::new([
        Line::from(" CONTEXT"),
        Line::from("BYTES").right_aligned(),
        Line::from("BUDGET"),
        Line::from("PEAK").right_aligned(),
        Line::from("ESCAPEES").right_aligned(),
    ]);
    let reversed = Style::new().fg(Color::Black).bg(Color::Gray);
    let table = Table::new(rows, widths).header(head.style(reversed)).column_spacing(1);
    frame.render_widget(table, area);
}

/// How much of its budget an account has used; nothing where it has none.
fn bar(usage: &AccountUsage, held_bytes: usize) -> Vec<Span<'static>> {
    let Some(limit_bytes) = usage.hard_limit_bytes.filter(|&limit| limit != 0) else {
        return vec![Span::raw("no budget")];
    };
    let share = held_bytes * 100 / limit_bytes;
    let full = (held_bytes * BAR_COLUMNS).div_ceil(limit_bytes).min(BAR_COLUMNS);
    let color = match share {
        0..70 => Color::Green,
        70..100 => Color::Yellow,
        _ => Color::Red,
    };
    vec![
        Span::styled("█".repeat(full), Style::new().fg(color)),
        Span::styled("░".repeat(BAR_COLUMNS - full), Style::new().fg(Color::DarkGray)),
        Span::raw(format!(" {share:>3} %")),
    ]
}

/// The screen as a terminal of that size would show it, without colours.
pub(crate) fn as_text(
    snapshot: &Snapshot,
    columns: u16,
    lines: u16,
) -> Result<String, Box<dyn Error>> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines))?;
    terminal.draw(|frame| draw(frame, snapshot))?;
    let buffer = terminal.backend().buffer();
    let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let rows = cells.chunks(columns.into()).map(|row| row.concat().trim_end().to_owned());
    Ok(rows.collect::<Vec<_>>().join("\n"))
}

/// Checks that a screen shows the contexts of a snapshot, those with most bytes first, and as many
/// as there is room for.
pub(crate) fn check(text: &str, snapshot: &Snapshot) -> Result<(), String> {
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with(" CONTEXT"))
        .skip(1)
        .take_while(|line| !line.is_empty() && !line.starts_with(" q: end"))
        .collect();
    if rows.len() < 8.min(snapshot.contexts.len()) {
        return Err(format!("only {} contexts are shown", rows.len()));
    }
    for (row, context) in rows.iter().zip(&snapshot.contexts) {
        let (name, bytes) = (context.name.as_str(), Bytes::of(context.usage.own_bytes).to_string());
        if !row.trim_start().starts_with(name) || !row.contains(&bytes) {
            return Err(format!("{name} with {bytes} should stand where there is: {row}"));
        }
    }
    let held: Vec<usize> = snapshot.contexts.iter().map(|one| one.usage.own_bytes).collect();
    if !held.is_sorted_by(|one, next| one >= next) {
        return Err(format!("not in the order of bytes: {held:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;

    fn loaded(steps: usize) -> Load {
        let mut load = Load::new().unwrap();
        (0..steps).for_each(|_| load.step().unwrap());
        load
    }

    #[test]
    fn contexts_stand_in_the_order_of_their_bytes() {
        let mut load = loaded(100);
        for _ in 0..5 {
            (0..20).for_each(|_| load.step().unwrap());
            let snapshot = Snapshot::now(&load);
            let text = as_text(&snapshot, 100, 30).unwrap();
            check(&text, &snapshot).unwrap();
            assert!(snapshot.contexts[0].usage.own_bytes > 1 << 20, "{text}");
            for group in ["queries", "sessions", "imports"] {
                assert!(text.contains(group), "{text}");
            }
        }
    }

    #[test]
    fn a_wrong_order_is_noticed() {
        let mut snapshot = Snapshot::now(&loaded(100));
        let text = as_text(&snapshot, 100, 30).unwrap();
        let last = snapshot.contexts.len() - 1;
        snapshot.contexts.swap(0, last);
        assert!(check(&text, &snapshot).is_err());
        let swapped = as_text(&snapshot, 100, 30).unwrap();
        assert!(check(&swapped, &snapshot).is_err());
    }

    #[test]
    fn escapees_and_budgets_are_shown() {
        let load = loaded(250);
        let snapshot = Snapshot::now(&load);
        let escaped = snapshot.contexts.iter().find(|context| context.usage.escapees != 0);
        let escaped = escaped.expect("a result that outlives its query");
        let text = as_text(&snapshot, 100, 200).unwrap();
        let name = format!(" {} ", escaped.name);
        let row = text.lines().find(|line| line.starts_with(&name)).unwrap();
        assert!(row.ends_with(&escaped.usage.escapees.to_string()), "{row}");
        let share = escaped.usage.committed_bytes * 100 / escaped.usage.hard_limit_bytes.unwrap();
        assert!(row.contains(&format!(" {share:>3} %")), "{row}");
        assert!(load.over_budget() > 0, "some query wanted more than it may have");
    }

    #[test]
    fn a_small_terminal_shows_the_largest() {
        let snapshot = Snapshot::now(&loaded(100));
        let text = as_text(&snapshot, 70, 15).unwrap();
        check(&text, &snapshot).unwrap();
        assert_eq!(text.lines().count(), 15);
    }
}

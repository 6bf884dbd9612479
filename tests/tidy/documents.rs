//! Rules about the pages: what they point to exists, and what they promise is what is checked.

/// The folders at the repository's root whose files pages refer to by path.
const FOLDERS: &[&str] =
    &[".ci", "benches", "docs", "examples", "macros", "preload", "src", "tests"];

/// The commands that a newcomer runs, in README.md's order. `.ci/run` runs both.
pub(crate) const README_COMMANDS: [&str; 2] =
    ["cargo run --release --example index", "cargo test --workspace"];

/// Relative links, and paths in code spans, that lead nowhere. `exists` is asked about paths from
/// the repository's root.
pub(crate) fn dead_references(
    path: &str,
    text: &str,
    exists: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut complaints = Vec::new();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (number, line) in lines_outside_fences(text) {
        for target in link_targets(line) {
            if !exists(&joined(folder, target)) {
                complaints.push(format!("{path}:{number}: the link to `{target}` is dead"));
            }
        }
        for span in code_spans(line).into_iter().filter(|span| is_path(span)) {
            let plain = span.split([':', '*']).next().unwrap_or(span);
            // Up to the folder that holds the pattern, where it is one.
            let plain = if span.contains('*') {
                plain.rsplit_once('/').map_or(plain, |(folder, _)| folder)
            } else {
                plain
            };
            if !exists(&joined("", plain)) && !exists(&joined(folder, plain)) {
                complaints.push(format!("{path}:{number}: there is no `{span}`"));
            }
        }
    }
    complaints
}

/// README.md begins with the two commands, each alone on a line of a `sh` block.
pub(crate) fn wrong_commands(readme: &str) -> Vec<String> {
    let commands = shell_lines(readme);
    if commands.len() >= 2 && commands[..2] == README_COMMANDS {
        return Vec::new();
    }
    let first = &commands[..commands.len().min(2)];
    vec![format!("README.md: its first commands are {first:?} and should be {README_COMMANDS:?}")]
}

/// The first cell of each row of a page's table, and that below `column`; the page is one table.
pub(crate) fn named_cells<'a>(page: &'a str, column: &str) -> Vec<(&'a str, &'a str)> {
    let mut rows = page.lines().map(|line| line.trim_matches('|').split(" | ").map(str::trim));
    let place = rows.next().and_then(|mut header| header.position(|cell| cell == column));
    let place = place.unwrap_or_else(|| panic!("no column is called `{column}`"));
    rows.skip(1)
        .map(|row| {
            let cells: Vec<&str> = row.collect();
            (cells[0], cells[place])
        })
        .collect()
}

/// The first column of the first table whose header's first cell is `layer`.
pub(crate) fn layer_table(page: &str) -> Vec<String> {
    let rows = page.lines().skip_while(|line| !line.starts_with("| layer |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .flat_map(|line| {
            let cell = line.split('|').nth(1).unwrap_or_default();
            code_spans(cell).into_iter().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn lines_outside_fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence
    })
}

fn shell_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut fence = None;
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, Some("sh")) if !line.is_empty() && !line.starts_with('#') => lines.push(line),
            (None, _) => {}
        }
    }
    lines
}

/// Where the line's relative links lead, without `#anchors`.
fn link_targets(line: &str) -> Vec<&str> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let defined = line.split_once("]: ").filter(|_| line.starts_with('[')).map(|(_, to)| to.trim());
    inline
        .chain(defined)
        .filter(|to| !to.contains("://") && !to.starts_with("mailto:"))
        .map(|to| to.split('#').next().unwrap_or_default())
        .filter(|to| !to.is_empty())
        .collect()
}

fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

fn is_path(span: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:*".contains(c);
    let Some((folder, _)) = span.split_once('/') else { return false };
    FOLDERS.contains(&folder) && span.chars().all(is_plain) && !span.contains("::")
}

/// `target` seen from `folder`, without `.` and `..`.
fn joined(folder: &str, target: &str) -> String {
    let mut parts = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(path: &str, text: &str) -> usize {
        let there = ["src", "src/lib.rs", "docs/a.md", "docs", "tests/tidy.rs"];
        dead_references(path, text, |path| there.contains(&path)).len()
    }

    #[test]
    fn a_dead_link_is_reported() {
        assert_eq!(dead("README.md", "[a](docs/b.md) and [b](docs/a.md#c), [c](#d)"), 1);
        assert_eq!(dead("docs/a.md", "[a](../src/lib.rs) [b](src/lib.rs)"), 1);
        assert_eq!(dead("README.md", "[a]: docs/b.md\n[b]: https://a.example/b"), 1);
        assert_eq!(dead("README.md", "```text\n[a](docs/b.md)\n```"), 0);
    }

    #[test]
    fn a_dead_path_is_reported() {
        assert_eq!(dead("README.md", "see `src/gone.rs` and `src/lib.rs:12`"), 1);
        assert_eq!(
            dead("README.md", "see `src/`, `src/*/mod.rs`, `/sys/a`, `a/b`, `cargo test`"),
            0
        );
        assert_eq!(dead("README.md", "see `examples/*.rs`"), 1);
    }

    #[test]
    fn other_commands_are_reported() {
        let [first, second] = README_COMMANDS;
        assert_eq!(wrong_commands(&format!("```sh\n{first}\n{second}\n```")).len(), 0);
        assert_eq!(wrong_commands(&format!("```sh\n{first}\n```\n```sh\n{second}\n```")).len(), 0);
        assert_eq!(wrong_commands(&format!("```sh\n{second}\n{first}\n```")).len(), 1);
        assert_eq!(wrong_commands(&format!("```text\n{first}\n{second}\n```")).len(), 1);
        assert_eq!(wrong_commands("").len(), 1);
    }

    #[test]
    fn a_column_is_read() {
        let page = "| a | b |\n|---|---|\n| `c` | `d` or `e` |\n| f | g |";
        assert_eq!(named_cells(page, "b"), [("`c`", "`d` or `e`"), ("f", "g")]);
    }

    #[test]
    fn the_layer_table_is_read() {
        let page = "a\n| layer | b |\n|---|---|\n| `c`, `d` | `e` |\n| `f` | g |\n\n| `h` |";
        assert_eq!(layer_table(page), ["c", "d", "f"]);
    }
}

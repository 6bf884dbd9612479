//! "Did you mean": the candidates that somebody who wrote a wrong word may have meant.

/// The message that a word is none of the candidates: the near ones if there are any, else all,
/// after the words of `list`.
pub(crate) fn unknown(
    what: &str,
    word: &str,
    list: &str,
    candidates: impl Iterator<Item = &'static str>,
) -> String {
    let candidates: Vec<_> = candidates.collect();
    let near = nearest(word, &candidates);
    if near.is_empty() {
        return format!("unknown {what} `{word}`; {list} {}", listed(candidates.into_iter()));
    }
    format!("unknown {what} `{word}`; did you mean {}?", either(near.into_iter()))
}

/// The candidates with the fewest edits, if that is at most one in three letters; else those of
/// which one contains the other (`thread_local` and `thread`).
pub(crate) fn nearest(word: &str, candidates: &[&'static str]) -> Vec<&'static str> {
    let word = plain(word);
    let edits = |candidate: &str| edits(&word, &plain(candidate));
    let fewest = candidates.iter().map(|candidate| edits(candidate)).min();
    if let Some(fewest) = fewest.filter(|fewest| *fewest <= (word.len() / 3).max(1)) {
        return candidates.iter().copied().filter(|name| edits(name) == fewest).collect();
    }
    let contains = |candidate: &&&str| {
        let candidate = plain(candidate);
        word.len() >= 3 && (candidate.contains(&word) || word.contains(&candidate))
    };
    candidates.iter().filter(contains).copied().collect()
}

/// Without what distinguishes `BitSet` from `bit_set`.
fn plain(word: &str) -> String {
    word.chars().filter(|letter| *letter != '_').flat_map(char::to_lowercase).collect()
}

/// Letters to insert, delete, replace or swap with their neighbour (the optimal string alignment
/// distance, by rows of the usual matrix).
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<_>, Vec<_>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replace = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// "`a`, `b` or `c`"
pub(crate) fn either(names: impl Iterator<Item = &'static str>) -> String {
    let mut quoted: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    match (quoted.pop(), quoted.is_empty()) {
        (Some(last), true) => last,
        (Some(last), false) => format!("{} or {last}", quoted.join(", ")),
        (None, _) => String::new(),
    }
}

/// "`a`, `b`", for a list that goes on.
pub(crate) fn listed(names: impl Iterator<Item = &'static str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["coroutine", "thread", "bit_set", "thread_huge_pages"];

    #[test]
    fn lists_alternatives() {
        assert_eq!(either(["a"].into_iter()), "`a`");
        assert_eq!(either(["a", "b", "c"].into_iter()), "`a`, `b` or `c`");
    }

    #[test]
    fn counts_edits() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("thread", "thraed"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn finds_misspelt_words() {
        assert_eq!(nearest("corutine", NAMES), ["coroutine"]);
        assert_eq!(nearest("BitSet", NAMES), ["bit_set"]);
        assert_eq!(nearest("thraed", NAMES), ["thread"]);
    }

    #[test]
    fn finds_longer_and_shorter_words() {
        assert_eq!(nearest("coroutine_local", NAMES), ["coroutine"]);
        assert_eq!(nearest("huge_pages", NAMES), ["thread_huge_pages"]);
    }

    #[test]
    fn finds_nothing_where_nothing_is_near() {
        assert!(nearest("allocator", NAMES).is_empty());
        assert!(nearest("x", NAMES).is_empty());
    }
}

//! Views of Rust source text in which searching is safe. Each keeps every byte's offset and every
//! line break, so that a place found in a view is a place in the file.

use std::ops::Range;

/// The code alone: comments, and what stands in string and character literals, become blanks.
pub(crate) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut view = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let token = token_at(bytes, at);
        for byte in &mut view[token.blank] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = token.end;
    }
    String::from_utf8_lossy(&view).into_owned()
}

/// [`code`] less everything under `#[cfg(test)]` and every `#[test]` function.
pub(crate) fn shipped_code(text: &str) -> String {
    let mut view = code(text);
    for marker in ["#[cfg(test)]", "#[cfg(all(test", "#[test]"] {
        while let Some(start) = view.find(marker) {
            let end = item_end(&view, start + attribute_length(&view[start..]));
            let blank: String =
                view[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
            view.replace_range(start..end, &blank);
        }
    }
    view
}

/// The line, from 1, of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Where `word` stands in `text` with no letter, digit or underscore on either side.
pub(crate) fn words(text: &str, word: &str) -> Vec<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| {
            let starts_inside = word.starts_with(is_part) && text[..at].ends_with(is_part);
            let ends_inside =
                word.ends_with(is_part) && text[at + word.len()..].starts_with(is_part);
            !starts_inside && !ends_inside
        })
        .collect()
}

/// The end of the group whose opening bracket is at `open`: just behind its partner.
pub(crate) fn group_end(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The end of the item that starts at or after `from`: behind its body, or behind its semicolon.
pub(crate) fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b';' => return at + 1,
            b'{' => return group_end(code, at),
            b'(' | b'[' => at = group_end(code, at),
            _ => at += 1,
        }
    }
    code.len()
}

fn attribute_length(code: &str) -> usize {
    group_end(code, 1)
}

struct Token {
    /// What of it is no code.
    blank: Range<usize>,
    end: usize,
}

fn token_at(bytes: &[u8], at: usize) -> Token {
    let rest = &bytes[at..];
    let is_word_start =
        at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let end = if rest.starts_with(b"//") {
        at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
    } else if rest.starts_with(b"/*") {
        at + block_comment_length(rest)
    } else if is_word_start && let Some(length) = raw_string_length(rest) {
        at + length
    } else if rest[0] == b'"' {
        // The quotes stay: `extern "C" {` is still told from `extern {`.
        let end = at + quoted_length(rest, b'"');
        return Token { blank: at + 1..end.saturating_sub(1).max(at + 1), end };
    } else if let Some(length) = character_length(rest) {
        at + length
    } else {
        return Token { blank: at..at, end: at + 1 };
    };
    Token { blank: at..end, end }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|p| rest.starts_with(p))?.len();
    let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'#'; hashes + 1];
    close[0] = b'"';
    let body = &rest[open + 1..];
    let length = body.windows(close.len()).position(|w| w == close).unwrap_or(body.len());
    Some((open + 1 + length + close.len()).min(rest.len()))
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal; a lifetime is none.
fn character_length(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted_length(rest, b'\''));
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)]);
    let valid = match text {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&rest[1..1 + error.valid_up_to()]).ok()?,
    };
    let first = valid.chars().next()?;
    let close = 1 + first.len_utf8();
    (rest.get(close) == Some(&b'\'')).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let text = "a /* b /* c */ d */ e // f\n\"g\\\"\" 'h' r#\"i\"# '\\'' 'é' &'static j\n";
        let view = code(text);
        assert_eq!(view.len(), text.len());
        assert_eq!(view.matches('\n').count(), 2);
        let left: String = view.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(left, "a e \" \" &'static j");
    }

    #[test]
    fn tests_are_not_shipped() {
        let text =
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { {} } }\n#[cfg(test)]\nuse c;\nd\n";
        assert_eq!(shipped_code(text).split_whitespace().collect::<String>(), "fna(){}d");
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("libc libcx _libc ::libc::", "libc"), vec![0, 19]);
    }
}

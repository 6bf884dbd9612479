//! What the pictures share: the document's frame, text that XML may hold, colours, sizes in words.

use core::fmt::{self, Display, Write};

/// Where something stands in a picture, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) x: usize,
    pub(super) y: usize,
}

/// Begins a document.
pub(super) fn begin(out: &mut impl Write, width: usize, height: usize) -> fmt::Result {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"
    )
}

/// Ends a document.
pub(super) fn end(out: &mut impl Write) -> fmt::Result {
    out.write_str("</svg>\n")
}

/// A line of text.
pub(super) fn text(out: &mut impl Write, place: Place, content: impl Display) -> fmt::Result {
    let Place { x, y } = place;
    write!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"#222\">")?;
    write!(Escaped(out), "{content}")?;
    out.write_str("</text>\n")
}

/// What is told about a part that is pointed at.
pub(super) fn tip(out: &mut impl Write, content: fmt::Arguments<'_>) -> fmt::Result {
    out.write_str("<title>")?;
    Escaped(out).write_fmt(content)?;
    out.write_str("</title>")
}

/// Writes what XML reserves as entities, and what it forbids not at all: names are the program's.
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\n' | '\t' => self.0.write_char(character)?,
                control if control.is_control() => self.0.write_char('\u{fffd}')?,
                '\u{fffe}' | '\u{ffff}' => self.0.write_char('\u{fffd}')?,
                other => self.0.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The hue of an account's colour, in degrees. By the golden angle, so that accounts which were
/// made one after the other look different.
pub(super) fn hue(account: u64) -> u64 {
    (account % 360_000) * 137_508 / 1000 % 360
}

/// Bytes in the largest unit that leaves at least one whole.
pub(super) struct Bytes(pub(super) usize);

impl Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 >> shift != 0) {
            Some(&(shift, unit)) => {
                let tenths = ((self.0 as u128 * 10) >> shift) as u64;
                if tenths.is_multiple_of(10) {
                    write!(formatter, "{} {unit}", tenths / 10)
                } else {
                    write!(formatter, "{}.{} {unit}", tenths / 10, tenths % 10)
                }
            }
            None => write!(formatter, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_reserves_is_escaped() {
        let mut text = String::new();
        tip(&mut text, format_args!("{}", "a<b> & \"c\"\u{1}")).unwrap();
        assert_eq!(text, "<title>a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}</title>");
    }

    #[test]
    fn bytes_have_units() {
        let shown =
            [0, 1023, 1024, 65_536, 1_600_000, 3 << 30].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "64 KiB", "1.5 MiB", "3 GiB"]);
    }

    #[test]
    fn neighbours_differ_in_colour() {
        for account in 0..10_000 {
            let apart = hue(account).abs_diff(hue(account + 1));
            assert!((90..=270).contains(&apart), "{account}: {apart}");
        }
    }
}

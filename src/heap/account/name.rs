//! The name of an account: short, copied, never allocated.

/// The most bytes of a name; a longer one is cut at a character's end.
const MAX_NAME_BYTES: usize = 39;

/// A name of at most 39 bytes, held inline: it can be copied where nothing may be allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContextName {
    length: u8,
    bytes: [u8; MAX_NAME_BYTES],
}

impl Default for ContextName {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl ContextName {
    /// No name.
    pub const EMPTY: Self = Self { length: 0, bytes: [0; MAX_NAME_BYTES] };

    /// The first 39 bytes of `text`, cut at a character's end.
    pub fn new(text: &str) -> Self {
        let mut name = Self::EMPTY;
        for character in text.chars() {
            let start = name.length as usize;
            let Some(place) = name.bytes.get_mut(start..start + character.len_utf8()) else {
                break;
            };
            character.encode_utf8(place);
            name.length += character.len_utf8() as u8;
        }
        name
    }

    /// As ASCII, in constants.
    pub(super) const fn of_bytes<const N: usize>(text: &[u8; N]) -> Self {
        let mut bytes = [0; MAX_NAME_BYTES];
        let (_, place) = bytes.split_at_mut(0);
        let (place, _) = place.split_at_mut(N);
        place.copy_from_slice(text);
        Self { length: N as u8, bytes }
    }

    /// The name. Empty if none was given.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..self.length as usize).unwrap_or(&[]);
        core::str::from_utf8(text).unwrap_or("")
    }
}

impl core::fmt::Display for ContextName {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl core::fmt::Debug for ContextName {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_cut_at_a_characters_end() {
        assert_eq!(ContextName::new("search").as_str(), "search");
        assert_eq!(ContextName::new("").as_str(), "");
        let long = "ä".repeat(30);
        assert_eq!(ContextName::new(&long).as_str(), "ä".repeat(19));
        assert_eq!(ContextName::of_bytes(b"process").as_str(), "process");
    }
}

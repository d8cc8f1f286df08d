//! SentencePiece's map of characters (`precompiled_charsmap` of a model), applied as SentencePiece does: what is longest
//! of what the map has at a place is replaced; a character that it does not have stays.
//!
//! The map is four bytes that tell the size of a trie, the trie as a double array (Darts-clone: units of 32 bits, each an
//! offset to its children, a label, and whether a value follows), and replacements, each ended by a zero byte.

use std::borrow::Cow;

/// A map of characters, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CharsMap {
    units: Vec<u32>,
    /// All replacements, one behind the other.
    replacements: Vec<u8>,
}

impl CharsMap {
    /// Reads a map.
    ///
    /// # Errors
    /// It ends too early.
    pub(crate) fn read(map: &[u8]) -> Result<Self, String> {
        let wrong = || format!("its map of characters ends too early, after {} bytes", map.len());
        let (size, rest) = map.split_first_chunk::<4>().ok_or_else(wrong)?;
        let (trie, replacements) = rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(wrong)?;
        let (units, _) = trie.as_chunks::<4>();
        let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    /// The text with what the map replaces.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match self.longest(rest.as_bytes()) {
                // A prefix that is no whole character is none of a map that SentencePiece made.
                Some((bytes, to)) if rest.is_char_boundary(bytes) => {
                    out.push_str(&to);
                    rest = &rest[bytes..];
                }
                _ => {
                    out.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        out
    }

    /// How many bytes of `text` the longest entry takes that it begins with, and what they become.
    fn longest(&self, text: &[u8]) -> Option<(usize, Cow<'_, str>)> {
        let unit = |at: usize| self.units.get(at).copied();
        let mut at = offset(unit(0)?);
        let mut found = None;
        for (i, byte) in text.iter().enumerate() {
            at ^= usize::from(*byte);
            let Some(here) = unit(at).filter(|u| u & LABEL == u32::from(*byte)) else { break };
            at ^= offset(here);
            if here & HAS_VALUE != 0 {
                found = Some((i + 1, unit(at)? & VALUE));
            }
        }
        let (bytes, value) = found?;
        let to = self.replacements.get(value as usize..)?;
        let to = to.split(|byte| *byte == 0).next().unwrap_or_default();
        Some((bytes, String::from_utf8_lossy(to)))
    }
}

/// A unit's label, with the bit that a value's unit has and no label's.
const LABEL: u32 = 1 << 31 | 0xff;
const HAS_VALUE: u32 = 1 << 8;
const VALUE: u32 = (1 << 31) - 1;

/// From a unit to its children: 22 bits, in units of 256 where bit 9 is set.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_ends_too_early_is_none() {
        assert!(CharsMap::read(&[1, 0]).is_err());
        assert!(CharsMap::read(&[8, 0, 0, 0, 1]).is_err());
    }

    #[test]
    fn an_empty_map_changes_nothing() {
        let map = CharsMap::read(&[0; 4]).expect("a map");
        assert_eq!(map.apply("ﬁne e\u{301}\r\n"), "ﬁne e\u{301}\r\n");
    }
}

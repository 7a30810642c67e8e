//! A look at the footer of a Parquet file before the crate `parquet` reads it.
//!
//! Of parts that it does not know that crate skips each element of a list by itself, and it takes no byte for a
//! boolean: a few bytes can keep it busy for minutes. Format: Thrift's compact protocol,
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

/// Whether all lists together have no more booleans, and each no more elements, than there are bytes. What is damaged
/// in another way is left to the crate to refuse.
pub(super) fn is_plausible(footer: &[u8]) -> bool {
    let mut walk = Walk { rest: footer, booleans: footer.len() };
    walk.value(STRUCT, 0) != Some(false)
}

/// The number of the type of a struct.
const STRUCT: u8 = 12;
/// Deeper than any footer is.
const MOST_DEEP: usize = 64;

struct Walk<'a> {
    rest: &'a [u8],
    /// How many more there may be in lists.
    booleans: usize,
}

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn skip(&mut self, count: u64) -> Option<bool> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(true)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Goes over a value: false if it is not plausible, none if it is damaged.
    fn value(&mut self, kind: u8, depth: usize) -> Option<bool> {
        if depth > MOST_DEEP {
            return Some(false);
        }
        match kind {
            1 | 2 => Some(true),
            3 => self.skip(1),
            4..=6 => self.varint().map(|_| true),
            7 => self.skip(8),
            8 => {
                let len = self.varint()?;
                self.skip(len)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                let element = head & 15;
                // As that crate reads them, without a byte for each: both come to the same places.
                if matches!(element, 1 | 2) {
                    self.booleans =
                        match self.booleans.checked_sub(usize::try_from(count).unwrap_or(usize::MAX)) {
                            Some(left) => left,
                            None => return Some(false),
                        };
                    return Some(true);
                }
                if count > self.rest.len() as u64 {
                    return Some(false);
                }
                (0..count)
                    .try_fold(true, |all, _| if all { self.value(element, depth + 1) } else { Some(false) })
            }
            11 => {
                let count = self.varint()?;
                if count > self.rest.len() as u64 {
                    return Some(false);
                }
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_fold(true, |all, _| {
                    Some(all && self.value(kinds >> 4, depth + 1)? && self.value(kinds & 15, depth + 1)?)
                })
            }
            STRUCT => loop {
                let head = self.byte()?;
                if head == 0 {
                    return Some(true);
                }
                if head >> 4 == 0 {
                    self.varint()?;
                }
                if !self.value(head & 15, depth + 1)? {
                    return Some(false);
                }
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_longer_than_the_footer_are_refused() {
        // Field 1 is a list of so many booleans, or of structs, and the footer ends.
        let two_billion = [0xff, 0xff, 0xff, 0xff, 0x07];
        for kind in [0xf1, 0xf2, 0xfc, 0xf8] {
            assert!(!is_plausible(&[&[0x19, kind], &two_billion[..], &[0]].concat()), "{kind:x}");
        }
        // Lists of lists of few booleans each, which together are more.
        assert!(!is_plausible(&[0x19, 0x39, 0xe1, 0xe1, 0xe1, 0]));
        // A struct within itself for ever.
        assert!(!is_plausible(&[0x1c; 200]));
    }

    #[test]
    fn others_are_left_to_the_crate() {
        // An integer, a text, a list of three integers, a map of one; and the same cut off.
        let whole = [0x15, 2, 0x18, 2, b'a', b'b', 0x19, 0x35, 2, 4, 6, 0x1b, 1, 0x58, 2, 1, b'c', 0];
        for end in [0, 1, 3, 4, 5, whole.len()] {
            assert!(is_plausible(&whole[..end]), "{end}");
        }
    }
}

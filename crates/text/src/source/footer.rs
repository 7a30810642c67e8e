//! A look at the footer of a Parquet file before the crate `parquet` reads it.
//!
//! Of parts that it does not know that crate skips each element of a list by itself, and it takes no byte for a
//! boolean: a few bytes can keep it busy for hours. Format: Thrift's compact protocol,
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

/// Whether all lists together have no more booleans, and each no more elements, than there are bytes. What is damaged
/// in another way is left to the crate to refuse.
pub(super) fn is_plausible(footer: &[u8]) -> bool {
    let mut walk = Walk { rest: footer, booleans: footer.len() };
    walk.value(STRUCT, 0) != Some(false)
}

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

//! A look at what the crate `parquet` is to read in Thrift's encoding: the footer of a file, and the headers
//! of its pages.
//!
//! Of parts that it does not know that crate skips each element of a list by itself, and it takes no byte for
//! a boolean: a few bytes can keep it busy for minutes. Format: Thrift's compact protocol,
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

use std::io::{Read, copy, sink};

use super::layout::Type;

/// Whether a struct of this type that begins here, and has at most `len` bytes, can be read in about as many
/// steps: all its lists together have no more booleans, and each no more elements, than there are bytes, and
/// what is known is of its type. So can one that is cut off outside of a list: the crate says then what is
/// wrong.
pub(super) fn is_plausible(layout: &Type, bytes: impl Read, len: u64) -> bool {
    let mut walk = Walk { bytes, left: len, booleans: len.min(MOST_BOOLEANS) };
    !matches!(walk.value(layout, STRUCT, 0), Err(Stop::Implausible))
}

/// The number of the type of a struct.
const STRUCT: u8 = 12;
/// Deeper than any footer or header is.
const MOST_DEEP: usize = 64;
/// More than a footer has.
const MOST_BOOLEANS: u64 = 1 << 24;

/// Why a struct was not read to its end.
enum Stop {
    /// The bytes end first.
    End,
    /// It is no struct, or one that takes too many steps.
    Implausible,
}

type Result<T> = std::result::Result<T, Stop>;

struct Walk<R> {
    bytes: R,
    /// How many more bytes there are.
    left: u64,
    /// How many more booleans there may be in lists.
    booleans: u64,
}

impl<R: Read> Walk<R> {
    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.left = self.left.checked_sub(1).ok_or(Stop::End)?;
        self.bytes.read_exact(&mut byte).map_err(|_| Stop::End)?;
        Ok(byte[0])
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        self.left = self.left.checked_sub(count).ok_or(Stop::End)?;
        let skipped = copy(&mut (&mut self.bytes).take(count), &mut sink());
        if skipped.is_ok_and(|skipped| skipped == count) { Ok(()) } else { Err(Stop::End) }
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Implausible)
    }

    /// So many elements, of one byte each at least.
    fn count(&mut self) -> Result<u64> {
        let count = self.varint()?;
        if count > self.left { Err(Stop::Implausible) } else { Ok(count) }
    }

    fn value(&mut self, layout: &Type, kind: u8, depth: usize) -> Result<()> {
        if depth > MOST_DEEP || !layout.is(kind) {
            return Err(Stop::Implausible);
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.skip(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let len = self.varint()?;
                self.skip(len)
            }
            9 | 10 => self.list(layout.element(), depth),
            11 => {
                let count = self.count()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.element(&Type::Any, kinds >> 4, depth)?;
                    self.element(&Type::Any, kinds & 15, depth)?;
                }
                Ok(())
            }
            STRUCT => self.fields(layout, depth),
            13 => self.skip(16),
            _ => Err(Stop::Implausible),
        }
    }

    fn fields(&mut self, layout: &Type, depth: usize) -> Result<()> {
        let mut number = 0_i16;
        loop {
            let head = self.byte()?;
            let (step, kind) = (head >> 4, head & 15);
            if kind == 0 {
                return Ok(());
            }
            let next = if step == 0 {
                let zigzag = self.varint()?;
                i16::try_from((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()).ok()
            } else {
                number.checked_add(i16::from(step))
            };
            number = next.ok_or(Stop::Implausible)?;
            self.value(layout.field(number), kind, depth + 1)?;
        }
    }

    fn list(&mut self, layout: &Type, depth: usize) -> Result<()> {
        let head = self.byte()?;
        // Some writers give an empty list no type.
        if head == 0 {
            return Ok(());
        }
        let is_boolean = matches!(head & 15, 1 | 2);
        let count = match head >> 4 {
            15 if is_boolean => self.varint()?,
            15 => self.count()?,
            count => u64::from(count),
        };
        if is_boolean && layout.is(head & 15) {
            return self.take_booleans(count);
        }
        (0..count).try_for_each(|_| self.element(layout, head & 15, depth))
    }

    /// A value in a list or a map.
    fn element(&mut self, layout: &Type, kind: u8, depth: usize) -> Result<()> {
        if matches!(kind, 1 | 2) && layout.is(kind) {
            self.take_booleans(1)
        } else {
            self.value(layout, kind, depth + 1)
        }
    }

    /// As that crate reads them, without a byte for each: both come to the same places.
    fn take_booleans(&mut self, count: u64) -> Result<()> {
        self.booleans = self.booleans.checked_sub(count).ok_or(Stop::Implausible)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::source::layout::{FOOTER, PAGE_HEADER, Type};

    fn is_plausible(bytes: &[u8]) -> bool {
        super::is_plausible(&Type::Any, bytes, bytes.len() as u64)
    }

    #[test]
    fn what_takes_more_steps_than_it_has_bytes_is_refused() {
        // Field 1 is a list of so many booleans, or of structs, and the bytes end.
        let two_billion = [0xff, 0xff, 0xff, 0xff, 0x07];
        for kind in [0xf1, 0xf2, 0xfc, 0xf8] {
            let list = [&[0x19, kind], &two_billion[..], &[0]].concat();
            assert!(!is_plausible(&list), "{kind:x}");
            // The same after an identifier of 16 bytes, and in a file that would have as many.
            assert!(!is_plausible(&[&[0x1d], &[7; 16][..], &list].concat()), "{kind:x}");
            let is_long = matches!(kind, 0xfc | 0xf8);
            assert!(is_long || !super::is_plausible(&Type::Any, &list[..], 1 << 40), "{kind:x}");
        }
        // Lists of lists of few booleans each, which together are more; and a map of booleans.
        assert!(!is_plausible(&[0x19, 0x39, 0xe1, 0xe1, 0xe1, 0]));
        assert!(!is_plausible(&[0x1b, 4, 0x11, 0, 0, 0, 0]));
        // A struct within itself for ever.
        assert!(!is_plausible(&[0x1c; 200]));
        // Types that there are not, a number of eleven bytes, and the field before the first.
        assert!(!is_plausible(&[0x1e, 0]));
        assert!(!is_plausible(&[&[0x15], &[0x80; 10][..], &[0, 0]].concat()));
        assert!(!is_plausible(&[0x05, 0x80, 0x80, 0x08, 2, 0]));
    }

    #[test]
    fn others_are_left_to_the_crate() {
        // An integer, a text, a list of three integers, a map of one, an empty list; and the same cut off.
        let whole =
            [0x15, 2, 0x18, 2, b'a', b'b', 0x19, 0x35, 2, 4, 6, 0x1b, 1, 0x58, 2, 1, b'c', 0x19, 0, 0];
        for end in [0, 1, 3, 4, 5, 7, whole.len()] {
            assert!(is_plausible(&whole[..end]), "{end}");
        }
    }

    /// A field that says to be a text, and is read as a number, would hide what comes next.
    #[test]
    fn what_is_known_has_its_type() {
        let of = |layout: &Type, bytes: &[u8]| super::is_plausible(layout, bytes, bytes.len() as u64);
        let (number, text) = ([0x15, 2, 0], [0x18, 1, b'x', 0]);
        assert!(of(&FOOTER, &number) && of(&PAGE_HEADER, &number));
        assert!(!of(&FOOTER, &text) && !of(&PAGE_HEADER, &text));
        // Its number given in full, field 20 of any type, and a list of the wrong elements.
        assert!(!of(&FOOTER, &[0x08, 2, 1, b'x', 0]));
        assert!(of(&FOOTER, &[0x08, 40, 1, b'x', 0]));
        assert!(of(&FOOTER, &[0x29, 0, 0]) && of(&FOOTER, &[0x29, 0x1c, 0, 0]));
        assert!(!of(&FOOTER, &[0x29, 0x15, 2, 0]) && !of(&FOOTER, &[0x29, 0x11, 0]));
        // Within a group of rows, of a column, of its statistics: a greatest value, and the same as a list.
        let nested = |value: &[u8]| [&[0x49, 0x1c, 0x19, 0x1c, 0x3c, 0xcc][..], value, &[0; 5]].concat();
        assert!(of(&FOOTER, &nested(&[0x18, 1, b'x'])) && !of(&FOOTER, &nested(&[0x19, 0x15, 2])));
    }
}

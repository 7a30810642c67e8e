//! How weights are stored, and what a stored row means.
//!
//! The quantized formats are ggml's. A row is cut into blocks of 32 weights w, each with small integers q, a
//! scale d and in some formats a minimum m, both in half precision:
//!
//! | format | bytes | a block | w |
//! |---|---|---|---|
//! | Q4_0 | 18 | d, nibbles | d·(q − 8) |
//! | Q4_1 | 20 | d, m, nibbles | d·q + m |
//! | Q5_0 | 22 | d, fifth bits, nibbles | d·(q − 16) |
//! | Q5_1 | 24 | d, m, fifth bits, nibbles | d·q + m |
//! | Q8_0 | 34 | d, 32 signed bytes | d·q |
//!
//! Byte i of the nibbles holds weight i in its low half and weight 16 + i in its high half; the fifth bits
//! are one u32, bit i for weight i.

use std::fmt;
use std::ops::Range;

use half::f16;

/// Weights in a block of a quantized format.
pub const WEIGHTS_PER_BLOCK: usize = 32;

/// Format of the weights of a matrix, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// 4 bits a weight and a scale.
    Q4_0,
    /// 4 bits a weight, a scale and a minimum.
    Q4_1,
    /// 5 bits a weight and a scale.
    Q5_0,
    /// 5 bits a weight, a scale and a minimum.
    Q5_1,
    /// 8 bits a weight and a scale.
    Q8_0,
    /// The upper half of single precision: its range, and 8 bits of precision (bfloat16).
    BF16,
}

/// What tells one format from another.
struct Description {
    name: &'static str,
    code: Option<u32>,
    /// Weights in a block, and its bytes.
    block: (usize, usize),
    integers: Integers,
    /// Whether a block has a minimum beside its scale.
    minimum: bool,
}

/// How a block stores its weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Integers {
    /// None: weights are floats.
    Floats,
    /// 0…15.
    Nibbles,
    /// 0…31: nibbles, and the fifth bits apart.
    FiveBits,
    /// −128…127.
    Bytes,
}

impl DataType {
    /// The formats of rwkv.cpp's files, in the order of their codes. [`EVERY`](Self::EVERY) has more.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::F16, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0];

    /// Every format: those of [`ALL`](Self::ALL), and then those that rwkv.cpp's files do not know.
    pub const EVERY: [Self; 8] =
        [Self::F32, Self::F16, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::BF16];

    /// The formats of single numbers, which are multiplied where they lie, as rows.
    pub const ROWS: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// The formats of blocks.
    pub const QUANTIZED: [Self; 5] = [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0];

    #[rustfmt::skip] // a table
    const fn description(self) -> Description {
        use Integers::{Bytes, FiveBits, Floats, Nibbles};
        const fn row(
            name: &'static str, code: Option<u32>, block: (usize, usize), integers: Integers, minimum: bool,
        ) -> Description {
            Description { name, code, block, integers, minimum }
        }
        match self {
            Self::F32  => row("FP32", Some(0), (1, 4),      Floats,   false),
            Self::F16  => row("FP16", Some(1), (1, 2),      Floats,   false),
            Self::Q4_0 => row("Q4_0", Some(2), (WEIGHTS_PER_BLOCK, 18), Nibbles,  false),
            Self::Q4_1 => row("Q4_1", Some(3), (WEIGHTS_PER_BLOCK, 20), Nibbles,  true),
            Self::Q5_0 => row("Q5_0", Some(7), (WEIGHTS_PER_BLOCK, 22), FiveBits, false),
            Self::Q5_1 => row("Q5_1", Some(8), (WEIGHTS_PER_BLOCK, 24), FiveBits, true),
            Self::Q8_0 => row("Q8_0", Some(9), (WEIGHTS_PER_BLOCK, 34), Bytes,    false),
            Self::BF16 => row("BF16", None,    (1, 2),      Floats,   false),
        }
    }

    /// The name that users know the format by: rwkv.cpp's, and for BF16 llama.cpp's.
    pub const fn name(self) -> &'static str {
        self.description().name
    }

    /// The number that stands for the format in rwkv.cpp's files (ggml's own numbers are others); none if
    /// they cannot hold it.
    pub const fn code(self) -> Option<u32> {
        self.description().code
    }

    /// The format that `code` stands for; none for unknown ones and those that rwkv.cpp no longer reads.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.code() == Some(code))
    }

    /// Weights in a block, and the block's bytes. A row is a whole number of blocks.
    pub const fn block(self) -> (usize, usize) {
        self.description().block
    }

    /// Whether rows are stored in blocks of small integers.
    pub const fn is_quantized(self) -> bool {
        !matches!(self.description().integers, Integers::Floats)
    }

    /// Bytes that a row of `cols` weights takes; `None` if that is no whole number of blocks, or more than
    /// memory can hold.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let (weights, bytes) = self.block();
        if !cols.is_multiple_of(weights) {
            return None;
        }
        (cols / weights).checked_mul(bytes)
    }

    /// Whether a block has a minimum beside its scale.
    pub(crate) const fn has_minimum(self) -> bool {
        self.description().minimum
    }

    /// Whether a block has fifth bits.
    pub(crate) const fn has_fifth_bits(self) -> bool {
        matches!(self.description().integers, Integers::FiveBits)
    }

    /// Whether a block's integers are signed bytes.
    pub(crate) const fn has_bytes(self) -> bool {
        matches!(self.description().integers, Integers::Bytes)
    }

    /// The greatest of the stored integers; the least is 0, or of signed bytes −128.
    pub(crate) const fn highest(self) -> u8 {
        match self.description().integers {
            Integers::Floats => 0,
            Integers::Nibbles => 15,
            Integers::FiveBits => 31,
            Integers::Bytes => 127,
        }
    }

    /// What is subtracted from the stored integers: half their range where they are unsigned and there is no
    /// minimum.
    pub(crate) const fn zero_point(self) -> i32 {
        if self.has_minimum() || self.has_bytes() { 0 } else { (self.highest() as i32 + 1) / 2 }
    }

    /// Where in a block the fifth bits are, and where the nibbles or bytes.
    pub(crate) const fn parts(self) -> (Range<usize>, Range<usize>) {
        let fifth = if self.has_minimum() { 4 } else { 2 };
        let integers = if self.has_fifth_bits() { fifth + 4 } else { fifth };
        (fifth..integers, integers..self.block().1)
    }

    /// Writes the weights of a stored row to `out` as f32.
    ///
    /// # Panics
    /// If `row` is not the bytes of `out.len()` weights.
    pub fn decode(self, row: &[u8], out: &mut [f32]) {
        assert_eq!(self.row_bytes(out.len()), Some(row.len()), "{self:?}: a row of {} weights", out.len());
        match self {
            Self::F32 => {
                for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 => {
                for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Self::BF16 => {
                for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
            _ => {
                let blocks = row.chunks_exact(self.block().1);
                for (block, out) in blocks.zip(out.as_chunks_mut::<WEIGHTS_PER_BLOCK>().0) {
                    let Block { scale, minimum, integers } = self.block_of(block);
                    *out = integers.map(|q| f32::from(q) * scale + minimum);
                }
            }
        }
    }

    /// A stored block taken apart.
    pub(crate) fn block_of(self, block: &[u8]) -> Block {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let (fifth, integers) = self.parts();
        let (fifth, stored) = (&block[fifth], &block[integers]);
        let minimum = if self.has_minimum() { half(2) } else { 0.0 };
        let fifth = fifth.try_into().map_or(0, u32::from_le_bytes);
        let (bytes, zero) = (self.has_bytes(), self.zero_point() as i8);
        let integers = std::array::from_fn(|i| {
            if bytes {
                return stored[i].cast_signed();
            }
            let nibble = if i < 16 { stored[i] & 15 } else { stored[i - 16] >> 4 };
            let q = nibble | ((fifth >> i & 1) << 4) as u8;
            q.cast_signed() - zero
        });
        Block { scale: half(0), minimum, integers }
    }
}

/// Calls `$call` with `$FORMAT`, the place in [`DataType::EVERY`] of `$format`, which is quantized, as a
/// constant: so each format has a loop of its own, compiled for it.
macro_rules! with_quantized {
    ($format:expr, $FORMAT:ident => $call:expr) => {
        with_quantized!(@ $format, $FORMAT, $call, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0)
    };
    (@ $format:expr, $FORMAT:ident, $call:expr, $($quantized:ident)*) => {
        match $format {
            $(DataType::$quantized => {
                const $FORMAT: usize = DataType::$quantized as usize;
                $call
            })*
            DataType::F32 | DataType::F16 | DataType::BF16 => unreachable!("{} is not quantized", $format),
        }
    };
}

pub(crate) use with_quantized;

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// 32 weights: `scale · integer + minimum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) scale: f32,
    pub(crate) minimum: f32,
    pub(crate) integers: [i8; WEIGHTS_PER_BLOCK],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rwkv_cpp() {
        let codes: Vec<_> = (0..12).map(|code| DataType::from_code(code).map(DataType::name)).collect();
        let want = "FP32 FP16 Q4_0 Q4_1 - - - Q5_0 Q5_1 Q8_0 - -".split(' ');
        let want: Vec<_> = want.map(|name| (name != "-").then_some(name)).collect();
        assert_eq!(codes, want);
    }

    #[test]
    fn constants_name_the_format_that_they_were_made_of() {
        for format in DataType::QUANTIZED {
            assert_eq!(with_quantized!(format, FORMAT => const { DataType::EVERY[FORMAT] }), format);
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(DataType::F16.row_bytes(3), Some(6));
        assert_eq!(DataType::Q5_1.row_bytes(64), Some(48));
        assert_eq!(DataType::Q4_0.row_bytes(48), None);
        assert_eq!(DataType::F32.row_bytes(usize::MAX), None);
    }

    /// Blocks written down by hand from the table above.
    #[test]
    fn blocks_mean_what_the_table_says() {
        let d = f16::from_f32(0.5).to_le_bytes();
        let m = f16::from_f32(-3.0).to_le_bytes();
        // Weight 0 has 0x4, weight 16 has 0xA; all others 0. Weights 1 and 16 have their fifth bit set.
        let mut nibbles = [0; 16];
        nibbles[0] = 0xA4;
        let fifth = ((1_u32 << 1) | (1 << 16)).to_le_bytes();
        let decoded = |format: DataType, parts: &[&[u8]]| {
            let mut out = [0.0; 32];
            format.decode(&parts.concat(), &mut out);
            // Halves, as whole numbers.
            [out[0], out[1], out[16], out[31]].map(|w| (2.0 * w) as i32)
        };
        assert_eq!(decoded(DataType::Q4_0, &[&d, &nibbles]), [-4, -8, 2, -8]);
        assert_eq!(decoded(DataType::Q4_1, &[&d, &m, &nibbles]), [-2, -6, 4, -6]);
        assert_eq!(decoded(DataType::Q5_0, &[&d, &fifth, &nibbles]), [-12, 0, 10, -16]);
        assert_eq!(decoded(DataType::Q5_1, &[&d, &m, &fifth, &nibbles]), [-2, 10, 20, -6]);
        let mut bytes = [0; 32];
        (bytes[0], bytes[1], bytes[16], bytes[31]) = (0x80, 0x7f, 1, 0xff);
        assert_eq!(decoded(DataType::Q8_0, &[&d, &bytes]), [-128, 127, 1, -1]);
    }
}

//! How the values of a tensor are stored in a model file.

use std::fmt;

use half::f16;

/// A tensor's format, as rwkv.cpp's files number them (ggml's own numbers are others).
///
/// Quantized formats store a row in blocks of 32 values. This version reads and checks files that hold them, and
/// answers with [`Error::Unsupported`](crate::Error::Unsupported) when asked to run one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 4 bits a value, a scale for each block.
    Q4_0,
    /// 4 bits a value, a scale and a minimum for each block.
    Q4_1,
    /// 5 bits a value, a scale for each block.
    Q5_0,
    /// 5 bits a value, a scale and a minimum for each block.
    Q5_1,
    /// 8 bits a value, a scale for each block.
    Q8_0,
}

impl DataType {
    /// Every format, in the order of their codes.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::F16, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0];

    /// Codes of formats that rwkv.cpp once had and no longer reads (Q4_1_O, Q4_2, Q4_3).
    pub(crate) const REMOVED: std::ops::RangeInclusive<u32> = 4..=6;

    /// The number that stands for the format in files.
    pub fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 7,
            Self::Q5_1 => 8,
            Self::Q8_0 => 9,
        }
    }

    /// The format that `code` stands for; none for removed and unknown ones.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.code() == code)
    }

    /// The name that rwkv.cpp and its users know the format by.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "FP32",
            Self::F16 => "FP16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Whether rows are stored in blocks of small integers.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// Values in a block, and the block's bytes. A row is a whole number of blocks.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
        }
    }

    /// Appends the values that `bytes` holds, for the two formats whose values stand alone.
    ///
    /// # Panics
    /// If the format is quantized.
    pub(crate) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F32 => {
                values.extend(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)));
            }
            Self::F16 => {
                values.extend(bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()));
            }
            _ => unreachable!("{self} values do not stand alone"),
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rwkv_cpp() {
        let codes: Vec<_> = (0..12).map(|code| DataType::from_code(code).map(DataType::name)).collect();
        assert_eq!(
            codes,
            [
                Some("FP32"),
                Some("FP16"),
                Some("Q4_0"),
                Some("Q4_1"),
                None,
                None,
                None,
                Some("Q5_0"),
                Some("Q5_1"),
                Some("Q8_0"),
                None,
                None
            ]
        );
    }
}

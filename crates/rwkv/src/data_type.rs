//! How the values of a tensor are stored in a model file.

use std::fmt;

use rwkv_kernels::Format;

/// A tensor's format, as rwkv.cpp's files number them (ggml's own numbers are others).
///
/// Quantized formats store a row in blocks of 32 values.
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

    /// The formats of blocks.
    pub const QUANTIZED: [Self; 5] = [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0];

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
        self.format().block()
    }

    /// The kernels' name of the format.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Q4_0 => Format::Q4_0,
            Self::Q4_1 => Format::Q4_1,
            Self::Q5_0 => Format::Q5_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q8_0 => Format::Q8_0,
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

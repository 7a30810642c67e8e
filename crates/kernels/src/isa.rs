//! Which instruction set the kernels use: found at run time, or forced with `RWKV_ISA`.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;
use std::str::FromStr;

/// A tier of instructions, slowest first.
///
/// A value other than [`Isa::Scalar`] is a promise that this CPU has those instructions: [`Isa::detect`],
/// [`Isa::available`] and [`Isa::from_env`] return nothing else, and every `unsafe` call into a tier's code
/// relies on it through [`Isa::is_supported`], which [`Cpu::new`](crate::Cpu::new) checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the specification of every other tier.
    Scalar,
    /// AVX2 with FMA and F16C: eight floats at a time.
    Avx2,
    /// AVX2 with AVX-VNNI: 32 products of bytes in one instruction.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI: sixteen floats at a time, 64 products of bytes in one instruction.
    Avx512,
    /// AVX-512 with AMX's INT8 and BF16: tiles that multiply 16 × 32 bytes, or bf16 numbers, by 32 × 16. On
    /// Linux.
    Amx,
    /// NEON, which every 64-bit ARM CPU has: four floats at a time.
    Neon,
    /// NEON with the dot product extension: 16 products of bytes in one instruction.
    Dotprod,
    /// NEON with the dot product and the 8-bit matrix extensions: 32 products of bytes in one instruction.
    I8mm,
}

/// The vectors that a tier's element-wise kernels are compiled for. Tiers that differ only in how they
/// multiply matrices share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// `RWKV_ISA` names a tier that does not exist, or that this CPU does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    /// What was asked for.
    pub name: String,
    /// Whether such a tier exists at all.
    pub known: bool,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have = Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        let why = if self.known { "this CPU does not have it" } else { "there is no such tier" };
        write!(f, "RWKV_ISA={}: {why}; this machine can use {have}", self.name)
    }
}

impl std::error::Error for IsaError {}

impl Isa {
    /// Every tier there is, slowest first; those of one kind of CPU stand together.
    pub const ALL: [Self; 8] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Amx,
        Self::Neon,
        Self::Dotprod,
        Self::I8mm,
    ];

    /// The fastest tier that this CPU has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_supported()).unwrap_or(Self::Scalar)
    }

    /// The tiers that this CPU has, slowest first: what a test of a kernel runs over.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
    }

    /// The tier named by `RWKV_ISA`, or the fastest one if it is unset or empty.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var("RWKV_ISA") {
            Ok(name) if !name.is_empty() => {
                let isa: Self = name.parse()?;
                if isa.is_supported() { Ok(isa) } else { Err(IsaError { name, known: true }) }
            }
            _ => Ok(Self::detect()),
        }
    }

    /// Whether this CPU (and its operating system) can run the tier.
    pub fn is_supported(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_supported() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512.is_supported() && amx::is_usable(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => Self::Neon.is_supported() && is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::I8mm => Self::Dotprod.is_supported() && is_aarch64_feature_detected!("i8mm"),
            _ => false, // tiers of other kinds of CPU
        }
    }

    /// The name that `RWKV_ISA` knows the tier by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::I8mm => "i8mm",
        }
    }

    /// The vectors of the tier's element-wise kernels.
    pub(crate) fn vectors(self) -> Vectors {
        match self {
            Self::Scalar => Vectors::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => Vectors::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => Vectors::Avx512,
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::Dotprod | Self::I8mm => Vectors::Neon,
            _ => unreachable!("Cpu::new refuses tiers that this machine lacks"),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError { name: name.to_owned(), known: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_say_what_there_is() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>(), Ok(isa));
        }
        let message = "sse9".parse::<Isa>().expect_err("no such tier").to_string();
        assert!(message.contains("sse9") && message.contains("scalar"), "{message}");
    }

    #[test]
    fn the_detected_tier_is_the_last_available_one() {
        assert_eq!(Isa::available().last(), Some(&Isa::detect()));
        assert_eq!(Isa::available().first(), Some(&Isa::Scalar));
    }
}

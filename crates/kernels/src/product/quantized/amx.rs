//! Panels with AMX: a tile multiplies a panel block by the activations of up to 16 tokens.
//!
//! | tile | rows × bytes | holds |
//! |---|---|---|
//! | 0, 1 | tokens × 64 | dot products, i32: a row is one token and the 16 rows of the panel |
//! | 2, 3 | tokens × 32 | activations, where [`Activations`] has them: a row is one token |
//! | 4, 5 | 8 × 64 | weights: a row is a group, 16 rows × 4 columns |
//!
//! Double-buffered: one block is multiplied while the block before is added to the sums.
//!
//! The integers are exact and the sums are taken as in AVX-512, so both give the same bits. Tokens that do
//! not fill a tile are multiplied with AVX-512.

use std::arch::asm;
#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::mem::offset_of;
use std::ops::Range;

use super::activations::Quantized;
use super::avx512::{self, Dots, add_block, unrolled};
use super::{Activations, PANEL, Panels, put};
use crate::data_type::{WEIGHTS_PER_BLOCK, with_quantized};
use crate::product::tiles::Tiles;
use crate::{DataType, Parts};

/// Rows of a tile of weights: groups of a panel block.
const GROUPS: usize = WEIGHTS_PER_BLOCK / 4;

/// The outputs of the panels `range` for every token.
pub(super) fn task(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { with_quantized!(panels.format(), FORMAT => tokens::<FORMAT>(panels, range, x, y)) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn tokens<const FORMAT: usize>(panels: Panels<'_>, range: Range<usize>, x: &Activations, y: &Parts<'_, f32>) {
    let mut token = 0;
    while token < x.tokens() {
        // SAFETY: the features are this function's, the tier and the rows the caller's promise.
        token += unsafe {
            match x.tokens() - token {
                16.. => in_tiles::<FORMAT, 16>(panels, range.clone(), x, token, y),
                8.. => in_tiles::<FORMAT, 8>(panels, range.clone(), x, token, y),
                _ => avx512::of_width::<FORMAT>(panels, range.clone(), x, token, y),
            }
        };
    }
}

/// All tiles of `T` tokens, from `token` on; returns how many tokens that are.
///
/// # Safety
/// No one else has the outputs, and the CPU has the tier.
#[inline(always)]
unsafe fn in_tiles<const FORMAT: usize, const T: usize>(
    panels: Panels<'_>,
    range: Range<usize>,
    x: &Activations,
    token: usize,
    y: &Parts<'_, f32>,
) -> usize {
    let tokens = (x.tokens() - token) / T * T;
    // SAFETY: passed on.
    unsafe {
        let tiles = TokenTiles::<T>::configure();
        for token in (token..token + tokens).step_by(T) {
            let (_, x) = x.tile(token);
            for panel in range.clone() {
                tile::<FORMAT, T>(&tiles, panels, panel, x.as_chunks::<T>().0, token, y);
            }
        }
    }
    tokens
}

/// The outputs of the tile `x` of `T` tokens, which begins at `token`.
///
/// # Safety
/// No one else has the outputs, and the CPU has the tier.
#[inline(always)]
unsafe fn tile<const FORMAT: usize, const T: usize>(
    tiles: &TokenTiles<T>,
    panels: Panels<'_>,
    panel: usize,
    x: &[[Quantized; T]],
    token: usize,
    y: &Parts<'_, f32>,
) {
    let block_bytes = PANEL * const { DataType::EVERY[FORMAT].block().1 };
    let blocks = x.len();
    let mut dots = [StoredDots([[0; PANEL]; T]), StoredDots([[0; PANEL]; T])];
    // SAFETY: the tier and the outputs are the caller's promise.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        let mut before = None;
        for (b, (block, x)) in panels.panel(panel).chunks_exact(block_bytes).zip(x).enumerate() {
            tiles.multiply(b % 2, x, &avx512::signed_groups::<FORMAT>(block.as_ptr()), &mut dots[b % 2]);
            if let Some((block, x)) = before.replace((block, x)) {
                add_block::<FORMAT, T>(&mut sums, block.as_ptr(), x, &dots[1 - b % 2]);
            }
        }
        if let Some((block, x)) = before {
            add_block::<FORMAT, T>(&mut sums, block.as_ptr(), x, &dots[(blocks - 1) % 2]);
        }
        unrolled!(T, t, {
            let mut lanes = [0.0; PANEL];
            _mm512_storeu_ps(lanes.as_mut_ptr(), sums[t]);
            put(panels, panel, 0, token + t, &lanes, y);
        });
    }
}

/// The dot products of T tokens with the rows of a panel block, as a tile has stored them.
#[repr(align(64))]
struct StoredDots<const T: usize>([[i32; PANEL]; T]);

impl<const T: usize> Dots for StoredDots<T> {
    #[inline(always)]
    unsafe fn of(&self, t: usize, _: &Quantized) -> __m512i {
        // SAFETY: 16 integers are read; the CPU has the tier, by the caller's promise.
        unsafe { _mm512_load_si512(self.0[t].as_ptr().cast()) }
    }
}

/// This thread's tile registers, configured for T tokens until this is dropped.
struct TokenTiles<const T: usize>(#[allow(dead_code)] Tiles); // kept to be dropped

impl<const T: usize> TokenTiles<T> {
    /// # Safety
    /// The CPU has the tier, T is at most 16, and this thread has no other tiles.
    unsafe fn configure() -> Self {
        // SAFETY: passed on.
        Self(unsafe { Tiles::configure([(T, 64), (T, 64), (T, 32), (T, 32), (GROUPS, 64), (GROUPS, 64)]) })
    }

    /// Writes to `into` the dot products of T tokens with the 16 rows of `weights`, in the tiles of `set`, 0
    /// or 1.
    ///
    /// # Safety
    /// The CPU has the tier.
    #[allow(clippy::unused_self)] // whoever has one has configured the tiles
    #[inline(always)]
    unsafe fn multiply(
        &self,
        set: usize,
        x: &[Quantized; T],
        weights: &[__m512i; GROUPS],
        into: &mut StoredDots<T>,
    ) {
        /// The instructions with the numbers of their tiles.
        macro_rules! multiply {
            ($dots:tt, $x:tt, $weights:tt, $integers:ident) => {
                asm!(
                    concat!("tilezero ", $dots),
                    concat!("tileloadd ", $x, ", [{x} + {stride}]"),
                    concat!("tileloadd ", $weights, ", [{weights} + {row}]"),
                    concat!("tdpbssd ", $dots, ", ", $x, ", ", $weights),
                    concat!("tilestored [{into} + {row}], ", $dots),
                    x = in(reg) $integers,
                    stride = in(reg) size_of::<Quantized>(),
                    weights = in(reg) weights,
                    row = in(reg) 64_usize,
                    into = in(reg) into,
                    out($dots) _,
                    out($x) _,
                    out($weights) _,
                    options(nostack, preserves_flags),
                )
            };
        }
        // SAFETY: of `x`, the integers of T tokens are read, 32 bytes each; of `weights`, 8 rows of 64 bytes;
        // and T of 64 are written to `into`. These are the sizes that this has configured.
        unsafe {
            let integers = x.as_ptr().byte_add(offset_of!(Quantized, integers));
            if set == 0 {
                multiply!("tmm0", "tmm2", "tmm4", integers);
            } else {
                multiply!("tmm1", "tmm3", "tmm5", integers);
            }
        }
    }
}

//! The register tile for bf16 products with AVX-512's `vdpbf16ps`: 14 × 32, two terms of the shared index at
//! a time.
//!
//! bf16 is the upper half of an f32: its range, and eight bits of precision. Activations, weights and
//! gradients are rounded to it (to nearest, ties to even; denormals become zero) while they are packed;
//! products are exact in f32 and summed in f32. On a Zen 4 twice the multiply-adds of f32 come out of the same units; on an
//! Intel Xeon of model 207 as many, so that f32 is faster there.

use std::arch::x86_64::{
    __m256bh, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::mem::transmute;

use super::blocked::{Output, Strided, Tile, with_rows};
use super::pack::{Across, Element, SQUARE};
use super::x86::{AHEAD, LINE, load_part16, mask16, tile, transpose16};
use crate::Store;

/// Marks code for CPUs with AVX-512 BF16; [`Precision`](crate::Precision) is what checks for them.
pub(super) struct Avx512Bf16;

/// Two terms, each an f32 rounded to bf16, the first in the lower half.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Pair(u32);

impl Tile for Avx512Bf16 {
    const HEIGHT: usize = 14;
    const WIDTH: usize = 32;
    type Element = Pair;

    fn transpose(square: &[[Pair; SQUARE]; SQUARE], width: usize, out: &mut [Pair]) {
        // SAFETY: the tier is checked where a `Cpu` is made.
        unsafe { transpose16(square, width, out) }
    }

    unsafe fn tile(steps: usize, a: Strided<Pair>, panel: *const Pair, c: Output, store: Store) {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            if a.col == 1 {
                with_rows!(c.rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], bf16<false>(steps, a, panel, c, store));
            } else {
                with_rows!(c.rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], bf16<true>(steps, a, panel, c, store));
            }
        }
    }
}

tile!(
    bf16, "avx512f,avx512bw,avx512bf16", __m512, 16, _mm512_setzero_ps,
    element: Pair, broadcast, load_pairs, add_dot,
    load: _mm512_loadu_ps, load_part16, store: _mm512_storeu_ps, _mm512_mask_storeu_ps, mask: mask16
);

// SAFETY: a transparent u32, any of whose halves are a number.
unsafe impl Element for Pair {
    const TERMS: usize = 2;
    const ZERO: Self = Self(0);

    fn of_terms(_: &[f32]) -> Option<&[Self]> {
        None
    }

    fn pack_along(data: &[f32], out: &mut [Self]) {
        // SAFETY: elements of this type are packed only for this tile, which `Precision` has checked.
        unsafe { pack_along(data, out) }
    }

    fn pack_across(across: Across<'_>, out: &mut [Self]) {
        // SAFETY: as above.
        unsafe { pack_across(across, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_along(data: &[f32], out: &mut [Pair]) {
    assert_eq!(out.len(), data.len().div_ceil(2));
    for (data, out) in data.chunks(16).zip(out.chunks_mut(8)) {
        // SAFETY: both are eight words of four bytes.
        let pairs = unsafe { transmute::<__m256bh, [Pair; 8]>(round(data)) };
        match <&mut [Pair; 8]>::try_from(&mut *out) {
            Ok(out) => *out = pairs, // one store, where a slice of unknown length takes a call
            Err(_) => out.copy_from_slice(&pairs[..out.len()]),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_across(across: Across<'_>, out: &mut [Pair]) {
    // Rounding two vectors puts the second's sixteen numbers above the first's: word 2j of the pairs is word
    // j, word 2j + 1 is word 16 + j.
    let interleave: [u16; 32] = std::array::from_fn(|word| (word / 2 + word % 2 * 16) as u16);
    // SAFETY: both are 32 words of two bytes.
    let interleave = unsafe { transmute::<[u16; 32], __m512i>(interleave) };
    for (step, out) in out.chunks_exact_mut(across.width).enumerate() {
        let (first, second) = (across.term(2 * step), across.term(2 * step + 1));
        for start in (0..out.len()).step_by(16) {
            let left = |row: &[f32]| mask16(row.len().saturating_sub(start));
            // SAFETY: the masks pick what is left of each row and of `out`.
            unsafe {
                let low = load_part16(first.as_ptr().wrapping_add(start), left(first));
                let high = load_part16(second.as_ptr().wrapping_add(start), left(second));
                let words = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                let pairs = _mm512_permutexvar_epi16(interleave, words);
                let place = out.as_mut_ptr().wrapping_add(start).cast();
                _mm512_mask_storeu_epi32(place, mask16(out.len() - start), pairs);
            }
        }
    }
}

/// At most sixteen numbers, rounded; zeros beyond them.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round(data: &[f32]) -> __m256bh {
    // SAFETY: the mask picks the elements of `data`.
    _mm512_cvtneps_pbh(unsafe { load_part16(data.as_ptr(), mask16(data.len())) })
}

#[target_feature(enable = "avx512f")]
fn broadcast(pair: Pair) -> __m512bh {
    // SAFETY: both are 64 bytes of which any bits are valid.
    unsafe { transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.0.cast_signed())) }
}

/// # Safety
/// Sixteen pairs can be read.
#[target_feature(enable = "avx512f")]
unsafe fn load_pairs(data: *const Pair) -> __m512bh {
    // SAFETY: readable by the caller's promise; both are 64 bytes of which any bits are valid.
    unsafe { transmute::<__m512i, __m512bh>(_mm512_loadu_si512(data.cast())) }
}

/// `sum + a₀b₀ + a₁b₁` in each lane.
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_dot(a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
    _mm512_dpbf16_ps(sum, a, b)
}

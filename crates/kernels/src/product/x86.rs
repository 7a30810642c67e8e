//! Tiles of dot products for AVX2 and AVX-512.

// What is not inlined into the `target_feature` functions below is compiled without their instructions.
#![allow(clippy::inline_always)]
// Unaligned loads take pointers to vectors.
#![allow(clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m128, __m128i, __m256, __m256i, __m512, _mm_loadu_si128, _mm256_add_ps, _mm256_castps256_ps128,
    _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_permute2f128_ps,
    _mm256_permutevar8x32_ps, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
    _mm512_add_ps, _mm512_castps512_ps128, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_permute_ps, _mm512_permutexvar_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_storeu_ps,
};
use std::mem::transmute;
use std::ops::Range;

use super::Weights;
use crate::{Format, Parts};

/// Rows of a tile for one token, and for several; tokens of a tile.
const ROWS_ALONE: usize = 8;
const ROWS: usize = 4;

/// A vector of an instruction set.
trait Vector: Copy {
    const LANES: usize;
    /// Tokens of a full tile: ROWS × TOKENS sums and their operands fit the registers.
    const TOKENS: usize;
    /// # Safety
    /// The CPU has the instruction set (as for all of these).
    unsafe fn zero() -> Self;
    /// # Safety
    /// LANES floats can be read, at any alignment.
    unsafe fn load(data: *const f32) -> Self;
    /// # Safety
    /// LANES halves can be read, at any alignment.
    unsafe fn load_half(data: *const u16) -> Self;
    /// `self + a · b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// # Safety
    /// LANES floats can be written, at any alignment.
    unsafe fn store(self, data: *mut f32);
    /// The sums of the lanes of four vectors, in one fixed order: the lanes of each upper half are added to the lower
    /// half's, again and again.
    unsafe fn sum_lanes(vectors: [Self; 4]) -> [f32; 4];
}

// SAFETY (all methods): the callers have the instruction set, by the trait's contract.
impl Vector for __m512 {
    const LANES: usize = 16;
    const TOKENS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(data: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_loadu_ps(data) }
    }

    #[inline(always)]
    unsafe fn load_half(data: *const u16) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(data.cast::<__m256i>())) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn store(self, data: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm512_storeu_ps(data, self) }
    }

    #[inline(always)]
    unsafe fn sum_lanes([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: as above. Each letter stands for a quarter of a vector; halves are added, then quarters.
        unsafe {
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b)); // aabb
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d)); // ccdd
            let abcd =
                _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
            let twos = _mm512_add_ps(abcd, _mm512_permute_ps::<0x4E>(abcd));
            let ones = _mm512_add_ps(twos, _mm512_permute_ps::<0xB1>(twos));
            let first_of_each = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            transmute::<__m128, [f32; 4]>(_mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, ones)))
        }
    }
}

impl Vector for __m256 {
    const LANES: usize = 8;
    const TOKENS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(data: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm256_loadu_ps(data) }
    }

    #[inline(always)]
    unsafe fn load_half(data: *const u16) -> Self {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(data.cast::<__m128i>())) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn store(self, data: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm256_storeu_ps(data, self) }
    }

    #[inline(always)]
    unsafe fn sum_lanes([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: as above. Each letter stands for half of a vector, then for two lanes, then for one.
        unsafe {
            let ab =
                _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
            let cd =
                _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(c, d), _mm256_permute2f128_ps::<0x31>(c, d));
            let acbd = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
            let ones = _mm256_add_ps(acbd, _mm256_shuffle_ps::<0xB1>(acbd, acbd)); // a a c c b b d d
            let first_of_each = _mm256_setr_epi32(0, 4, 2, 6, 0, 0, 0, 0);
            transmute::<__m128, [f32; 4]>(_mm256_castps256_ps128(_mm256_permutevar8x32_ps(
                ones,
                first_of_each,
            )))
        }
    }
}

/// How a row's weights become vectors of f32.
trait Row {
    /// Bytes of one weight.
    const BYTES: usize;
    /// # Safety
    /// `V::LANES` weights can be read at `data`, and the CPU has V's instruction set.
    unsafe fn load<V: Vector>(data: *const u8) -> V;
}

struct F32;
struct F16;

impl Row for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Vector>(data: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load(data.cast()) }
    }
}

impl Row for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Vector>(data: *const u8) -> V {
        // SAFETY: passed on.
        unsafe { V::load_half(data.cast()) }
    }
}

/// The outputs of `rows` for every token, with AVX2 and F16C.
pub(super) fn avx2(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
        // SAFETY: this function has the features.
        unsafe {
            match w.format {
                Format::F32 => block::<__m256, F32>(w, x, rows, y),
                Format::F16 => block::<__m256, F16>(w, x, rows, y),
                _ => unreachable!("quantized weights are multiplied as panels"),
            }
        }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(w, x, rows, y) }
}

/// The outputs of `rows` for every token, with AVX-512.
pub(super) fn avx512(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    fn run(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
        // SAFETY: this function has the features.
        unsafe {
            match w.format {
                Format::F32 => block::<__m512, F32>(w, x, rows, y),
                Format::F16 => block::<__m512, F16>(w, x, rows, y),
                _ => unreachable!("quantized weights are multiplied as panels"),
            }
        }
    }
    // SAFETY: `Cpu::new` has checked that this machine has the tier.
    unsafe { run(w, x, rows, y) }
}

/// # Safety
/// The CPU has V's instruction set, and no one else writes the outputs of `rows`.
#[inline(always)]
unsafe fn block<V: Vector, R: Row>(w: Weights<'_>, x: &[f32], rows: Range<usize>, y: &Parts<'_, f32>) {
    let tokens = x.len() / w.cols;
    let mut token = 0;
    while token < tokens {
        // SAFETY: the rows are within w, the tokens within x; the rest is the caller's promise.
        unsafe {
            if V::TOKENS == 6 && tokens - token >= 6 {
                strip::<V, R, ROWS, 6>(w, x, rows.clone(), token, y);
                token += 6;
            } else if tokens - token >= 2 {
                strip::<V, R, ROWS, 2>(w, x, rows.clone(), token, y);
                token += 2;
            } else {
                strip::<V, R, ROWS_ALONE, 1>(w, x, rows.clone(), token, y);
                token += 1;
            }
        }
    }
}

/// `TOKENS` tokens from `token` on, for all `rows`.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn strip<V: Vector, R: Row, const HEIGHT: usize, const TOKENS: usize>(
    w: Weights<'_>,
    x: &[f32],
    rows: Range<usize>,
    token: usize,
    y: &Parts<'_, f32>,
) {
    let mut row = rows.start;
    while row < rows.end {
        // SAFETY: passed on.
        unsafe {
            if rows.end - row >= HEIGHT {
                tile::<V, R, HEIGHT, TOKENS>(w, x, row, token, y);
                row += HEIGHT;
            } else {
                tile::<V, R, 1, TOKENS>(w, x, row, token, y);
                row += 1;
            }
        }
    }
}

/// # Safety
/// As [`block`]; rows `row..row + HEIGHT` and tokens `token..token + TOKENS` exist.
#[inline(always)]
unsafe fn tile<V: Vector, R: Row, const HEIGHT: usize, const TOKENS: usize>(
    w: Weights<'_>,
    x: &[f32],
    row: usize,
    token: usize,
    y: &Parts<'_, f32>,
) {
    let whole = w.cols - w.cols % V::LANES;
    let w_rows: [&[u8]; HEIGHT] = std::array::from_fn(|i| w.row(row + i));
    let x_rows: [&[f32]; TOKENS] = std::array::from_fn(|j| &x[(token + j) * w.cols..][..w.cols]);
    // SAFETY: every load stays within a row: whole vectors below `whole`, then a copy of the rest padded with zeros,
    // which add nothing to a sum. The instruction set is the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); TOKENS]; HEIGHT];
        for p in (0..whole).step_by(V::LANES) {
            let xs: [V; TOKENS] = std::array::from_fn(|j| V::load(x_rows[j].as_ptr().add(p)));
            for i in 0..HEIGHT {
                let weights = R::load::<V>(w_rows[i].as_ptr().add(p * R::BYTES));
                for j in 0..TOKENS {
                    sums[i][j] = sums[i][j].add_product(weights, xs[j]);
                }
            }
        }
        if whole < w.cols {
            let xs: [V; TOKENS] = std::array::from_fn(|j| {
                let mut rest = [0.0; 16];
                rest[..w.cols - whole].copy_from_slice(&x_rows[j][whole..]);
                V::load(rest.as_ptr())
            });
            for i in 0..HEIGHT {
                let mut rest = [0_u8; 64];
                rest[..(w.cols - whole) * R::BYTES].copy_from_slice(&w_rows[i][whole * R::BYTES..]);
                let weights = R::load::<V>(rest.as_ptr());
                for j in 0..TOKENS {
                    sums[i][j] = sums[i][j].add_product(weights, xs[j]);
                }
            }
        }
        // All registers are stored before any lanes are summed: the sums stay in registers in the loop above only if no
        // later loop is too long to be unrolled.
        let mut lanes = [[[0.0_f32; 16]; TOKENS]; HEIGHT];
        for i in 0..HEIGHT {
            for j in 0..TOKENS {
                sums[i][j].store(lanes[i][j].as_mut_ptr());
            }
        }
        for j in 0..TOKENS {
            let first = (token + j) * w.rows + row;
            for (out, lanes) in y.part(first..first + HEIGHT).chunks_mut(4).zip(lanes.chunks(4)) {
                let mut four = [V::zero(); 4]; // a single row is summed beside three that are zero
                for (vector, lanes) in four.iter_mut().zip(lanes) {
                    *vector = V::load(lanes[j].as_ptr());
                }
                out.copy_from_slice(&V::sum_lanes(four)[..out.len()]);
            }
        }
    }
}

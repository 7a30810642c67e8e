//! Register tiles for AVX2 (6 × 16) and AVX-512 (14 × 32).
//!
//! A tile holds HEIGHT × 2 sums in registers, which leaves two for a row of the panel and one for the
//! broadcast element: 15 of AVX2's 16 registers, 31 of AVX-512's 32. Every step of the shared index is two
//! loads, HEIGHT broadcasts and 2·HEIGHT fused multiply-adds, so the multiply-add units are what limits it.
//!
//! What is multiplied [`AHEAD`] steps later is asked for beforehand, because it comes from the L2 cache: a panel of B
//! fills most of the first, beside which the strips of A pass through it. On an Intel Xeon of model 207 training was 8 %
//! faster for it (RWKV-4, L6 D384).
//!
//! A tile that adds starts from what C holds, so that C's element is one sum in the order of the shared index
//! however many blocks that is cut into.

use std::arch::x86_64::{
    __m256, __m256i, __m512, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm256_cmpgt_epi32, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setr_epi32, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_i32x4, _mm512_storeu_ps, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::blocked::{Output, Strided, Tile, with_rows};
use super::pack::{Element, SQUARE};
use crate::Store;

/// Steps after which what is asked for now is used. 12 and 24 are as fast, 6 is slower.
pub(super) const AHEAD: usize = 24;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

pub(super) struct Avx2;
pub(super) struct Avx512;

impl Tile for Avx2 {
    const HEIGHT: usize = 6;
    const WIDTH: usize = 16;
    type Element = f32;

    unsafe fn tile(steps: usize, a: Strided<f32>, panel: *const f32, c: Output, store: Store) {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            if a.col == 1 {
                with_rows!(c.rows, [1 2 3 4 5 6], avx2<false>(steps, a, panel, c, store));
            } else {
                with_rows!(c.rows, [1 2 3 4 5 6], avx2<true>(steps, a, panel, c, store));
            }
        }
    }
}

impl Tile for Avx512 {
    const HEIGHT: usize = 14;
    const WIDTH: usize = 32;
    type Element = f32;

    fn transpose(square: &[[f32; SQUARE]; SQUARE], width: usize, out: &mut [f32]) {
        // SAFETY: the tier is checked where a `Cpu` is made.
        unsafe { transpose16(square, width, out) }
    }

    unsafe fn tile(steps: usize, a: Strided<f32>, panel: *const f32, c: Output, store: Store) {
        // SAFETY: the caller's promises are passed on.
        unsafe {
            if a.col == 1 {
                with_rows!(c.rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], avx512<false>(steps, a, panel, c, store));
            } else {
                with_rows!(c.rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], avx512<true>(steps, a, panel, c, store));
            }
        }
    }
}

/// One tile's function for one instruction set; they differ in names only.
macro_rules! tile {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal, $zero:ident,
     element: $element:ty, $set1:ident, $load_b:ident, $fmadd:ident,
     load: $load:ident, $load_part:ident, store: $store:ident, $store_part:ident, mask: $mask:ident) => {
        /// # Safety
        /// As [`Tile::tile`], with `c.rows == ROWS`, and ACROSS if the shared index runs across the rows of A.
        #[target_feature(enable = $features)]
        unsafe fn $name<const ROWS: usize, const ACROSS: bool>(
            steps: usize,
            a: Strided<$element>,
            panel: *const $element,
            c: Output,
            store: Store,
        ) {
            let full = c.cols == 2 * $lanes;
            let masks = [$mask(c.cols), $mask(c.cols.saturating_sub($lanes))];
            let mut sums: [[$vector; 2]; ROWS] = [[$zero(); 2]; ROWS];
            if store == Store::Add {
                for i in 0..ROWS {
                    // SAFETY: by the caller, C has `cols` elements in each of its rows; the masks pick those.
                    // A pointer past them is made but not used.
                    sums[i] = unsafe {
                        let row = c.data.wrapping_add(i * c.row);
                        let next = row.wrapping_add($lanes);
                        if full {
                            [$load(row), $load(next)]
                        } else {
                            [$load_part(row, masks[0]), $load_part(next, masks[1])]
                        }
                    };
                }
            }
            let (mut a_p, mut b_p) = (a.data, panel);
            for _ in 0..steps {
                // SAFETY: by the caller, the panel has `steps` rows of two vectors, and A has these elements.
                unsafe {
                    let ahead = b_p.wrapping_add(AHEAD * 2 * $lanes);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    if size_of::<$vector>() == LINE {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add($lanes).cast());
                    }
                    if ACROSS {
                        let ahead = a_p.wrapping_add(AHEAD * a.col);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                    let b = [$load_b(b_p), $load_b(b_p.add($lanes))];
                    for i in 0..ROWS {
                        let a_ip = $set1(*a_p.add(i * a.row));
                        sums[i][0] = $fmadd(a_ip, b[0], sums[i][0]);
                        sums[i][1] = $fmadd(a_ip, b[1], sums[i][1]);
                    }
                    a_p = a_p.wrapping_add(a.col);
                    b_p = b_p.add(2 * $lanes);
                }
            }
            for i in 0..ROWS {
                // SAFETY: as for the loads.
                unsafe {
                    let row = c.data.wrapping_add(i * c.row);
                    let next = row.wrapping_add($lanes);
                    if full {
                        $store(row, sums[i][0]);
                        $store(next, sums[i][1]);
                    } else {
                        $store_part(row, masks[0], sums[i][0]);
                        $store_part(next, masks[1], sums[i][1]);
                    }
                }
            }
        }
    };
}

pub(super) use tile;

tile!(
    avx2, "avx2,fma", __m256, 8, _mm256_setzero_ps,
    element: f32, _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps,
    load: _mm256_loadu_ps, _mm256_maskload_ps, store: _mm256_storeu_ps, _mm256_maskstore_ps, mask: mask8
);
tile!(
    avx512, "avx512f", __m512, 16, _mm512_setzero_ps,
    element: f32, _mm512_set1_ps, _mm512_loadu_ps, _mm512_fmadd_ps,
    load: _mm512_loadu_ps, load_part16, store: _mm512_storeu_ps, _mm512_mask_storeu_ps, mask: mask16
);

/// [`Tile::transpose`] of elements of four bytes: neighbouring rows are interleaved, then pairs, fours and
/// eights of them.
#[target_feature(enable = "avx512f")]
pub(super) fn transpose16<E: Element>(square: &[[E; SQUARE]; SQUARE], width: usize, out: &mut [E]) {
    // SAFETY: 64 bytes each, of any bits.
    let rows = square.each_ref().map(|row| unsafe { _mm512_loadu_si512(row.as_ptr().cast()) });
    let mut pairs = rows;
    for i in (0..SQUARE).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Vector 4i + j: in each lane of 128 bits column j of that lane's four, rows 4i to 4i + 3.
    let mut fours = pairs;
    for i in (0..SQUARE).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        // Lanes 0 and 2 of two vectors, or 1 and 3.
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        let (ab_odd, cd_odd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        let columns = [
            (j, _mm512_shuffle_i32x4::<0x88>(ab, cd)),
            (4 + j, _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd)),
            (8 + j, _mm512_shuffle_i32x4::<0xdd>(ab, cd)),
            (12 + j, _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd)),
        ];
        for (column, values) in columns {
            let Some(out) = out.get_mut(column * width..) else { continue };
            let count = out.len().min(SQUARE);
            // SAFETY: the mask picks elements of `out`, which are four bytes of any bits.
            unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask16(count), values) };
        }
    }
}

/// The lanes below `count`.
#[target_feature(enable = "avx2")]
fn mask8(count: usize) -> __m256i {
    let count = _mm256_set1_epi32(i32::try_from(count).unwrap_or(i32::MAX));
    _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// The lanes below `count`.
#[target_feature(enable = "avx512f")]
pub(super) fn mask16(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// # Safety
/// The lanes of `mask` can be read.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load_part16(data: *const f32, mask: __mmask16) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_ps(mask, data) }
}

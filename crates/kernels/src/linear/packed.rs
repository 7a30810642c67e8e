//! Operands of training's products that are packed apart from the product.
//!
//! Weights are multiplied many times in a step, once by each group of sequences: they are packed once. The
//! operands of `dw` are packed where they are made, while they are in the cache, and multiplied when those of
//! all sequences are there. Packed, an operand takes four bytes for each [`Element`](super::pack::Element):
//! in bf16 half the memory of the f32 it was made from.

use super::ViewMut;
use super::blocked::{self, Block, Packed, STEPS, Tile, each_task, multiply_packed_rows, multiply_rows};
use super::pack::Element;
use crate::isa::Vectors;
use crate::{Cpu, Parts, Precision, Store};

/// Elements of a page.
const PAGE: usize = 1024;

/// What a matrix is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `w` (N, K) of `y = x wᵀ`.
    Forward,
    /// `w` (N, K) of `dx = dy w`.
    Backward,
    /// `x` (T, K) of `dw = dyᵀ x`.
    Input,
    /// `dy` (T, N) of `dw = dyᵀ x`.
    Output,
    /// `x` (T, K) of `y = x wᵀ`, or `dy` (T, N) of `dx = dy w`. In f32 this is the matrix as it is: see
    /// [`is_as_it_is`](Self::is_as_it_is).
    Rows,
}

impl Packing {
    /// Whether a matrix is packed for this purpose as it is: where it is at hand, nothing has to be packed.
    pub fn is_as_it_is(self, cpu: &Cpu) -> bool {
        self == Self::Rows && cpu.precision() == Precision::F32
    }
}

/// Where some rows of a matrix lie in it.
#[derive(Clone, Copy, Debug)]
pub struct RowsOf {
    /// The first of them: an even number.
    pub first: usize,
    /// How many rows the matrix has.
    pub of: usize,
}

/// The terms of one `dw`: `dw (N, k) += Σ dyᵀ x` over pairs of packed operands.
#[derive(Debug)]
pub struct PackedDw<'a> {
    /// Rows of both, `dy` as [`Packing::Output`], `x` as [`Packing::Input`].
    pub terms: Vec<(usize, &'a [f32], &'a [f32])>,
    /// Columns of `dw`.
    pub k: usize,
    /// (N, k), added to, the terms in order.
    pub dw: &'a mut [f32],
}

/// Calls `$f::<Tile>` for the tile of `$cpu`.
macro_rules! with_tile {
    ($cpu:expr, $f:ident $args:tt) => {
        match ($cpu.isa().vectors(), $cpu.precision()) {
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx512, Precision::Bf16) => $f::<super::bf16::Avx512Bf16> $args,
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx512, Precision::F32) => $f::<super::x86::Avx512> $args,
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx2, Precision::F32) => $f::<super::x86::Avx2> $args,
            #[cfg(target_arch = "aarch64")]
            (Vectors::Neon, Precision::F32) => $f::<super::neon::Neon> $args,
            (Vectors::Scalar, Precision::F32) => $f::<super::scalar::Scalar> $args,
            (_, Precision::Bf16) => unreachable!("Cpu refuses bf16 with {} on this machine", $cpu.isa()),
        }
    };
}

/// Words of four bytes that a matrix of (`rows`, `cols`) takes when it is packed.
pub fn packed_len(cpu: &Cpu, packing: Packing, rows: usize, cols: usize) -> usize {
    with_tile!(cpu, len_of(packing, rows, cols))
}

/// Packs some rows of a matrix, in one pass over `data`, rows of `cols`, for several purposes: none of them
/// one of weights. Each `out` is that of the whole matrix, as long as [`packed_len`] says.
///
/// # Panics
/// If the lengths do not fit, `part.first` is odd, or a packing is one of weights.
pub fn pack_rows<'a>(
    cpu: &Cpu,
    data: &[f32],
    cols: usize,
    part: RowsOf,
    outs: impl IntoIterator<Item = (Packing, &'a mut [f32])>,
) {
    let outs: Vec<_> = outs.into_iter().collect();
    assert!(cols > 0 && data.len().is_multiple_of(cols), "{} elements are not rows of {cols}", data.len());
    let rows = data.len() / cols;
    assert!(part.first.is_multiple_of(2) && part.first + rows <= part.of, "{rows} rows at {part:?}");
    // An element of two rows has both of them, unless the last row is alone in it.
    assert!(rows.is_multiple_of(2) || part.first + rows == part.of, "{rows} rows at {part:?}");
    for (packing, out) in &outs {
        assert_eq!(out.len(), packed_len(cpu, *packing, part.of, cols));
        assert!(matches!(packing, Packing::Input | Packing::Output | Packing::Rows), "{packing:?}");
    }
    with_tile!(cpu, pack_rows_with(cpu, data, cols, part, outs));
}

/// `y = x wᵀ`, of `x` (T, `k`) that is packed as [`Packing::Rows`], with `y` (T, `n`), and weights that are
/// packed for [`Packing::Forward`] by a CPU of the same tier and precision.
///
/// # Panics
/// If the lengths do not fit.
pub fn linear_packed(cpu: &Cpu, x: &[f32], w: &[f32], [n, k]: [usize; 2], y: &mut [f32]) {
    assert!(n > 0 && k > 0 && y.len().is_multiple_of(n), "{} outputs are not rows of {n}", y.len());
    assert_eq!(x.len(), packed_len(cpu, Packing::Rows, y.len() / n, k));
    assert_eq!(w.len(), packed_len(cpu, Packing::Forward, n, k));
    with_tile!(cpu, multiply(cpu, k, [x, w], ViewMut { data: y, row: n }, Store::Set));
}

/// `dx = dy w` or `dx += dy w`, of `dy` (T, `n`) that is packed as [`Packing::Rows`], with `dx` (T, `k`), and
/// weights that are packed for [`Packing::Backward`] by a CPU of the same tier and precision.
///
/// # Panics
/// If the lengths do not fit.
pub fn linear_dx_packed(cpu: &Cpu, dy: &[f32], w: &[f32], [n, k]: [usize; 2], dx: &mut [f32], store: Store) {
    assert!(k > 0 && n > 0 && dx.len().is_multiple_of(k), "{} inputs are not rows of {k}", dx.len());
    assert_eq!(dy.len(), packed_len(cpu, Packing::Rows, dx.len() / k, n));
    assert_eq!(w.len(), packed_len(cpu, Packing::Backward, n, k));
    with_tile!(cpu, multiply(cpu, n, [dy, w], ViewMut { data: dx, row: k }, store));
}

/// All of these products, as one loop of the team.
///
/// # Panics
/// If lengths do not fit.
pub fn linear_dw_packed(cpu: &Cpu, products: &mut [PackedDw<'_>]) {
    for PackedDw { terms, k, dw } in &*products {
        assert!(*k > 0 && dw.len().is_multiple_of(*k), "rows of {k}: {}", dw.len());
        for &(rows, dy, x) in terms {
            assert_eq!(dy.len(), packed_len(cpu, Packing::Output, rows, dw.len() / k));
            assert_eq!(x.len(), packed_len(cpu, Packing::Input, rows, *k));
        }
    }
    with_tile!(cpu, add_all(cpu, products));
}

fn len_of<T: Tile>(packing: Packing, rows: usize, cols: usize) -> usize {
    match packing {
        Packing::Rows => rows * cols.div_ceil(T::Element::TERMS),
        packing => blocks::<T>(packing, rows, cols).map(|block| block.len).sum(),
    }
}

/// A block of the shared index of a packed operand.
struct Stretch {
    /// The first term.
    start: usize,
    block: Block,
    /// The first of its words, and how many there are.
    at: usize,
    len: usize,
}

/// The blocks of a matrix that is packed in panels or strips.
fn blocks<T: Tile>(packing: Packing, rows: usize, cols: usize) -> impl Iterator<Item = Stretch> {
    let (shared, others) = if packing == Packing::Forward { (cols, rows) } else { (rows, cols) };
    let mut at = 0;
    blocked::blocks::<T>(shared).map(move |range| {
        let depth = range.len();
        let (block, len) = if packing == Packing::Output {
            let block = Block::new::<T>([others, 1, depth]);
            (block, block.strips(others).len())
        } else {
            let block = Block::new::<T>([1, others, depth]);
            (block, block.panels_b::<T>().len())
        };
        at += len;
        Stretch { start: range.start, block, at: at - len, len }
    })
}

/// Packs many matrices in one loop of the team: (data, columns, out).
///
/// # Panics
/// If the lengths do not fit, or `packing` is not one of weights.
pub fn pack_weights(cpu: &Cpu, packing: Packing, matrices: Vec<(&[f32], usize, &mut [f32])>) {
    for (data, cols, out) in &matrices {
        assert!(*cols > 0 && data.len().is_multiple_of(*cols), "{} are not rows of {cols}", data.len());
        assert_eq!(out.len(), packed_len(cpu, packing, data.len() / cols, *cols));
    }
    with_tile!(cpu, pack_panels(cpu, packing, matrices));
}

fn pack_panels<T: Tile>(cpu: &Cpu, packing: Packing, matrices: Vec<(&[f32], usize, &mut [f32])>) {
    let mut tasks = Vec::new();
    for (data, cols, mut out) in matrices {
        for Stretch { start, block, len, .. } in blocks::<T>(packing, data.len() / cols, cols) {
            let panels = block.panels_b::<T>();
            let (own, rest) = out.split_at_mut(len);
            out = rest;
            let own = own.chunks_mut(len / panels.count().max(1));
            tasks.extend(own.enumerate().map(|(panel, out)| (data, cols, start, panels, panel, out)));
        }
    }
    cpu.for_each(&mut tasks, |(data, cols, start, panels, panel, out)| {
        let out = T::Element::of_words_mut(out);
        match packing {
            Packing::Forward => panels.transposed_panel::<T>(&data[*start..], *cols, *panel, out),
            Packing::Backward => panels.across_panel(&data[*start * *cols..], *cols, *panel, out),
            packing => unreachable!("{packing:?} is no packing of weights"),
        }
    });
}

fn pack_rows_with<T: Tile>(
    cpu: &Cpu,
    data: &[f32],
    cols: usize,
    RowsOf { first, of }: RowsOf,
    outs: Vec<(Packing, &mut [f32])>,
) {
    let outs: Vec<_> =
        outs.into_iter().map(|(packing, out)| (packing, Parts::new(T::Element::of_words_mut(out)))).collect();
    let terms = T::Element::TERMS;
    // Twice as many rows at a time are faster, unless they are whole pages apart and share a set of the L1 cache.
    let steps = if cols.is_multiple_of(PAGE) { STEPS } else { 2 * STEPS };
    cpu.run_blocks(data.len() / cols, steps * terms, |rows| {
        let data = &data[rows.start * cols..rows.end * cols];
        let rows = first + rows.start..first + rows.end;
        for (packing, out) in &outs {
            if *packing == Packing::Rows {
                let elements = cols.div_ceil(terms);
                // SAFETY: each block of rows takes its own.
                let out = unsafe { out.part(rows.start * elements..rows.end * elements) };
                for (row, out) in data.chunks_exact(cols).zip(out.chunks_exact_mut(elements)) {
                    T::Element::pack_along(row, out);
                }
                continue;
            }
            for Stretch { start, block, at, .. } in blocks::<T>(*packing, of, cols) {
                let panels =
                    if *packing == Packing::Output { block.strips(cols) } else { block.panels_b::<T>() };
                let own = rows.start.max(start)..rows.end.min(start + block.depth);
                if own.is_empty() {
                    continue;
                }
                let steps = (own.start - start) / terms..(own.end - start).div_ceil(terms);
                let data = &data[(own.start - rows.start) * cols..];
                // SAFETY: each block of rows takes its own steps of every panel.
                unsafe { panels.across(data, cols, steps, (out, at)) };
            }
        }
    });
}

/// `C (m, n) (+)= A B` with `k` terms, of packed operands; `c` has rows of n.
fn multiply<T: Tile>(cpu: &Cpu, k: usize, [a, b]: [&[f32]; 2], mut c: ViewMut<'_>, store: Store) {
    let n = c.row;
    let m = c.data.len() / n;
    if m == 0 {
        return;
    }
    let elements = k.div_ceil(T::Element::TERMS);
    for Stretch { start, block: Block { depth, .. }, at, len } in blocks::<T>(Packing::Backward, k, n) {
        let block = Block::new::<T>([m, n, depth]);
        let b = T::Element::of_words(&b[at..at + len]);
        let a = &T::Element::of_words(a)[start / T::Element::TERMS..];
        let store = if start == 0 { store } else { Store::Add };
        each_task(cpu, block, &mut c, |rows, c| {
            multiply_packed_rows::<T>(
                block,
                rows.len(),
                (&a[rows.start * elements..], elements),
                b,
                c,
                store,
            );
        });
    }
}

fn add_all<T: Tile>(cpu: &Cpu, products: &mut [PackedDw<'_>]) {
    let mut tasks = Vec::new();
    for PackedDw { terms, k, dw } in products {
        let n = dw.len() / *k;
        let depth = terms.iter().map(|&(rows, _, _)| rows).sum();
        let mut rest = &mut **dw;
        for rows in Block::new::<T>([n, *k, depth]).tasks(cpu.threads()) {
            let (dw, after) = rest.split_at_mut(rows.len() * *k);
            rest = after;
            tasks.push((&*terms, n, *k, rows, dw));
        }
    }
    cpu.for_each(&mut tasks, |(terms, n, k, rows, dw)| {
        let mut c = ViewMut { data: dw, row: *k };
        for &(depth, dy, x) in *terms {
            let of_dy = blocks::<T>(Packing::Output, depth, *n);
            for (a, b) in of_dy.zip(blocks::<T>(Packing::Input, depth, *k)) {
                let block = Block::new::<T>([*n, *k, a.block.depth]);
                let dy = &T::Element::of_words(&dy[a.at..a.at + a.len])[block.strips_of(rows)];
                let x = T::Element::of_words(&x[b.at..b.at + b.len]);
                multiply_rows::<T>(block, rows.len(), Packed::Strips(dy), x, &mut c, Store::Add);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;
    use crate::{Isa, linear, linear_dw, linear_dx};

    fn every_cpu(body: impl Fn(&str, &Cpu)) {
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                if precision.is_supported(isa) {
                    let cpu = Cpu::new(isa, 2).with_precision(precision);
                    body(&format!("{isa} {precision:?}"), &cpu);
                }
            }
        }
    }

    fn packed(cpu: &Cpu, packing: Packing, data: &[f32], cols: usize) -> Vec<f32> {
        let rows = data.len() / cols;
        let mut out = vec![f32::NAN; packed_len(cpu, packing, rows, cols)];
        match packing {
            Packing::Forward | Packing::Backward => {
                pack_weights(cpu, packing, vec![(data, cols, &mut out)]);
            }
            _ => pack_rows(cpu, data, cols, RowsOf { first: 0, of: rows }, [(packing, &mut *out)]),
        }
        out
    }

    /// In parts and for two purposes at once, a matrix is packed as it is whole and for one.
    #[test]
    fn parts_of_a_matrix_go_to_their_place() {
        let bits = |words: &[f32]| words.iter().map(|word| word.to_bits()).collect::<Vec<_>>();
        for (rows, cols) in [(1, 1), (9, 40), (38, 17), (801, 3), (20, 900)] {
            let data = values(1, rows * cols, 1.0);
            every_cpu(|name, cpu| {
                for across in [Packing::Input, Packing::Output] {
                    let packings = [Packing::Rows, across];
                    let want = packings.map(|packing| packed(cpu, packing, &data, cols));
                    let mut got = want.clone().map(|words| vec![0.0; words.len()]);
                    for first in (0..rows).step_by(6) {
                        let part = &data[first * cols..rows.min(first + 6) * cols];
                        let [along, across] = got.each_mut();
                        let outs = [(packings[0], &mut **along), (packings[1], &mut **across)];
                        pack_rows(cpu, part, cols, RowsOf { first, of: rows }, outs);
                    }
                    for (got, want) in got.iter().zip(&want) {
                        assert!(bits(got) == bits(want), "{name} {across:?} {rows} {cols}");
                    }
                }
            });
        }
    }

    /// The bits of the products that pack for themselves; scalar code sums a block apart, and differs in the
    /// last ones.
    fn assert_same(what: &str, cpu: &Cpu, got: &[f32], want: &[f32]) {
        if cpu.isa() == Isa::Scalar {
            crate::testing::assert_close(what, 1e-5, got, &crate::testing::f64s(want));
        } else {
            assert!(got == want, "{what}");
        }
    }

    #[test]
    fn packed_operands_give_the_same_products() {
        for (t, k, n) in [(1, 1, 1), (5, 7, 3), (15, 33, 17), (64, 128, 65), (1, 600, 96), (37, 40, 530)] {
            let (x, w, dy) = (values(1, t * k, 1.0), values(2, n * k, 1.0), values(3, t * n, 1.0));
            every_cpu(|name, cpu| {
                let name = |what: &str| format!("{name} {what} t={t} k={k} n={n}");
                let (mut y, mut y_want) = (vec![f32::NAN; t * n], vec![f32::NAN; t * n]);
                linear(cpu, &x, &w, k, &mut y_want);
                let packed_x = packed(cpu, Packing::Rows, &x, k);
                linear_packed(cpu, &packed_x, &packed(cpu, Packing::Forward, &w, k), [n, k], &mut y);
                assert_same(&name("y"), cpu, &y, &y_want);
                let w = (packed(cpu, Packing::Backward, &w, k), &w);
                let packed_dy = packed(cpu, Packing::Rows, &dy, n);
                for store in [Store::Set, Store::Add] {
                    let (mut dx, mut dx_want) = (vec![0.5; t * k], vec![0.5; t * k]);
                    linear_dx(cpu, &dy, w.1, k, &mut dx_want, store);
                    linear_dx_packed(cpu, &packed_dy, &w.0, [n, k], &mut dx, store);
                    assert_same(&name("dx"), cpu, &dx, &dx_want);
                }
            });
        }
    }

    /// Several matrices, and terms of several lengths, one of them of more than one block.
    #[test]
    fn gradients_of_weights_are_sums_over_all_terms_in_order() {
        let shapes = [(3, 5), (65, 128), (33, 17)];
        let rows = [1, 6, 801, 0, 31];
        let data = |n: usize, k: usize| -> Vec<_> {
            let of = |(i, &t): (usize, &usize)| (t, values(i, t * n, 1.0), values(9 + i, t * k, 1.0));
            rows.iter().enumerate().map(of).collect()
        };
        every_cpu(|name, cpu| {
            let operands: Vec<_> = shapes
                .map(|(n, k)| {
                    let pack = |(t, dy, x): (usize, Vec<f32>, Vec<f32>)| {
                        (t, packed(cpu, Packing::Output, &dy, n), packed(cpu, Packing::Input, &x, k))
                    };
                    data(n, k).into_iter().map(pack).collect::<Vec<_>>()
                })
                .into();
            let run = |cpu: &Cpu| {
                let mut dws = shapes.map(|(n, k)| vec![0.25; n * k]);
                let mut products: Vec<_> = dws
                    .iter_mut()
                    .zip(&operands)
                    .zip(shapes)
                    .map(|((dw, terms), (_, k))| {
                        let terms =
                            terms.iter().map(|(t, dy, x)| (*t, dy.as_slice(), x.as_slice())).collect();
                        PackedDw { terms, k, dw }
                    })
                    .collect();
                linear_dw_packed(cpu, &mut products);
                dws
            };
            let got = run(cpu);
            for ((got, (n, k)), index) in got.iter().zip(shapes).zip(0..) {
                let mut want = vec![0.25; n * k];
                for (_, dy, x) in data(n, k) {
                    linear_dw(cpu, &dy, &x, k, &mut want);
                }
                assert_same(&format!("{name}, dw {index}"), cpu, got, &want);
            }
            let three = Cpu::new(cpu.isa(), 3).with_precision(cpu.precision());
            assert!(got == run(&three), "{name}: three threads");
        });
    }
}

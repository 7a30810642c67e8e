//! Muon: steps whose singular values are all alike (Keller Jordan et al., 2024,
//! <https://kellerjordan.github.io/posts/muon/>), with rows that are all as long as each other (NorMuon: Li
//! et al., 2025, <https://arxiv.org/abs/2510.05491>).
//!
//! ```text
//! m ← β·m + (1 − β)·g
//! u = β·m + (1 − β)·g                                     (Nesterov's momentum)
//! O = NewtonSchulz(u/‖u‖)                                 (about U Vᵀ, if u = U S Vᵀ)
//! v ← β₂·v + (1 − β₂)·mean(O²)                            (of each row)
//! R = O / √(v/(1 − β₂ᵗ)), times what makes ‖R‖ = ‖O‖
//! W ← W·(1 − lr·weight_decay) − rate·√max(1, rows/cols)·R
//! ```
//!
//! A gradient's few largest directions hide the many small ones; here all of them learn at the same rate. It is
//! for matrices that map activations to activations: embedding, head and vectors stay with AdamW. It keeps a moment of
//! each element and one of each row, where AdamW keeps two of each element.

use std::sync::{Mutex, PoisonError};

use rwkv_core::params::ParamSpec;
use rwkv_core::store::Parameters;
use rwkv_kernels::{Cpu, Store, gram_of_columns, gram_of_rows, linear, linear_dx, sum_of_squares};

use super::{AdamW, Moment, Optimizer, Step, clip};
use crate::options::TrainOptions;

/// Decay rate of the mean of the gradients, β.
const MOMENTUM: f32 = 0.95;

/// Decay rate of the mean of a row's squares, β₂.
const ROW_MOMENTUM: f32 = 0.95;

/// Added to the root of a row's mean square.
const EPS: f32 = 1e-8;

/// Of the iterations `X ← a·X + (b·A + c·A²)·X` with `A = X Xᵀ`: a, b and c.
///
/// Each polynomial is the one nearest to 1 on the interval in which singular values that were from 0.01 to 1 at the
/// beginning can be by then; but the first begins at 0.02 (Amsel et al., "The Polar Express", 2025,
/// <https://arxiv.org/abs/2505.16932>, algorithm 1). Three bring them between 0.72 and 1.28; of Jordan's, which are all the
/// same, five do.
const POLYNOMIALS: [[f32; 3]; 3] = [
    [8.019_541, -22.998_686, 16.898_973],
    [3.641_433, -2.725_431, 0.536_945],
    [2.668_359, -1.982_937, 0.453_258],
];

/// Muon for the matrices between activations, AdamW for the rest.
#[derive(Debug)]
pub struct Muon {
    /// It keeps the moments of all, and moves what is left to it.
    rest: AdamW,
    /// In the layout's order: whether it moves a parameter, and of how many columns.
    hidden: Vec<Option<usize>>,
    rate: f64,
    weight_decay: f64,
    grad_clip: f64,
    scratch: Mutex<Vec<Scratch>>,
}

impl Muon {
    /// For all trained parameters.
    pub fn new(options: &TrainOptions, params: &Parameters) -> Self {
        let specs = params.layout().specs().iter().enumerate();
        let hidden =
            specs.map(|(index, spec)| (params.is_trained(index) && spec.is_hidden).then_some(spec.cols));
        let hidden: Vec<_> = hidden.collect();
        let mut rest = AdamW::of(options, params, |spec| !spec.is_hidden);
        let [means, squares] = rest.moments_mut() else { unreachable!("AdamW has two moments") };
        for ((mean, square), cols) in means.values.iter().zip(&mut squares.values).zip(&hidden) {
            if let Some(cols) = cols {
                *square = vec![0.0; mean.len() / cols];
            }
        }
        Self {
            rest,
            hidden,
            rate: options.matrix_learning_rate.unwrap_or_default(),
            weight_decay: options.weight_decay,
            grad_clip: options.grad_clip,
            scratch: Mutex::default(),
        }
    }

    /// How many moments it keeps of a parameter, but for those of rows.
    pub(super) fn moments_of(spec: &ParamSpec) -> usize {
        if spec.is_hidden { 1 } else { AdamW::moments_of(spec) }
    }
}

impl Optimizer for Muon {
    fn step(&mut self, cpu: &Cpu, step: &Step, params: &mut Parameters, gradients: &[Vec<f32>]) {
        let numbers = Numbers {
            grad_scale: clip(step.norm, self.grad_clip) as f32,
            keep: (1.0 - step.learning_rate * self.weight_decay) as f32,
            rate: (self.rate * step.learning_rate / step.peak) as f32,
            row_correction: (1.0 - libm::pow(f64::from(ROW_MOMENTUM), step.number as f64)) as f32,
        };
        let [means, squares] = self.rest.moments_mut() else { unreachable!("AdamW has two moments") };
        let moments = means.values.iter_mut().zip(&mut squares.values);
        let all = params.raws_mut().into_iter().zip(gradients).zip(moments).zip(&self.hidden);
        let mut matrices = Vec::new();
        for (((param, gradient), (mean, squares)), cols) in all {
            matrices.extend(cols.map(|cols| Matrix { cols, param, gradient, mean, squares }));
        }
        muon(cpu, &numbers, matrices, &self.scratch);
        self.rest.step(cpu, step, params, gradients);
    }

    fn moments(&self) -> &[Moment] {
        self.rest.moments()
    }

    fn moments_mut(&mut self) -> &mut [Moment] {
        self.rest.moments_mut()
    }
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The gradients are multiplied by this first.
    grad_scale: f32,
    /// What matrices are multiplied by: 1 minus the weight decay of this step.
    keep: f32,
    /// The learning rate of matrices.
    rate: f32,
    /// What the moments of rows, which begin at zero, have of their mean by this step.
    row_correction: f32,
}

/// One matrix of a step: (rows, cols).
struct Matrix<'a> {
    cols: usize,
    param: &'a mut [f32],
    gradient: &'a [f32],
    mean: &'a mut [f32],
    /// Of each row.
    squares: &'a mut [f32],
}

/// Memory for one matrix at a time.
#[derive(Debug, Default)]
struct Scratch {
    /// X, and what becomes of it: (rows, cols).
    x: [Vec<f32>; 2],
    /// A, and b·A + c·A² + a·I: (n, n), where n is the smaller side.
    squares: [Vec<f32>; 2],
    rows: Vec<f32>,
}

/// Makes one step of each matrix, one after the other on each thread: results do not depend on the number of
/// threads, and no thread waits for another within a matrix.
fn muon(cpu: &Cpu, step: &Numbers, matrices: Vec<Matrix<'_>>, pool: &Mutex<Vec<Scratch>>) {
    let alone = Cpu::new(cpu.isa(), 1).with_precision(cpu.precision());
    let matrices: Vec<_> = matrices.into_iter().map(Mutex::new).collect();
    let pool = || pool.lock().unwrap_or_else(PoisonError::into_inner);
    cpu.run(matrices.len(), |index| {
        let mut scratch = pool().pop().unwrap_or_default();
        // Nobody else has this index.
        let mut matrix = matrices[index].lock().unwrap_or_else(PoisonError::into_inner);
        matrix.step(&alone, step, &mut scratch);
        pool().push(scratch);
    });
}

impl Matrix<'_> {
    fn step(&mut self, cpu: &Cpu, step: &Numbers, scratch: &mut Scratch) {
        let rows = self.param.len() / self.cols;
        let x = &mut scratch.x[0];
        x.clear();
        x.extend(self.mean.iter_mut().zip(self.gradient).map(|(mean, gradient)| {
            let new = (1.0 - MOMENTUM) * step.grad_scale * gradient;
            *mean = MOMENTUM * *mean + new;
            MOMENTUM * *mean + new
        }));
        let norm = sum_of_squares(cpu, x).sqrt();
        // A gradient of zeros has no direction.
        let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        for x in x.iter_mut() {
            *x *= scale;
        }
        orthogonalize(cpu, rows, self.cols, scratch);
        let x = &scratch.x[0];
        let length = sum_of_squares(cpu, x).sqrt();
        // What the rows are multiplied by, and the sum of squares that they then have.
        let (scales, mut sum) = (&mut scratch.rows, 0.0);
        scales.clear();
        for (x, square) in x.chunks_exact(self.cols).zip(&mut *self.squares) {
            let squares = sum_of_squares(cpu, x);
            *square = ROW_MOMENTUM * *square + (1.0 - ROW_MOMENTUM) * (squares / self.cols as f64) as f32;
            let scale = 1.0 / ((*square / step.row_correction).sqrt() + EPS);
            sum += squares * f64::from(scale).powi(2);
            scales.push(scale);
        }
        let scale = if sum > 0.0 { (length / sum.sqrt()) as f32 } else { 0.0 };
        let rate = step.rate * (rows as f32 / self.cols as f32).max(1.0).sqrt() * scale;
        let params = self.param.chunks_exact_mut(self.cols);
        for ((param, x), scale) in params.zip(x.chunks_exact(self.cols)).zip(scales) {
            let rate = rate * *scale;
            for (param, x) in param.iter_mut().zip(x) {
                *param = *param * step.keep - rate * x;
            }
        }
    }
}

/// Brings the singular values of `scratch.x[0]`, (rows, cols) and of norm 1, near 1.
fn orthogonalize(cpu: &Cpu, rows: usize, cols: usize, scratch: &mut Scratch) {
    let n = rows.min(cols);
    let Scratch { x: [x, next], squares: [square, polynomial], .. } = scratch;
    next.resize(x.len(), 0.0);
    for squares in [&mut *square, &mut *polynomial] {
        squares.resize(n * n, 0.0);
    }
    for [a, b, c] in POLYNOMIALS {
        if rows <= cols {
            gram_of_rows(cpu, x, cols, square); // X Xᵀ
        } else {
            gram_of_columns(cpu, x, cols, square); // Xᵀ X
        }
        gram_of_rows(cpu, square, n, polynomial); // A² = A Aᵀ: A is symmetric
        polynomial.iter_mut().zip(&*square).for_each(|(p, x)| *p = b * x + c * *p);
        for on_diagonal in polynomial.iter_mut().step_by(n + 1) {
            *on_diagonal += a;
        }
        if rows <= cols {
            linear_dx(cpu, polynomial, x, cols, next, Store::Set); // P X
        } else {
            linear(cpu, x, polynomial, n, next); // X P, and P is symmetric
        }
        std::mem::swap(x, next);
    }
}

#[cfg(test)]
mod tests {
    use rwkv_core::ModelConfig;
    use rwkv_core::model::Network;
    use rwkv_kernels::Isa;

    use super::super::global_norm;
    use super::*;

    /// Fixed numbers in −1..1 that look like noise.
    fn noise(len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i as f64 * 0.754_877_666).fract() * 2.0 - 1.0) as f32 * ((i % 7) as f32 - 3.1))
            .collect()
    }

    /// The same in f64 and without tricks: columns of `[rows][cols]`.
    fn reference(x: &[f32], rows: usize, cols: usize) -> Vec<f64> {
        let norm = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let mut x: Vec<Vec<f64>> =
            x.chunks(cols).map(|row| row.iter().map(|&x| f64::from(x) / norm).collect()).collect();
        let product = |a: &[Vec<f64>], b: &dyn Fn(usize, usize) -> f64, n: usize| -> Vec<Vec<f64>> {
            let dot = |row: &Vec<f64>, j| row.iter().enumerate().map(|(k, a)| a * b(k, j)).sum();
            a.iter().map(|row| (0..n).map(|j| dot(row, j)).collect()).collect()
        };
        for polynomial in POLYNOMIALS {
            let [a, b, c] = polynomial.map(f64::from);
            let xx = product(&x, &|k, j| x[j][k], rows);
            let xxxx = product(&xx, &|k, j| xx[k][j], rows);
            let p: Vec<Vec<f64>> =
                (0..rows).map(|i| (0..rows).map(|j| b * xx[i][j] + c * xxxx[i][j]).collect()).collect();
            let px = product(&p, &|k, j| x[k][j], cols);
            for (x, px) in x.iter_mut().zip(&px) {
                x.iter_mut().zip(px).for_each(|(x, px)| *x = a * *x + px);
            }
        }
        x.concat()
    }

    fn step(isa: Isa, threads: usize, shapes: &[(usize, usize)]) -> Vec<[Vec<f32>; 2]> {
        let (gradients, mut params): (Vec<_>, Vec<_>) =
            shapes.iter().map(|&(rows, cols)| (noise(rows * cols), vec![0.5; rows * cols])).unzip();
        let mut means: Vec<_> = gradients.iter().map(|gradient| vec![0.0; gradient.len()]).collect();
        // As if the rows' mean squares had been 1, and this were the second step.
        let mut squares: Vec<_> = shapes.iter().map(|&(rows, _)| vec![1.0 - ROW_MOMENTUM; rows]).collect();
        let row_correction = 1.0 - ROW_MOMENTUM * ROW_MOMENTUM;
        let numbers = Numbers { grad_scale: 0.5, keep: 0.9, rate: 0.1, row_correction };
        let all = params.iter_mut().zip(&gradients).zip(&mut means).zip(&mut squares).zip(shapes);
        let all = all.map(|((((param, gradient), mean), squares), &(_, cols))| Matrix {
            cols,
            param,
            gradient,
            mean,
            squares,
        });
        muon(&Cpu::new(isa, threads), &numbers, all.collect(), &Mutex::default());
        params.into_iter().zip(means).map(|(param, mean)| [param, mean]).collect()
    }

    /// The rows of a direction made as long as NorMuon makes them, in f64.
    fn normalized(direction: &[f64], cols: usize) -> Vec<f64> {
        let beta = f64::from(ROW_MOMENTUM);
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let rows = direction.chunks(cols).flat_map(|row| {
            let square = (1.0 - beta) * beta + (1.0 - beta) * length(row).powi(2) / cols as f64;
            row.iter().map(move |x| x / (square / (1.0 - beta * beta)).sqrt())
        });
        let rows: Vec<f64> = rows.collect();
        let scale = length(direction) / length(&rows);
        rows.iter().map(|x| x * scale).collect()
    }

    const SHAPES: [(usize, usize); 5] = [(8, 8), (4, 20), (20, 4), (1, 3), (17, 16)];

    #[test]
    fn a_step_is_that_of_the_definition_in_f64() {
        for isa in Isa::available() {
            for ([param, mean], (rows, cols)) in step(isa, 2, &SHAPES).into_iter().zip(SHAPES) {
                let gradient = noise(rows * cols);
                let direction = normalized(&reference(&gradient, rows, cols), cols);
                let rate = 0.1 * (rows as f64 / cols as f64).max(1.0).sqrt();
                for (param, direction) in param.iter().zip(&direction) {
                    let want = 0.45 - rate * direction;
                    assert!(
                        (f64::from(*param) - want).abs() < 1e-4,
                        "{isa} {rows}×{cols}: {param}, not {want}"
                    );
                }
                let mean_is_sound =
                    mean.iter().zip(&gradient).all(|(mean, gradient)| (mean - 0.025 * gradient).abs() < 1e-6);
                assert!(mean_is_sound, "{isa}");
            }
        }
    }

    /// ‖O x‖ is near ‖x‖ for every x, if all singular values are near 1.
    #[test]
    fn singular_values_end_near_1() {
        let n = 16;
        let direction = reference(&noise(n * n), n, n);
        for seed in 1..20 {
            let x: Vec<f64> = noise(n * seed)[n * (seed - 1)..].iter().map(|&x| f64::from(x)).collect();
            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let product: Vec<f64> =
                direction.chunks(n).map(|row| row.iter().zip(&x).map(|(a, b)| a * b).sum()).collect();
            let ratio = length(&product) / length(&x);
            assert!((0.6..1.3).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_and_zeros_stay() {
        for isa in Isa::available() {
            assert_eq!(step(isa, 1, &SHAPES), step(isa, 3, &SHAPES));
        }
        let mut scratch = Scratch::default();
        let (mut param, mut mean) = (vec![1.0; 6], vec![0.0; 6]);
        let squares = &mut [0.0; 2];
        let mut matrix = Matrix { cols: 3, param: &mut param, gradient: &[0.0; 6], mean: &mut mean, squares };
        let numbers = Numbers { grad_scale: 1.0, keep: 1.0, rate: 0.1, row_correction: 0.05 };
        matrix.step(&Cpu::new(Isa::Scalar, 1), &numbers, &mut scratch);
        assert_eq!((param, mean), (vec![1.0; 6], vec![0.0; 6]));
    }

    #[test]
    fn muon_moves_hidden_matrices_alone_and_keeps_a_moment_of_them_and_one_of_rows() {
        let (_, layout, _) = Network::new(&ModelConfig::v4(5, 4, 2));
        let cpu = Cpu::new(Isa::Scalar, 1);
        let ones: Vec<_> = layout.specs().iter().map(|spec| vec![1.0_f32; spec.len()]).collect();
        let mut params = Parameters::of_raw(layout.clone(), ones.clone());
        let options = TrainOptions { matrix_learning_rate: Some(0.0), ..TrainOptions::new("", "") };
        let mut optimizer = Muon::new(&options, &params);
        let norm = global_norm(&cpu, &params, &ones);
        let step = Step { number: 1, learning_rate: 0.01, peak: 0.01, norm };
        optimizer.step(&cpu, &step, &mut params, &ones);
        for (index, spec) in layout.specs().iter().enumerate() {
            let is_hidden = spec.is_matrix() && spec.name.starts_with("blocks.");
            assert_eq!(spec.is_hidden, is_hidden, "{}", spec.name);
            // Without a rate of their own, hidden matrices decay, and nothing else.
            let decayed = params.raw(index).iter().all(|&p| (p - (1.0 - 0.001)).abs() < 1e-6);
            assert_eq!(decayed, is_hidden, "{}: {}", spec.name, params.raw(index)[0]);
            let lengths: Vec<_> =
                optimizer.moments().iter().map(|moment| moment.values[index].len()).collect();
            assert_eq!(lengths, [spec.len(), if is_hidden { spec.len() / spec.cols } else { spec.len() }]);
            assert_eq!(Muon::moments_of(spec), lengths.iter().filter(|&&len| len == spec.len()).count());
        }
    }
}

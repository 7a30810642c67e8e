//! A new model's parameters: random numbers for what its version declares (`rwkv_core::params::Initial`).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rwkv_core::params::{Initial, Layout, ParamSpec};
use rwkv_kernels::Cpu;

use crate::pages;

/// Raw parameters of a new model, in the order of `layout`: the same for the same seed, whatever the
/// machine's number of threads.
pub fn initialize(cpu: &Cpu, layout: &Layout, seed: u64) -> Vec<Vec<f32>> {
    initialize_until(cpu, layout, seed, &|| false)
}

/// As [`initialize`], asking `stop` now and then, on any thread: once it says so, what is made means nothing.
pub(crate) fn initialize_until(
    cpu: &Cpu,
    layout: &Layout,
    seed: u64,
    stop: &(dyn Fn() -> bool + Sync),
) -> Vec<Vec<f32>> {
    let specs = layout.specs();
    let mut params = pages::zeros(specs.iter().map(ParamSpec::len));
    // Each parameter draws from a stream of its own, so that they can be made side by side.
    let rng_of = |stream| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        rng
    };
    let tasks = params.iter_mut().zip(specs).zip(0_u64..);
    // A large one would keep one thread busy when the others are done: these take all threads, one after the other.
    let (mut large, mut others): (Vec<_>, Vec<_>) = tasks.partition(|((_, spec), _)| takes_long(spec));
    cpu.for_each(&mut others, |((values, spec), stream)| {
        fill(None, values, spec, &mut rng_of(*stream), stop);
    });
    for ((values, spec), stream) in &mut large {
        fill(Some(cpu), values, spec, &mut rng_of(*stream), stop);
    }
    params
}

/// Whether making it takes a second and more.
fn takes_long(spec: &ParamSpec) -> bool {
    matches!(spec.initial, Initial::Orthogonal { .. }) && spec.len() > 1 << 22
}

/// Threads are those of `cpu`, or this one alone.
fn fill(
    cpu: Option<&Cpu>,
    values: &mut [f32],
    spec: &ParamSpec,
    rng: &mut ChaCha8Rng,
    stop: &(dyn Fn() -> bool + Sync),
) {
    let (rows, width) = (spec.rows, spec.cols);
    match &spec.initial {
        &Initial::Constant(value) => values.fill(value),
        Initial::Channels(formula) => {
            for (index, value) in values.iter_mut().enumerate() {
                *value = formula.value(index % width, width) as f32;
            }
        }
        &Initial::Uniform { bound } => values.fill_with(|| rng.random_range(-bound..=bound)),
        &Initial::Orthogonal { gain, is_transposed } => {
            let ratio = rows as f64 / width as f64;
            let scale = gain * if is_transposed { 1.0 / ratio } else { ratio }.sqrt().max(1.0);
            orthogonal(cpu, values, [rows, width], scale, rng, stop);
        }
    }
}

/// Makes of `values` a `(rows, cols)` matrix whose columns (or rows, if those are fewer) are orthogonal and of length `scale`: a
/// uniformly random one, from the QR decomposition of a Gaussian matrix (Saxe et al.,
/// <https://arxiv.org/abs/1312.6120>).
fn orthogonal(
    cpu: Option<&Cpu>,
    values: &mut [f32],
    [rows, cols]: [usize; 2],
    scale: f64,
    rng: &mut ChaCha8Rng,
    stop: &(dyn Fn() -> bool + Sync),
) {
    let (len, count) = (rows.max(cols), rows.min(cols));
    let mut vectors: Vec<f64> = gaussians(rng).take(len * count).collect(); // (count, len)
    orthonormalize(cpu, &mut vectors, len, stop);
    let at = |row: usize, col: usize| {
        if rows > cols { vectors[col * len + row] } else { vectors[row * len + col] }
    };
    for (i, value) in values.iter_mut().enumerate() {
        *value = (at(i / cols, i % cols) * scale) as f32;
    }
}

/// Vectors that all later ones are freed of together: as many as lie in a cache.
const BLOCK: usize = 16;

/// Makes the rows of `vectors` (count, len) orthonormal, in f64 by the modified Gram–Schmidt process: what is left of
/// other vectors in each is the condition of the matrix, a few thousands at most for a random one, times 1e-16
/// (Björck 1967), far below what an f32 can tell. The same bits for every number of threads.
fn orthonormalize(cpu: Option<&Cpu>, vectors: &mut [f64], len: usize, stop: &(dyn Fn() -> bool + Sync)) {
    let mut rest = vectors;
    while !rest.is_empty() {
        let (block, later) = rest.split_at_mut(rest.len().min(BLOCK * len));
        for index in 0..block.len() / len {
            let (before, own) = block.split_at_mut(index * len);
            let own = &mut own[..len];
            subtract_projections(before, own);
            let norm = dot(own, own).sqrt();
            for x in own {
                *x /= norm;
            }
        }
        let block = &*block;
        let subtract = |vector: &mut [f64]| {
            if !stop() {
                subtract_projections(block, vector);
            }
        };
        let vectors = later.chunks_exact_mut(len);
        match cpu {
            Some(cpu) => cpu.for_each(&mut vectors.collect::<Vec<_>>(), |vector| subtract(vector)),
            None => vectors.for_each(subtract),
        }
        rest = later;
    }
}

/// Takes from `vector` what it has of each of `others`, one after the other.
fn subtract_projections(others: &[f64], vector: &mut [f64]) {
    for other in others.chunks_exact(vector.len()) {
        let projection = dot(other, vector);
        vector.iter_mut().zip(other).for_each(|(x, &o)| *x -= projection * o);
    }
}

/// In eight sums side by side, which the compiler turns into vectors.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let (x, x_rest) = x.as_chunks::<8>();
    let (y, y_rest) = y.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (x, y) in x.iter().zip(y) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// Standard normal numbers (Box and Muller 1958).
fn gaussians(rng: &mut ChaCha8Rng) -> impl Iterator<Item = f64> {
    std::iter::repeat_with(|| {
        let radius = (-2.0 * libm::log(1.0 - rng.random::<f64>())).sqrt();
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use rwkv_core::ModelConfig;
    use rwkv_core::model::Network;
    use rwkv_kernels::Isa;

    use super::*;

    const CONFIG: ModelConfig = ModelConfig::v4(65, 32, 3);

    fn model(seed: u64, threads: usize) -> (Layout, Vec<Vec<f32>>) {
        let (_, layout, _) = Network::new(&CONFIG);
        let params = initialize(&Cpu::new(Isa::Scalar, threads), &layout, seed);
        (layout, params)
    }

    fn param<'a>((layout, params): &'a (Layout, Vec<Vec<f32>>), name: &str) -> &'a [f32] {
        &params[layout.find(name).expect("declared")]
    }

    fn assert_near(actual: f32, expected: f64) {
        assert!((f64::from(actual) - expected).abs() < 1e-6, "{actual}, not {expected}");
    }

    #[test]
    fn matrices_are_orthogonal_with_their_gains() {
        struct Case {
            name: &'static str,
            rows: usize,
            cols: usize,
            length: f64,
        }
        let cases = [
            Case { name: "blocks.0.att.value.weight", rows: 32, cols: 32, length: 1.0 },
            Case { name: "blocks.2.ffn.key.weight", rows: 128, cols: 32, length: 2.0 },
            Case { name: "head.weight", rows: 65, cols: 32, length: 0.5 * (65.0_f64 / 32.0).sqrt() },
        ];
        let model = model(1, 2);
        for Case { name, rows, cols, length } in cases {
            let w = param(&model, name);
            for a in 0..cols {
                for b in 0..cols {
                    let dot: f64 =
                        (0..rows).map(|r| f64::from(w[r * cols + a]) * f64::from(w[r * cols + b])).sum();
                    let expected = if a == b { length * length } else { 0.0 };
                    assert!((dot - expected).abs() < 1e-6, "{name}: columns {a} and {b}: {dot}");
                }
            }
        }
    }

    #[test]
    fn a_wide_matrix_has_orthonormal_rows() {
        let mut w = [0.0; 45];
        orthogonal(None, &mut w, [5, 9], 1.0, &mut ChaCha8Rng::seed_from_u64(3), &|| false);
        for a in 0..5 {
            for b in 0..5 {
                let dot: f64 = (0..9).map(|c| f64::from(w[a * 9 + c]) * f64::from(w[b * 9 + c])).sum();
                assert!((dot - f64::from(u8::from(a == b))).abs() < 1e-6);
            }
        }
    }

    /// More vectors than a block has, the last block not full.
    #[test]
    fn vectors_are_orthonormal_alike_for_every_number_of_threads() {
        let (count, len) = (2 * BLOCK + 5, 50);
        let random: Vec<f64> = gaussians(&mut ChaCha8Rng::seed_from_u64(5)).take(count * len).collect();
        let made = |cpu: Option<&Cpu>| {
            let mut vectors = random.clone();
            orthonormalize(cpu, &mut vectors, len, &|| false);
            vectors
        };
        let vectors = made(None);
        for threads in [1, 3] {
            assert_eq!(made(Some(&Cpu::new(Isa::Scalar, threads))), vectors);
        }
        for a in 0..count {
            for b in 0..=a {
                let product = dot(&vectors[a * len..][..len], &vectors[b * len..][..len]);
                assert!((product - f64::from(u8::from(a == b))).abs() < 1e-12, "{a} and {b}: {product}");
            }
        }
    }

    #[test]
    fn vectors_follow_the_formulas_at_their_ends() {
        let model = model(1, 1);
        let ends = |name: &str| {
            let values = param(&model, name);
            (values[0], values[1], values[values.len() - 1])
        };
        for layer in 0..3 {
            let (first, _, last) = ends(&format!("blocks.{layer}.att.time_decay"));
            assert_near(first, -5.0);
            assert_near(last, 3.0);
            let (first, second, last) = ends(&format!("blocks.{layer}.att.time_first"));
            assert_near(first, 0.3_f64.ln());
            assert_near(second, 0.3_f64.ln() + 0.5);
            assert_near(last, 0.3_f64.ln() + 0.5 * (32.0 % 3.0 - 1.0));
        }
        let (first, second, last) = ends("blocks.0.att.time_mix_k");
        assert_near(first, 0.0);
        assert_near(second, 1.0 / 32.0);
        assert_near(last, 31.0 / 32.0);
        assert_near(ends("blocks.2.att.time_mix_k").1, (1.0_f64 / 32.0).powf(1.0 / 3.0));
        assert_near(ends("blocks.2.att.time_mix_v").2, (31.0_f64 / 32.0).powf(1.0 / 3.0) + 0.3);
        assert_near(ends("blocks.0.att.time_mix_r").1, (1.0_f64 / 32.0).sqrt());
        assert_near(ends("blocks.1.att.time_decay").1, -5.0 + 8.0 * (1.0_f64 / 31.0).powf(1.35));
        assert_near(ends("blocks.1.ffn.time_mix_r").1, (1.0_f64 / 32.0).powf(2.0 / 3.0));
    }

    #[test]
    fn the_rest_is_zero_one_or_tiny() {
        let model = model(1, 1);
        for name in ["att.key", "att.receptance", "att.output", "ffn.receptance", "ffn.value"] {
            assert!(
                param(&model, &format!("blocks.1.{name}.weight")).iter().all(|x| x.abs() < f32::EPSILON),
                "{name}"
            );
        }
        for name in ["blocks.0.ln0", "blocks.2.ln1", "blocks.2.ln2", "ln_out"] {
            assert!(param(&model, &format!("{name}.weight")).iter().all(|x| (x - 1.0).abs() < f32::EPSILON));
            assert!(param(&model, &format!("{name}.bias")).iter().all(|x| x.abs() < f32::EPSILON));
        }
        let emb = param(&model, "emb.weight");
        assert!(emb.iter().all(|x| x.abs() <= 1e-4) && emb.iter().any(|x| x.abs() > 9e-5));
    }

    #[test]
    fn the_seed_alone_decides() {
        assert!(model(7, 1).1 == model(7, 3).1);
        assert!(model(7, 1).1 != model(8, 1).1);
    }
}

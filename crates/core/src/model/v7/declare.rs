//! RWKV-7's parameters: names, shapes, initial values. The latter are those of BlinkDL's RWKV-LM,
//! `RWKV-v7/train_temp/src/model.py`: every block starts as the identity.

use rwkv_kernels::MOST_HEAD;

use super::{Block, ChannelMix, LowRank, Rwkv7, TimeMix};
use crate::config::{ModelConfig, Sizes, Version};
use crate::model::layer_norm::LayerNorm;
use crate::model::{BadTensor, Dims};
use crate::params::{Channel, Initial, Layout, Learned, Matrix, Stored, Vector};
use crate::state::{Slot, StateLayout};

/// Sizes of heads that new models may have; published ones have 64.
const HEADS: [usize; 4] = [64, 32, 16, 8];

/// The numbers in [`Sizes`].
struct Ranks {
    head: usize,
    decay: usize,
    rate: usize,
    value: usize,
    gate: usize,
}

impl Ranks {
    fn of(sizes: Sizes) -> Self {
        let [head, decay, rate, value, gate] = std::array::from_fn(|index| sizes.get(index));
        Self { head, decay, rate, value, gate }
    }
}

/// Ranks are read from the file: released models follow two formulas.
pub(super) fn sizes(dims: Dims<'_>) -> Result<Sizes, BadTensor> {
    let bad = |name: &str, problem: Option<String>| BadTensor { name: name.to_owned(), problem };
    let width = match dims("blocks.0.att.ln_x.weight") {
        Some([width]) => *width,
        _ => return Err(bad("blocks.0.att.ln_x.weight", None)),
    };
    let heads = "blocks.0.att.r_k";
    let head = match dims(heads) {
        Some(&[head, count]) if head.checked_mul(count) == Some(width) => head,
        Some(other) => {
            let problem = format!("dimensions {other:?} make no heads of {width} channels together");
            return Err(bad(heads, Some(problem)));
        }
        None => return Err(bad(heads, None)),
    };
    if head > MOST_HEAD {
        return Err(bad(heads, Some(format!("heads of {head} channels; expected at most {MOST_HEAD}"))));
    }
    let rank = |name: &str| match dims(name) {
        Some(&[_, rank]) => Ok(rank),
        _ => Err(bad(name, None)),
    };
    // A model of a single block has no such product.
    let value = if dims("blocks.1.ln1.weight").is_some() { rank("blocks.1.att.v1")? } else { 0 };
    let all = [head, rank("blocks.0.att.w1")?, rank("blocks.0.att.a1")?, value, rank("blocks.0.att.g1")?];
    // Each is a dimension of a tensor in a file: far below 2³².
    Ok(Sizes::new(&all.map(|size| size as u32)))
}

/// Ranks of 2.5 √D, 2.5 √D, 1.7 √D and 5 √D, in whole 32s.
pub(super) fn usual(n_vocab: usize, n_embd: usize, n_layer: usize) -> Result<ModelConfig, String> {
    let Some(head) = HEADS.into_iter().find(|&head| n_embd.is_multiple_of(head)) else {
        return Err("a multiple of 8, because RWKV-7's heads have 64, 32, 16 or 8 channels".to_owned());
    };
    let rank = |factor: f64| {
        let whole = (factor * (n_embd as f64).sqrt() / 32.0).round().max(1.0) * 32.0;
        whole.min(n_embd as f64) as u32
    };
    let value = if n_layer > 1 { rank(1.7) } else { 0 };
    let sizes = Sizes::new(&[head as u32, rank(2.5), rank(2.5), value, rank(5.0)]);
    Ok(ModelConfig { version: Version::V7, n_vocab, n_embd, n_layer, n_ffn: 4 * n_embd, sizes })
}

/// The state is in rwkv.cpp's order: for each layer `ffn_xx`, `att_xx`, and S of each head, value by key.
pub(super) fn model(config: &ModelConfig, params: &mut Layout, state: &mut StateLayout) -> Rwkv7 {
    let &ModelConfig { n_vocab, n_embd, n_layer, .. } = config;
    // ln0 makes a unit vector of however small an embedding.
    let not_hidden = |initial: Initial| Learned { is_hidden: Some(false), ..initial.into() };
    let emb = not_hidden(Initial::Uniform { bound: 1e-4 });
    let emb = params.matrix("emb.weight", n_vocab, n_embd, emb);
    let ln0 = LayerNorm::declare("blocks.0.ln0", n_embd, params);
    let blocks = (0..n_layer).map(|layer| Block::declare(layer, config, params, state)).collect();
    let ln_out = LayerNorm::declare("ln_out", n_embd, params);
    let head = params.matrix("head.weight", n_vocab, n_embd, not_hidden(Initial::orthogonal(0.5)));
    Rwkv7 { emb, ln0, blocks, ln_out, head, head_size: Ranks::of(config.sizes).head }
}

impl Block {
    fn declare(layer: usize, config: &ModelConfig, params: &mut Layout, state: &mut StateLayout) -> Self {
        let d = config.n_embd;
        let name = |name: &str| format!("blocks.{layer}.{name}");
        // State tuning, as everybody does it, is of S alone (`time_state` in files).
        let (ffn_xx, att_xx) = (state.untuned_zeros(d), state.untuned_zeros(d));
        let wkv = state.zeros(d * Ranks::of(config.sizes).head);
        let ln1 = LayerNorm::declare(&name("ln1"), d, params);
        let ln2 = LayerNorm::declare(&name("ln2"), d, params);
        let att = TimeMix::declare(layer, config, params, [att_xx, wkv]);
        let ffn = ChannelMix::declare(layer, config, params, ffn_xx);
        Self { ln1, att, ln2, ffn }
    }
}

impl TimeMix {
    /// Declares the parameters of block `layer`; the slots are for the token before and for S.
    pub fn declare(layer: usize, config: &ModelConfig, params: &mut Layout, [xx, wkv]: [Slot; 2]) -> Self {
        let (d, n_layer) = (config.n_embd, config.n_layer);
        let Ranks { head, decay, rate, value, gate } = Ranks::of(config.sizes);
        let name = |name: &str| format!("blocks.{layer}.att.{name}");
        let channels =
            |value: Box<dyn Fn(Channel) -> f64 + Send + Sync>| Initial::channels(layer, n_layer, value);
        let mix = |power: f64| {
            channels(Box::new(move |at| 1.0 - libm::pow(at.share(), power * at.ratio_1_to_almost_0())))
        };
        let x = [("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)]
            .map(|(of, power)| (name(&format!("x_{of}")), mix(power).into()));
        let x = params.packed_vectors(&name("x_rwkvag"), d, x);
        let w0 = channels(Box::new(move |at| {
            let power = 1.0 + libm::pow(at.ratio_0_to_1(), 0.3);
            -5.5 + 6.0 * libm::pow(at.position(), power) + 2.5 * zigzag(at, head)
        }));
        let a0 = channels(Box::new(move |at| -0.19 + 0.3 * zigzag(at, head) + 0.4 * (at.position() - 0.5)));
        let v0 = channels(Box::new(|at| 0.73 - 0.4 * (at.position() - 0.5)));
        // A channel's memory should find its length early.
        let w0 = Learned { rate: 2.0, ..w0.into() };
        let decay = LowRank::declare(&name("w"), d, decay, w0, params);
        let rate = LowRank::declare(&name("a"), d, rate, a0.into(), params);
        // The first block's value is the one that is mixed into the others'.
        let value = (layer > 0).then(|| LowRank::declare(&name("v"), d, value, v0.into(), params));
        let gate = LowRank::factors(&name("g"), d, gate, params);
        let k_k = channels(Box::new(|at| 0.71 - 0.1 * (at.position() - 0.5)));
        let mut vector = |of: &str, dims: &[usize], initial: Initial| {
            params.stored_vector(name(of), dims, Stored::Raw, initial)
        };
        let k_k = vector("k_k", &[d, 1, 1], k_k);
        let k_a = vector("k_a", &[d, 1, 1], Initial::Constant(1.02));
        let r_k = vector("r_k", &[head, d / head.max(1)], Initial::Constant(-0.04));
        let uniform = |scale: f32| Initial::Uniform { bound: scale / (d as f32).sqrt() };
        let mut square =
            |of: &str, initial: Initial| params.matrix(name(&format!("{of}.weight")), d, d, initial);
        let receptance = square("receptance", uniform(0.5));
        let key = square("key", uniform(0.05));
        let v = square("value", uniform(0.5));
        let output = square("output", Initial::ZEROS);
        let scale = libm::pow((1.0 + layer as f64) / n_layer as f64, 0.7) as f32;
        let ln_x = LayerNorm {
            weight: params.vector(name("ln_x.weight"), d, Initial::Constant(scale)),
            bias: params.vector(name("ln_x.bias"), d, Initial::ZEROS),
        };
        Self { x, decay, rate, value, gate, k_k, k_a, r_k, receptance, key, v, output, ln_x, xx, wkv }
    }
}

impl ChannelMix {
    /// Declares the parameters of block `layer`; the slot is for the token before.
    pub fn declare(layer: usize, config: &ModelConfig, params: &mut Layout, xx: Slot) -> Self {
        let (d, f) = (config.n_embd, config.n_ffn);
        let name = |name: &str| format!("blocks.{layer}.ffn.{name}");
        let x_k = Initial::channels(layer, config.n_layer, |at| {
            1.0 - libm::pow(at.share(), libm::pow(at.ratio_1_to_almost_0(), 4.0))
        });
        let bound = 0.5 / (d as f32).sqrt();
        Self {
            x_k: params.stored_vector(name("x_k"), &[d, 1, 1], Stored::Raw, x_k),
            key: params.matrix(name("key.weight"), f, d, Initial::Uniform { bound }),
            value: params.matrix(name("value.weight"), d, f, Initial::ZEROS),
            xx,
        }
    }
}

impl LowRank {
    fn declare(name: &str, d: usize, rank: usize, bias: Learned, params: &mut Layout) -> Self {
        let [down, up] = Self::factors(name, d, rank, params);
        let bias: Vector = params.stored_vector(format!("{name}0"), &[d, 1, 1], Stored::Raw, bias);
        Self { bias, down, up }
    }

    /// Official checkpoints hold both as (inputs, outputs), and decay neither.
    fn factors(name: &str, d: usize, rank: usize, params: &mut Layout) -> [Matrix; 2] {
        let learned = |initial: Initial| Learned {
            decays: Some(false),
            is_hidden: Some(false),
            is_low_rank: true,
            ..initial.into()
        };
        let up = Initial::Orthogonal { gain: 0.1, is_transposed: true };
        [
            params.matrix(format!("{name}1"), rank, d, learned(Initial::ZEROS)),
            params.matrix(format!("{name}2"), d, rank, learned(up)),
        ]
    }
}

/// From −1 at the first channel of a head to 1 at its last, by squares.
fn zigzag(at: Channel, head: usize) -> f64 {
    let middle = (head as f64 - 1.0) / 2.0;
    let from_middle = ((at.index % head) as f64 - middle) / middle.max(0.5);
    from_middle * from_middle.abs()
}

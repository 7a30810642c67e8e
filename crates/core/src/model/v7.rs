//! RWKV-7 "Goose", as in section 4 of <https://arxiv.org/abs/2503.14456>.
//!
//! Shapes: T rows (tokens), D = n_embd, F = n_ffn, V = n_vocab; heads of N channels. ⊙ multiplies element by
//! element; μ and other vectors are learned for each channel. Products of low rank, `W2 (W1 x)`, go through a few
//! channels.

mod declare;
mod names;

use super::layer_norm::LayerNorm;
use super::names::Names;
use super::{BadTensor, Dims, Rwkv};
use crate::config::{ModelConfig, Sizes};
use crate::exec::{Channelwise, Exec, Unary, Wkv7};
use crate::model;
use crate::params::{Layout, Matrix, Vector};
use crate::state::{Slot, StateLayout};

/// Of the norm of heads: RWKV-LM's, for any size of heads.
const HEAD_EPS: f32 = 64e-5;

/// A whole model's parameters.
#[derive(Clone, Debug)]
pub struct Rwkv7 {
    emb: Matrix, // (V, D)
    ln0: LayerNorm,
    blocks: Vec<Block>,
    ln_out: LayerNorm,
    head: Matrix, // (V, D)
    head_size: usize,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    ln1: LayerNorm,
    att: TimeMix,
    ln2: LayerNorm,
    ffn: ChannelMix,
}

/// `bias + W2 f(W1 x)`, of a rank that is far below D.
#[derive(Clone, Copy, Debug)]
struct LowRank {
    bias: Vector, // (D)
    down: Matrix, // W1 (rank, D)
    up: Matrix,   // W2 (D, rank)
}

/// The parameters of a block's time mix, and its part of the state.
#[derive(Clone, Copy, Debug)]
pub struct TimeMix {
    x: [Vector; 6],         // μ of r, w, k, v, a, g (D)
    decay: LowRank,         // w0, w1, w2
    rate: LowRank,          // a0, a1, a2: how much of an old value is taken away
    value: Option<LowRank>, // v0, v1, v2: how much of the first block's value; none in that block
    gate: [Matrix; 2],      // g1 (rank, D), g2 (D, rank)
    k_k: Vector,            // (D)
    k_a: Vector,            // (D)
    r_k: Vector,            // (D)
    receptance: Matrix,     // W_r (D, D)
    key: Matrix,            // W_k (D, D)
    v: Matrix,              // W_v (D, D)
    output: Matrix,         // W_o (D, D)
    ln_x: LayerNorm,
    xx: Slot,  // the token before, as this mix saw it (D)
    wkv: Slot, // S of each head (D · N)
}

/// Those of its channel mix.
#[derive(Clone, Copy, Debug)]
pub struct ChannelMix {
    x_k: Vector,   // μ (D)
    key: Matrix,   // W_k (F, D)
    value: Matrix, // W_v (D, F)
    xx: Slot,      // the token before, as this mix saw it (D)
}

impl Rwkv for Rwkv7 {
    const SIZES: &'static [&'static str] = &["headSize", "decayRank", "aRank", "vRank", "gateRank"];

    fn sizes(dims: Dims<'_>) -> Result<Sizes, BadTensor> {
        declare::sizes(dims)
    }

    fn usual(n_vocab: usize, n_embd: usize, n_layer: usize) -> Result<ModelConfig, String> {
        declare::usual(n_vocab, n_embd, n_layer)
    }

    const NAMES: &'static [Names] = names::NAMES;

    const FUSED: Option<(&'static str, &'static [&'static str])> = Some((names::FUSED.0, &names::FUSED.1));

    const GGUF_SIZES: &'static [&'static str] = names::GGUF_SIZES;

    const PREFIX: &'static str = "rwkv7.";

    const HUGGING_FACE_PREFIX: &'static str = "model.";

    const STAND_INS: &'static [model::StandIn] = names::STAND_INS;

    fn low_rank(tensor: &str) -> Option<model::LowRank> {
        let name = tensor.strip_prefix("blocks.")?.split_once('.')?.1;
        match name {
            "att.w1" | "att.a1" | "att.v1" | "att.g1" => Some(model::LowRank::Down),
            "att.w2" | "att.a2" | "att.v2" | "att.g2" => Some(model::LowRank::Up),
            _ => None,
        }
    }

    /// Official checkpoints have v0, v1 and v2 in the first block too.
    fn is_unused(tensor: &str) -> bool {
        ["blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"].contains(&tensor)
    }

    fn declare(config: &ModelConfig, params: &mut Layout, state: &mut StateLayout) -> Self {
        declare::model(config, params, state)
    }

    fn forward<E: Exec>(&self, e: &mut E) -> E::Tensor {
        let emb = e.embed(self.emb); // (T, D)
        let x = self.ln0.of(e, emb);
        let mut x = e.dropout(x);
        let mut v_first = None; // (T, D), of the first block
        for (i, block) in self.blocks.iter().enumerate() {
            let att = block.ln1.of(e, x);
            let (att, v) = time_mix(e, &block.att, att, v_first, self.head_size);
            let mut first = v_first.unwrap_or(v);
            let att = e.dropout(att);
            x = e.add(x, att);
            if i + 1 == self.blocks.len() {
                x = e.needed(x); // (T', D): a prompt wants the last logits alone
            }
            let ffn = block.ln2.of(e, x);
            let ffn = channel_mix(e, &block.ffn, ffn);
            let ffn = e.dropout(ffn);
            x = e.add(x, ffn);
            [x, first] = e.keep([x, first]);
            v_first = Some(first);
        }
        let x = e.outputs(x); // (outputs, D)
        let x = self.ln_out.of(e, x);
        e.linear(self.head, x)
    }
}

/// `W_o (g ⊙ (norm(wkv) + (Σ_head r ⊙ k ⊙ r_k) v))`, and v before anything of the first block's is mixed into it.
pub fn time_mix<E: Exec>(
    e: &mut E,
    p: &TimeMix,
    x: E::Tensor,
    v_first: Option<E::Tensor>,
    head_size: usize,
) -> (E::Tensor, E::Tensor) {
    let xx = e.shift(x, p.xx);
    let [xr, xw, xk, xv, xa, xg] = e.lerp(xx, x, p.x);
    // All products that need no other are one call, and all that need the first ones another.
    let [gate_down, gate_up] = p.gate;
    let rkv = [(p.receptance, xr), (p.key, xk), (p.v, xv)];
    let down = [(p.decay.down, xw), (p.rate.down, xa), (gate_down, xg)];
    let ([r, k, v], [w, a, g], mix) = match p.value {
        None => {
            let [r, k, v, w, a, g] = e.linears(joined(rkv, down));
            ([r, k, v], [w, a, g], None)
        }
        Some(value) => {
            let [mix, r, k, v, w, a, g] = e.linears(with((value.down, xv), joined(rkv, down)));
            ([r, k, v], [w, a, g], Some((value, mix)))
        }
    };
    let v_own = v;
    let w = e.unary(Unary::Tanh, w);
    let g = e.unary(Unary::Sigmoid, g);
    let up = [(p.decay.up, w), (p.rate.up, a), (gate_up, g)];
    let ([w, a, g], v) = if let (Some((value, mix)), Some(v_first)) = (mix, v_first) {
        let [mix, w, a, g] = e.linears(with((value.up, mix), up));
        // v + (v_first − v) ⊙ σ(v0 + W2 W1 x_v)
        ([w, a, g], e.channelwise(Channelwise::Towards, [v, v_first, mix], value.bias))
    } else {
        (e.linears(up), v)
    };
    let w = e.channelwise(Channelwise::Decay, [w], p.decay.bias); // exp(−e^(−1/2) σ(w0 + …))
    let a = e.channelwise(Channelwise::SigmoidOfSum, [a], p.rate.bias); // σ(a0 + …)
    let kk = e.channelwise(Channelwise::Scale, [k], p.k_k);
    let kk = e.unit_heads(kk, head_size);
    let k = e.channelwise(Channelwise::PartlyGated, [k, a], p.k_a); // k (1 + (a − 1) k_a)
    let wkv = e.wkv7(Wkv7 { r, w, k, v, kk, a }, head_size, p.wkv);
    let y = e.group_norm(wkv, head_size, p.ln_x.weight, p.ln_x.bias, HEAD_EPS);
    let bonus = e.bonus([r, k, v], p.r_k, head_size);
    let y = e.add(y, bonus);
    let y = e.mul(y, g);
    (e.linear(p.output, y), v_own)
}

fn joined<T: Copy>([a, b, c]: [T; 3], [d, e, f]: [T; 3]) -> [T; 6] {
    [a, b, c, d, e, f]
}

/// `first` before N others, M in all.
fn with<T: Copy, const N: usize, const M: usize>(first: T, others: [T; N]) -> [T; M] {
    const { assert!(M == N + 1) };
    std::array::from_fn(|i| if i == 0 { first } else { others[i - 1] })
}

/// `W_v max(W_k x_k, 0)²`.
pub fn channel_mix<E: Exec>(e: &mut E, p: &ChannelMix, x: E::Tensor) -> E::Tensor {
    let xx = e.shift(x, p.xx);
    let [xk] = e.lerp(xx, x, [p.x_k]);
    let k = e.linear(p.key, xk); // (T, F)
    let k = e.relu_squared(k);
    e.linear(p.value, k) // (T, D)
}

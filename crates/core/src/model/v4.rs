//! RWKV-4 "Dove", as in section 3 and appendix D of <https://arxiv.org/abs/2305.13048>.
//!
//! Shapes: T rows (tokens), D = n_embd, F = n_ffn = 4D, V = n_vocab. ⊙ multiplies element by element; μ, w
//! and u are learned for each channel.

mod names;

use super::layer_norm::LayerNorm;
use super::names::Names;
use super::{BadTensor, Dims, Rwkv};
use crate::config::{ModelConfig, Sizes};
use crate::exec::Exec;
use crate::params::{Channel, Initial, Layout, Learned, Matrix, Stored, Vector};
use crate::state::{Slot, StateLayout};

/// A whole model's parameters.
#[derive(Clone, Debug)]
pub struct Rwkv4 {
    emb: Matrix, // (V, D)
    ln0: LayerNorm,
    blocks: Vec<Block>,
    ln_out: LayerNorm,
    head: Matrix, // (V, D)
}

#[derive(Clone, Copy, Debug)]
struct Block {
    ln1: LayerNorm,
    att: TimeMix,
    ln2: LayerNorm,
    ffn: ChannelMix,
}

#[derive(Clone, Copy, Debug)]
struct TimeMix {
    time_mix_k: Vector, // μ_k (D)
    time_mix_v: Vector, // μ_v (D)
    time_mix_r: Vector, // μ_r (D)
    time_decay: Vector, // w = −exp(time_decay) (D)
    time_first: Vector, // u (D)
    key: Matrix,        // W_k (D, D)
    value: Matrix,      // W_v (D, D)
    receptance: Matrix, // W_r (D, D)
    output: Matrix,     // W_o (D, D)
    xx: Slot,           // the token before, as this mix saw it (D)
    wkv: Slot,          // aa, bb, pp (3D)
}

#[derive(Clone, Copy, Debug)]
struct ChannelMix {
    time_mix_k: Vector, // μ_k (D)
    time_mix_r: Vector, // μ_r (D)
    key: Matrix,        // W_k (F, D)
    receptance: Matrix, // W_r (D, D)
    value: Matrix,      // W_v (D, F)
    xx: Slot,           // the token before, as this mix saw it (D)
}

impl Rwkv for Rwkv4 {
    const SIZES: &'static [&'static str] = &[];

    const NAMES: &'static [Names] = names::NAMES;

    const HUGGING_FACE_PREFIX: &'static str = "rwkv.";

    fn has_ones(tensor: &str) -> bool {
        tensor.contains(".time_mix_")
    }

    fn sizes(_: Dims<'_>) -> Result<Sizes, BadTensor> {
        Ok(Sizes::NONE)
    }

    fn usual(n_vocab: usize, n_embd: usize, n_layer: usize) -> Result<ModelConfig, String> {
        Ok(ModelConfig::v4(n_vocab, n_embd, n_layer))
    }

    /// The state is in rwkv.cpp's order: for each layer `ffn_xx`, `att_xx`, aa, bb, pp.
    fn declare(config: &ModelConfig, params: &mut Layout, state: &mut StateLayout) -> Self {
        let &ModelConfig { n_vocab, n_embd, n_layer, .. } = config;
        // ln0 makes a unit vector of however small an embedding.
        let not_hidden = |initial: Initial| Learned { is_hidden: Some(false), ..initial.into() };
        let emb = not_hidden(Initial::Uniform { bound: 1e-4 });
        let emb = params.matrix("emb.weight", n_vocab, n_embd, emb);
        // Files list ln0 as part of block 0, before its other norms.
        let ln0 = LayerNorm::declare("blocks.0.ln0", n_embd, params);
        let blocks = (0..n_layer).map(|layer| Block::declare(layer, config, params, state)).collect();
        let ln_out = LayerNorm::declare("ln_out", n_embd, params);
        let head = not_hidden(Initial::orthogonal(0.5));
        let head = params.matrix("head.weight", n_vocab, n_embd, head);
        Self { emb, ln0, blocks, ln_out, head }
    }

    fn forward<E: Exec>(&self, e: &mut E) -> E::Tensor {
        let emb = e.embed(self.emb); // (T, D)
        let x = self.ln0.of(e, emb);
        let mut x = e.dropout(x);
        for (i, block) in self.blocks.iter().enumerate() {
            let att = block.ln1.of(e, x);
            let att = time_mix(e, &block.att, att);
            let att = e.dropout(att);
            x = e.add(x, att);
            if i + 1 == self.blocks.len() {
                x = e.needed(x); // (T', D): a prompt wants the last logits alone
            }
            let ffn = block.ln2.of(e, x);
            let ffn = channel_mix(e, &block.ffn, ffn);
            let ffn = e.dropout(ffn);
            x = e.add(x, ffn);
            [x] = e.keep([x]);
        }
        let x = e.outputs(x); // (outputs, D)
        let x = self.ln_out.of(e, x);
        e.linear(self.head, x)
    }
}

/// `W_o (σ(W_r x_r) ⊙ wkv(W_k x_k, W_v x_v))`, where `x_k = μ_k ⊙ x_t + (1 − μ_k) ⊙ x_{t−1}`, likewise v and
/// r.
fn time_mix<E: Exec>(e: &mut E, p: &TimeMix, x: E::Tensor) -> E::Tensor {
    let xx = e.shift(x, p.xx);
    let [xk, xv, xr] = e.lerp(x, xx, [p.time_mix_k, p.time_mix_v, p.time_mix_r]);
    let [k, v, r] = e.linears([(p.key, xk), (p.value, xv), (p.receptance, xr)]);
    let wkv = e.wkv4(p.time_decay, p.time_first, k, v, p.wkv);
    let rwkv = e.sigmoid_mul(r, wkv);
    e.linear(p.output, rwkv)
}

/// `σ(W_r x_r) ⊙ (W_v max(W_k x_k, 0)²)`.
fn channel_mix<E: Exec>(e: &mut E, p: &ChannelMix, x: E::Tensor) -> E::Tensor {
    let xx = e.shift(x, p.xx);
    let [xk, xr] = e.lerp(x, xx, [p.time_mix_k, p.time_mix_r]);
    let [k, r] = e.linears([(p.key, xk), (p.receptance, xr)]); // (T, F), (T, D)
    let k = e.relu_squared(k);
    let kv = e.linear(p.value, k); // (T, D)
    e.sigmoid_mul(r, kv)
}

impl Block {
    /// Initial values are those of BlinkDL's RWKV-LM, `RWKV-v4/src/model.py`: with matrices that write to the
    /// residual stream at 0, every block starts as the identity.
    fn declare(layer: usize, config: &ModelConfig, params: &mut Layout, state: &mut StateLayout) -> Self {
        let (d, f, n_layer) = (config.n_embd, config.n_ffn, config.n_layer);
        let (ffn_xx, att_xx) = (state.zeros(d), state.zeros(d));
        let wkv = state.wkv4(d);
        let block = |name: &str| format!("blocks.{layer}.{name}");
        let channels = |value: fn(Channel) -> f64| Initial::channels(layer, n_layer, value);
        let at_rate = |rate, value| Learned { rate, ..channels(value).into() };
        let orthogonal = || Initial::orthogonal(1.0);
        let ln1 = LayerNorm::declare(&block("ln1"), d, params);
        let ln2 = LayerNorm::declare(&block("ln2"), d, params);
        // A channel's memory should find its length early: twice and three times the learning rate.
        let att = TimeMix {
            time_decay: params.stored_vector(
                block("att.time_decay"),
                &[d],
                Stored::NegExp,
                at_rate(2.0, initial_decay),
            ),
            time_first: params.vector(block("att.time_first"), d, at_rate(3.0, initial_first)),
            time_mix_k: params.vector(block("att.time_mix_k"), d, channels(initial_mix)),
            time_mix_v: params.vector(block("att.time_mix_v"), d, channels(initial_mix_v)),
            time_mix_r: params.vector(block("att.time_mix_r"), d, channels(initial_mix_r)),
            key: params.matrix(block("att.key.weight"), d, d, Initial::ZEROS),
            value: params.matrix(block("att.value.weight"), d, d, orthogonal()),
            receptance: params.matrix(block("att.receptance.weight"), d, d, Initial::ZEROS),
            output: params.matrix(block("att.output.weight"), d, d, Initial::ZEROS),
            xx: att_xx,
            wkv,
        };
        let ffn = ChannelMix {
            time_mix_k: params.vector(block("ffn.time_mix_k"), d, channels(initial_mix)),
            time_mix_r: params.vector(block("ffn.time_mix_r"), d, channels(initial_mix)),
            key: params.matrix(block("ffn.key.weight"), f, d, orthogonal()),
            receptance: params.matrix(block("ffn.receptance.weight"), d, d, Initial::ZEROS),
            value: params.matrix(block("ffn.value.weight"), d, f, Initial::ZEROS),
            xx: ffn_xx,
        };
        Self { ln1, att, ln2, ffn }
    }
}

/// From long memories to short ones.
fn initial_decay(at: Channel) -> f64 {
    -5.0 + 8.0 * libm::pow(at.position(), 0.7 + 1.3 * at.ratio_0_to_1())
}

/// Neighbouring channels differ.
fn initial_first(at: Channel) -> f64 {
    libm::log(0.3) + 0.5 * ((at.index as f64 + 1.0) % 3.0 - 1.0)
}

fn initial_mix(at: Channel) -> f64 {
    libm::pow(at.share(), at.ratio_1_to_almost_0())
}

fn initial_mix_v(at: Channel) -> f64 {
    initial_mix(at) + 0.3 * at.ratio_0_to_1()
}

fn initial_mix_r(at: Channel) -> f64 {
    libm::pow(at.share(), 0.5 * at.ratio_1_to_almost_0())
}

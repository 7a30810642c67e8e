//! RWKV-4's tensors in Hugging Face's layout (`RwkvForCausalLM`); llama.cpp has no RWKV-4.

use crate::model::names::{Names, names};

#[rustfmt::skip] // a table
pub(super) const NAMES: &[Names] = names![
    "emb.weight"                      - "embeddings.weight";
    "blocks.0.ln0.weight"             - "blocks.0.pre_ln.weight";
    "blocks.0.ln0.bias"               - "blocks.0.pre_ln.bias";
    "blocks.N.ln1.weight"             - "blocks.N.ln1.weight";
    "blocks.N.ln1.bias"               - "blocks.N.ln1.bias";
    "blocks.N.ln2.weight"             - "blocks.N.ln2.weight";
    "blocks.N.ln2.bias"               - "blocks.N.ln2.bias";
    "blocks.N.att.time_decay"         - "blocks.N.attention.time_decay";
    "blocks.N.att.time_first"         - "blocks.N.attention.time_first";
    "blocks.N.att.time_mix_k"         - "blocks.N.attention.time_mix_key";
    "blocks.N.att.time_mix_v"         - "blocks.N.attention.time_mix_value";
    "blocks.N.att.time_mix_r"         - "blocks.N.attention.time_mix_receptance";
    "blocks.N.att.key.weight"         - "blocks.N.attention.key.weight";
    "blocks.N.att.value.weight"       - "blocks.N.attention.value.weight";
    "blocks.N.att.receptance.weight"  - "blocks.N.attention.receptance.weight";
    "blocks.N.att.output.weight"      - "blocks.N.attention.output.weight";
    "blocks.N.ffn.time_mix_k"         - "blocks.N.feed_forward.time_mix_key";
    "blocks.N.ffn.time_mix_r"         - "blocks.N.feed_forward.time_mix_receptance";
    "blocks.N.ffn.key.weight"         - "blocks.N.feed_forward.key.weight";
    "blocks.N.ffn.receptance.weight"  - "blocks.N.feed_forward.receptance.weight";
    "blocks.N.ffn.value.weight"       - "blocks.N.feed_forward.value.weight";
    "ln_out.weight"                   - "ln_out.weight";
    "ln_out.bias"                     - "ln_out.bias";
    "head.weight"                     - "head.weight";
];

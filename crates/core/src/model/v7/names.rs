//! RWKV-7's tensors in files of other programs. Facts from llama.cpp's `conversion/rwkv.py` and
//! flash-linear-attention's `models/rwkv7`.

use crate::model::StandIn;
use crate::model::names::{Names, names};

/// Official, GGUF, Hugging Face's. GGUF packs the six μ of a time mix into one tensor, see [`FUSED`].
#[rustfmt::skip] // a table
pub(super) const NAMES: &[Names] = names![
    "emb.weight"                    "token_embd.weight"                 "embeddings.weight";
    "blocks.0.ln0.weight"           "token_embd_norm.weight"            "layers.0.pre_norm.weight";
    "blocks.0.ln0.bias"             "token_embd_norm.bias"              "layers.0.pre_norm.bias";
    "blocks.N.ln1.weight"           "blk.N.attn_norm.weight"            "layers.N.attn_norm.weight";
    "blocks.N.ln1.bias"             "blk.N.attn_norm.bias"              "layers.N.attn_norm.bias";
    "blocks.N.ln2.weight"           "blk.N.attn_norm_2.weight"          "layers.N.ffn_norm.weight";
    "blocks.N.ln2.bias"             "blk.N.attn_norm_2.bias"            "layers.N.ffn_norm.bias";
    "blocks.N.att.x_r"              -                                   "layers.N.attn.x_r";
    "blocks.N.att.x_w"              -                                   "layers.N.attn.x_w";
    "blocks.N.att.x_k"              -                                   "layers.N.attn.x_k";
    "blocks.N.att.x_v"              -                                   "layers.N.attn.x_v";
    "blocks.N.att.x_a"              -                                   "layers.N.attn.x_a";
    "blocks.N.att.x_g"              -                                   "layers.N.attn.x_g";
    "blocks.N.att.w0"               "blk.N.time_mix_w0.weight"          "layers.N.attn.w_lora.lora.2.bias";
    "blocks.N.att.w1"               "blk.N.time_mix_w1.weight"          "layers.N.attn.w_lora.lora.0.weight";
    "blocks.N.att.w2"               "blk.N.time_mix_w2.weight"          "layers.N.attn.w_lora.lora.2.weight";
    "blocks.N.att.a0"               "blk.N.time_mix_a0.weight"          "layers.N.attn.a_lora.lora.2.bias";
    "blocks.N.att.a1"               "blk.N.time_mix_a1.weight"          "layers.N.attn.a_lora.lora.0.weight";
    "blocks.N.att.a2"               "blk.N.time_mix_a2.weight"          "layers.N.attn.a_lora.lora.2.weight";
    "blocks.N.att.v0"               "blk.N.time_mix_v0.weight"          "layers.N.attn.v_lora.lora.2.bias";
    "blocks.N.att.v1"               "blk.N.time_mix_v1.weight"          "layers.N.attn.v_lora.lora.0.weight";
    "blocks.N.att.v2"               "blk.N.time_mix_v2.weight"          "layers.N.attn.v_lora.lora.2.weight";
    "blocks.N.att.g1"               "blk.N.time_mix_g1.weight"          "layers.N.attn.g_lora.lora.0.weight";
    "blocks.N.att.g2"               "blk.N.time_mix_g2.weight"          "layers.N.attn.g_lora.lora.2.weight";
    "blocks.N.att.k_k"              "blk.N.time_mix_k_k.weight"         "layers.N.attn.k_k";
    "blocks.N.att.k_a"              "blk.N.time_mix_k_a.weight"         "layers.N.attn.k_a";
    "blocks.N.att.r_k"              "blk.N.time_mix_r_k.weight"         "layers.N.attn.r_k";
    "blocks.N.att.receptance.weight" "blk.N.time_mix_receptance.weight" "layers.N.attn.r_proj.weight";
    "blocks.N.att.key.weight"       "blk.N.time_mix_key.weight"         "layers.N.attn.k_proj.weight";
    "blocks.N.att.value.weight"     "blk.N.time_mix_value.weight"       "layers.N.attn.v_proj.weight";
    "blocks.N.att.output.weight"    "blk.N.time_mix_output.weight"      "layers.N.attn.o_proj.weight";
    "blocks.N.att.ln_x.weight"      "blk.N.time_mix_ln.weight"          "layers.N.attn.g_norm.weight";
    "blocks.N.att.ln_x.bias"        "blk.N.time_mix_ln.bias"            "layers.N.attn.g_norm.bias";
    "blocks.N.ffn.x_k"              "blk.N.channel_mix_lerp_k.weight"   "layers.N.ffn.x_k";
    "blocks.N.ffn.key.weight"       "blk.N.channel_mix_key.weight"      "layers.N.ffn.key.weight";
    "blocks.N.ffn.value.weight"     "blk.N.channel_mix_value.weight"    "layers.N.ffn.value.weight";
    "ln_out.weight"                 "output_norm.weight"                "norm.weight";
    "ln_out.bias"                   "output_norm.bias"                  "norm.bias";
    "head.weight"                   "output.weight"                     "lm_head.weight";
];

/// The tensor in which GGUF has the six μ, and their names in its order.
pub(super) const FUSED: (&str, [&str; 6]) = (
    "blk.N.time_mix_lerp_fused.weight",
    [
        "blocks.N.att.x_r",
        "blocks.N.att.x_w",
        "blocks.N.att.x_k",
        "blocks.N.att.x_v",
        "blocks.N.att.x_a",
        "blocks.N.att.x_g",
    ],
);

/// Where GGUF has the sizes: head, and the ranks of w, a, v and g.
pub(super) const GGUF_SIZES: &[&str] = &[
    "wkv.head_size",
    "attention.decay_lora_rank",
    "attention.iclr_lora_rank",
    "attention.value_residual_mix_lora_rank",
    "attention.gate_lora_rank",
];

/// The first block mixes no value into its own. llama.cpp wants there what its converter puts there, and RWKV-LM
/// what the other blocks have.
pub(super) const STAND_INS: &[StandIn] = &[
    StandIn { tensor: "blocks.0.att.v0", gguf: "blocks.0.att.a0", checkpoint: "blocks.1.att.v0" },
    StandIn { tensor: "blocks.0.att.v1", gguf: "blocks.0.att.a1", checkpoint: "blocks.1.att.v1" },
    StandIn { tensor: "blocks.0.att.v2", gguf: "blocks.0.att.a2", checkpoint: "blocks.1.att.v2" },
];

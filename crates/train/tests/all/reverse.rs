//! A published RWKV-7 that reverses digits (`12345,` → `54321#`), over our operators: BlinkDL's RWKV-LM,
//! `RWKV-v8/260123_reverse_L2_only_rwkv7.pth`. It deviates from the architecture: names of its own, no norm of the
//! embedding, a bias after each time mix and one of the head.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rwkv_core::model::layer_norm::LayerNorm;
use rwkv_core::model::v7::{ChannelMix, TimeMix, channel_mix, time_mix};
use rwkv_core::params::{Initial, Layout, Matrix, Vector};
use rwkv_core::{Channelwise, Exec, ModelConfig, Sizes, StateLayout, Version, read_tensors};
use rwkv_kernels::{Cpu, Isa};
use rwkv_train::tape::Tape;

const CONFIG: ModelConfig =
    ModelConfig { version: Version::V7, n_vocab: 12, n_embd: 32, n_layer: 2, n_ffn: 128, sizes: Sizes::NONE };
const HEAD: usize = 16;

/// Written by `crates/core/tests/fixtures/record_reverse_v7.py`, in double precision.
const RECORD: &str = include_str!("../../../core/tests/fixtures/reverse-v7.json");

struct Reverse {
    emb: Matrix,
    blocks: Vec<(LayerNorm, TimeMix, Vector, LayerNorm, ChannelMix)>,
    ln_out: LayerNorm,
    head: Matrix,
    bias: Vector,
}

impl Reverse {
    fn new(params: &mut Layout) -> Self {
        let config = ModelConfig { sizes: Sizes::new(&[HEAD as u32, 8, 8, 8, 8]), ..CONFIG };
        let (d, v) = (config.n_embd, config.n_vocab);
        let mut state = StateLayout::default();
        let emb = params.matrix("emb.weight", v, d, Initial::ZEROS);
        let mut block = |layer: usize| {
            let slots = [state.zeros(d), state.zeros(d * HEAD)];
            (
                LayerNorm::declare(&format!("blocks.{layer}.ln1"), d, params),
                TimeMix::declare(layer, &config, params, slots),
                params.vector(format!("blocks.{layer}.bias"), d, Initial::ZEROS),
                LayerNorm::declare(&format!("blocks.{layer}.ln2"), d, params),
                ChannelMix::declare(layer, &config, params, state.zeros(d)),
            )
        };
        let blocks = vec![block(0), block(1)];
        let ln_out = LayerNorm::declare("ln_out", d, params);
        let head = params.matrix("head.weight", v, d, Initial::ZEROS);
        let bias = params.vector("head.bias", v, Initial::ZEROS);
        Self { emb, blocks, ln_out, head, bias }
    }

    fn forward<E: Exec>(&self, e: &mut E) -> E::Tensor {
        let mut x = e.embed(self.emb);
        let mut v_first = None;
        for (ln1, att, bias, ln2, ffn) in &self.blocks {
            let a = ln1.of(e, x);
            let (a, v) = time_mix(e, att, a, v_first, HEAD);
            v_first = v_first.or(Some(v));
            x = e.add(x, a);
            x = e.channelwise(Channelwise::Shift, [x], *bias);
            let f = ln2.of(e, x);
            let f = channel_mix(e, ffn, f);
            x = e.add(x, f);
        }
        let x = self.ln_out.of(e, x);
        let logits = e.linear(self.head, x);
        e.channelwise(Channelwise::Shift, [logits], self.bias)
    }
}

/// Its name for one of our parameters.
fn their_name(name: &str) -> String {
    let of_block = |rest: &str| {
        let (layer, name) = rest.split_once('.').expect("a block");
        let n = layer.parse::<usize>().expect("a number") + 1;
        match name.split_once('.') {
            None => format!("rosa{n}.o.bias"),
            Some(("ln1", of)) => format!("ln{n}a.{of}"),
            Some(("ln2", of)) => format!("ln{n}b.{of}"),
            Some(("att", of)) => format!("rwkv{n}.{of}"),
            Some((part, of)) => format!("{part}{n}.{of}"),
        }
    };
    match name.strip_prefix("blocks.") {
        Some(rest) => of_block(rest),
        None => name.replace("emb.", "e.").replace("head.", "o.").replace("ln_out.", "lno."),
    }
}

#[test]
fn all_digits_of_a_published_model_come_out_right() {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "../../../shared/models/reverse-rwkv7-L2-C32.pth"].iter().collect();
    if !path.exists() {
        println!("skipped: there is no {} beside the repository", path.display());
        return;
    }
    let tensors: HashMap<_, _> = read_tensors(&path)
        .expect("a checkpoint")
        .into_iter()
        .map(|(info, values)| (info.name.clone(), (info.dims, values)))
        .collect();
    let mut layout = Layout::default();
    let model = Reverse::new(&mut layout);
    let values: Vec<_> = layout
        .specs()
        .iter()
        .map(|spec| {
            let (dims, values) = &tensors[&their_name(&spec.name)];
            // Factors of low rank are (inputs, outputs), row length first.
            if spec.is_low_rank && *dims == [spec.rows, spec.cols] {
                (0..spec.len()).map(|i| values[i % spec.cols * spec.rows + i / spec.cols]).collect()
            } else {
                values.clone()
            }
        })
        .collect();
    let record: serde_json::Value = serde_json::from_str(RECORD).expect("a record");
    let alphabet = record["alphabet"].as_str().expect("an alphabet");
    let tokens_of = |text: &serde_json::Value| -> Vec<u32> {
        let text = text.as_str().expect("a text");
        text.chars().map(|c| alphabet.find(c).expect("of the alphabet") as u32).collect()
    };
    for isa in Isa::available() {
        let (mut digits, mut right, mut worst) = (0, 0, 0.0_f64);
        for case in record["cases"].as_array().expect("cases") {
            let (prompt, answer) = (tokens_of(&case["prompt"]), tokens_of(&case["answer"]));
            let text = [&prompt[..], &answer].concat();
            let mut tape = Tape::new(Arc::new(Cpu::new(isa, 1)), &layout, values.clone());
            tape.begin(&text, text.len());
            let logits = model.forward(&mut tape);
            let logits = tape.value(logits);
            let rows: Vec<_> = logits.chunks(CONFIG.n_vocab).collect();
            for (i, &expected) in answer.iter().enumerate() {
                let row = rows[prompt.len() + i - 1];
                let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("logits");
                digits += 1;
                right += usize::from(best == expected as usize);
            }
            let recorded = case["logits"].as_array().expect("logits");
            for (ours, theirs) in rows[prompt.len() - 1].iter().zip(recorded) {
                worst = worst.max((f64::from(*ours) - theirs.as_f64().expect("a number")).abs());
            }
        }
        println!("{isa}: {right} of {digits}, largest difference of a logit {worst:.1e}");
        assert!(right == digits && digits > 300 && worst < 1e-3, "{isa}: {right} of {digits}, {worst}");
    }
}

//! Learns a text file with the Rust crates alone, and writes on from a prompt.
//!
//! ```sh
//! cargo run --release --example train_and_generate -- book.txt runs/book "Once upon"
//! ```

use std::path::Path;

use rwkv_core::{LoadOptions, Model, SamplerOptions, go_on};
use rwkv_session::{GenerateOptions, Session};
use rwkv_text::Tokenizer;
use rwkv_train::{Advance, TrainOptions, Trainer};

/// Learns the text file `book`, leaves a run in the directory `out`, and writes 200 characters after
/// `prompt`.
pub(crate) fn learn_and_write(book: &Path, out: &Path, prompt: &str) -> rwkv_train::Result<String> {
    let options = TrainOptions {
        n_layer: 2,
        n_embd: 64,
        max_steps: 300,
        eval_interval: 100,
        ..TrainOptions::new(book, out)
    };
    let mut trainer = Trainer::create(&options, go_on)?;
    // Learns, validates, keeps the best model and saves, as the options say.
    trainer.run(go_on, |_, Advance { step, val_loss, .. }| {
        if let Some(val_loss) = val_loss {
            println!("step {}: loss {:.3}, validation loss {val_loss:.3}", step.step, step.loss);
        }
    })?;

    // From here on `rwkv-core`, `rwkv-text` and `rwkv-session` are enough, with the files in `out`.
    let model = Model::load(out, &LoadOptions::default())?;
    let tokenizer = Tokenizer::load(out.join("tokenizer.json"))?;
    let session = Session::new(&model, Some(&tokenizer))?;
    let sampler = SamplerOptions { temperature: 0.8, seed: 1, ..Default::default() };
    let mut text = prompt.to_owned();
    for piece in
        session.generate(prompt, &GenerateOptions { max_tokens: 200, sampler, ..Default::default() })?
    {
        text += &piece?.text;
    }
    Ok(text)
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [book, out, prompt] = &arguments[..] else {
        eprintln!("usage: train_and_generate BOOK OUT PROMPT");
        std::process::exit(2);
    };
    match learn_and_write(book.as_ref(), out.as_ref(), prompt) {
        Ok(text) => println!("{text}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

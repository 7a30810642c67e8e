//! How well a model predicts texts in files.

use std::ops::Range;

use rwkv_core::{Control, Error, Evaluation, Model, Result, State};
use rwkv_text::documents::{read_documents, tokens_with};
use rwkv_text::source::{Input, SourceOptions};
use rwkv_text::{Tokenizer, TokenizerKind};

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextLoss {
    /// In tokens.
    pub evaluation: Evaluation,
    /// Bytes that those tokens stand for.
    pub n_bytes: usize,
}

impl TextLoss {
    /// The loss in bits for each byte of the text: comparable between tokenizers.
    pub fn bits_per_byte(&self) -> f64 {
        self.evaluation.bits_per_byte(self.n_bytes)
    }
}

/// The mean loss of a model over the tokens of some texts, from the state `initial`; see
/// [`Model::evaluate_from`] for `ctx_len`.
///
/// `inputs` are files, folders, patterns and texts, as [`read_documents`] takes them. `control` is told tokens, once they are
/// known.
///
/// With the World vocabulary the text is read from the empty state as one that follows another: token 0 comes before
/// it, as in the evaluations of RWKV's author (`RWKV-v7/rwkv_mmlu_eval.py` of RWKV-LM), and its first token is
/// predicted, too. Windows of `ctx_len` are those of training, without it.
///
/// # Errors
/// Those of reading and encoding the texts; [`Error::Data`] for less than two tokens; [`Error::State`] for a state of
/// another model; [`Error::Aborted`] if `control` says so, which is asked while a pipe has no writer too.
pub fn evaluate_texts(
    model: &Model,
    tokenizer: &Tokenizer,
    inputs: &[Input],
    options: &SourceOptions,
    (initial, ctx_len): (&State, Option<usize>),
    mut control: impl Control,
) -> Result<TextLoss> {
    model.check_state(initial)?;
    let documents = read_documents(inputs, options, tokenizer.takes_bytes(), |_| (), |_, _| control(0, 0))?;
    let mut tokens = tokens_with(&documents, documents.len() > 1, tokenizer, |_, _| control(0, 0))?;
    if tokens.len() < 2 {
        let problem = format!("a text of {} tokens; it takes 2, one to predict the other from", tokens.len());
        return Err(Error::Data {
            path: inputs.first().map(|input| input.name().to_owned()).unwrap_or_default(),
            problem,
        });
    }
    if tokenizer.kind() == TokenizerKind::World && ctx_len.is_none() && *initial == model.new_state() {
        tokens.splice(0..0, tokenizer.end_of_text());
    }
    let evaluation = model.evaluate_from(initial, &tokens, ctx_len, control)?;
    let predicted: Range<usize> = 1..evaluation.n_tokens + 1;
    let n_bytes = tokenizer.decode(&tokens[predicted])?.len();
    Ok(TextLoss { evaluation, n_bytes })
}

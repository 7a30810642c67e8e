//! How well a model predicts a text.

use std::ops::ControlFlow;
use std::sync::Arc;

use napi::Either;
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use rwkv_session::evaluate_texts;

use crate::control::Cancel;
use crate::job::Job;
use crate::model::NativeModel;
use crate::number::count;
use crate::state::NativeState;
use crate::texts::{Texts, inputs_of};
use crate::tokenizer::NativeTokenizer;

/// How well a model predicts a text.
#[napi(object)]
pub struct TextLoss {
    /// Number of tokens predicted.
    pub tokens: f64,
    /// Mean of −ln p over those.
    pub loss: f64,
    /// e^loss.
    pub perplexity: f64,
    /// The loss in bits for each byte that those tokens stand for.
    pub bits_per_byte: f64,
}

#[napi]
impl NativeModel {
    /// The loss on texts; with a `ctx_len`, in windows of so many tokens. The texts, or a window, start from `state`,
    /// or else from the empty one.
    #[napi(ts_return_type = "Promise<TextLoss>")]
    pub fn evaluate(
        &self,
        inputs: Vec<Either<String, Uint8Array>>,
        tokenizer: &NativeTokenizer,
        ctx_len: Option<f64>,
        texts: Texts,
        state: Option<&NativeState>,
        cancel: &Cancel,
    ) -> Job<TextLoss> {
        let (handle, tokenizer, flag) = (Arc::clone(&self.handle), tokenizer.0.clone(), cancel.flag());
        let cancel = flag.clone();
        let inputs = inputs_of(inputs);
        let state = state.map(|state| Arc::clone(&state.0));
        Job::stoppable(&flag, move || {
            let model = handle.get()?;
            let initial = state.map_or_else(|| model.new_state(), Arc::unwrap_or_clone);
            let ctx_len = count("ctxLen", ctx_len)?;
            let mut stopped = Ok(());
            let found = evaluate_texts(
                &model,
                &tokenizer,
                &inputs,
                &texts.into(),
                (&initial, ctx_len),
                |done, total| {
                    cancel.progress(done, total);
                    stopped = handle.go_on(&cancel);
                    if stopped.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                },
            );
            stopped?;
            let found = found?;
            Ok(TextLoss {
                tokens: found.evaluation.n_tokens as f64,
                loss: found.evaluation.loss,
                perplexity: found.evaluation.perplexity(),
                bits_per_byte: found.bits_per_byte(),
            })
        })
    }
}

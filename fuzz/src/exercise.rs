//! What every model that loads is put through.

use rwkv_core::{Error, Model, Outputs, Sampler, SamplerOptions, Segment, State};

use crate::check_error;

/// Evaluates a few tokens from `state` on, in all the ways there are, which must agree; samples from the
/// logits; takes the state through its byte form. An error is an answer too, but then every way gives one.
pub fn evaluate(model: &Model, state: &State) {
    let last = model.config().n_vocab as u32 - 1;
    let tokens = [0, last, last / 2, 0, last];
    let mut after = state.clone();
    let all = match model.eval_all(&tokens, &mut after) {
        Ok(all) => all,
        Err(error) => {
            check_error(&error);
            assert_eq!(bits(after.as_slice()), bits(state.as_slice()), "an error changed the state");
            return;
        }
    };
    assert_eq!(all.len(), tokens.len() * model.config().n_vocab);

    let mut serial = state.clone();
    for (token, expected) in tokens.iter().zip(all.chunks(model.config().n_vocab)) {
        let logits = match model.eval(&[*token], &mut serial) {
            Ok(logits) => logits,
            // A state that is not finite may be refused where it is read, and not where it is passed on.
            Err(error) => return check_error(&error),
        };
        assert_eq!(bits(&logits), bits(expected), "serial and sequence evaluation differ");
    }
    assert_eq!(bits(serial.as_slice()), bits(after.as_slice()));

    let (mut first, mut second) = (state.clone(), state.clone());
    let mut segments = [
        Segment { tokens: &tokens[..2], state: &mut first },
        Segment { tokens: &tokens, state: &mut second },
    ];
    if let Ok(logits) = model.eval_batch(&mut segments, Outputs::Last) {
        assert_eq!(bits(&logits[1]), bits(&all[4 * model.config().n_vocab..]), "a batch differs");
    }

    for temperature in [0.0, 0.7] {
        let options =
            SamplerOptions { temperature, top_k: Some(3), top_p: 0.9, seed: 1, ..Default::default() };
        let token = Sampler::new(options).expect("sound options").sample(&all[..model.config().n_vocab]);
        assert!(token <= last, "the sampler chose token {token}");
    }
    match model.state_from_bytes(&after.to_bytes().expect("a state")) {
        Ok(read) => assert_eq!(bits(read.as_slice()), bits(after.as_slice())),
        // Sums that overflowed are no state to go on from.
        Err(error) => {
            check_error(&error);
            assert!(!after.as_slice().iter().all(|value| value.is_finite()), "{error}");
        }
    }
    let refused = model.eval(&[last + 1], &mut after);
    assert!(matches!(refused, Err(Error::TokenOutOfRange { .. })));
}

/// The bits of floats; of those that are no numbers nothing is promised but that.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

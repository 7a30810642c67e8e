//! What a model remembers of a text: a few vectors a layer, however long the text.

use std::ops::Range;

use rwkv_kernels::all_finite;

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// A place in a state: `len` floats from `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First float.
    pub at: usize,
    /// Number of floats.
    pub len: usize,
}

impl Slot {
    /// The slot's place in a state's floats.
    pub fn range(self) -> Range<usize> {
        self.at..self.at + self.len
    }
}

/// Where each layer keeps what it remembers, and what that is before the first token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateLayout {
    initial: Vec<f32>,
}

impl StateLayout {
    /// `pp`, the running maximum of v4's exponents, before the first token; rwkv.cpp's value for "minus infinity".
    const EMPTY: f32 = -1e30;

    /// A slot of `len` floats that starts as zeros.
    pub fn zeros(&mut self, len: usize) -> Slot {
        self.filled(len, 0.0)
    }

    /// v4's (aa, bb, pp) of `n_embd` floats each, in one slot: sums of nothing, and their exponent.
    pub fn wkv4(&mut self, n_embd: usize) -> Slot {
        let Slot { at, .. } = self.zeros(2 * n_embd);
        self.filled(n_embd, Self::EMPTY);
        Slot { at, len: 3 * n_embd }
    }

    /// The state before the first token; its length is the state's.
    pub fn initial(&self) -> &[f32] {
        &self.initial
    }

    fn filled(&mut self, len: usize, value: f32) -> Slot {
        let at = self.initial.len();
        self.initial.resize(at + len, value);
        Slot { at, len }
    }
}

/// All that a model remembers of one text: a few KB for a small model, a few MB for a large one, and no more after a
/// million tokens than after one.
///
/// Cloning a state forks the text; comparing two compares what they hold, float by float.
///
/// The byte form, all little-endian: `rwkvstat`, u32 1 (its version), the model's [`Fingerprint`] (u32 version, n_vocab,
/// n_embd, n_layer, n_ffn, CRC-32 of its weights), u32 number of floats, the floats, u32 CRC-32 of everything before.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    model: Fingerprint,
    values: Vec<f32>,
}

const MAGIC: &[u8; 8] = b"rwkvstat";
const FORMAT: u32 = 1;
/// Bytes before the floats: magic, version, fingerprint, number of floats.
const HEAD: usize = 8 + 4 + Fingerprint::LEN + 4;

impl State {
    /// The state of `model` before the first token.
    pub(crate) fn new(model: Fingerprint, layout: &StateLayout) -> Self {
        Self { model, values: layout.initial().to_vec() }
    }

    /// Which model it belongs to.
    pub fn model(&self) -> &Fingerprint {
        &self.model
    }

    /// The floats, in rwkv.cpp's order: for each layer of v4 `ffn_xx`, `att_xx`, aa, bb, pp, n_embd each.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// The floats, to change.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The byte form; [`from_bytes`](Self::from_bytes) is its inverse.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 4 * self.values.len() + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.model.to_bytes());
        // A state has 5 · n_embd · n_layer floats: far below 2³².
        bytes.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        bytes.extend_from_slice(bytemuck::cast_slice(&self.values));
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the byte form.
    ///
    /// This checks that the bytes are those that were written; whether they are from the right model is checked where
    /// the state is used ([`Model::state_from_bytes`](crate::Model::state_from_bytes) does both).
    ///
    /// # Errors
    /// [`Error::State`] that says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let fault = |problem: String| Error::State { problem };
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Err(fault(format!(
                "{} bytes are too few for a state; it has at least {}",
                bytes.len(),
                HEAD + 4
            )));
        };
        if &head[..8] != MAGIC {
            return Err(fault("these bytes are not a state: they do not start with \"rwkvstat\"".into()));
        }
        let number = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&head[at..at + 4]);
            u32::from_le_bytes(number)
        };
        let format = number(8);
        if format != FORMAT {
            return Err(fault(format!(
                "its bytes are of version {format}; this program reads version {FORMAT}"
            )));
        }
        let len = number(HEAD - 4) as usize;
        if len.checked_mul(4).and_then(|len| len.checked_add(4)) != Some(rest.len()) {
            let expected = HEAD as u64 + 4 * len as u64 + 4;
            return Err(fault(format!(
                "{} bytes, where {expected} were written: it is incomplete or damaged",
                bytes.len()
            )));
        }
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(fault("its checksum does not fit its bytes: it is damaged".into()));
        }
        let mut model = [0; Fingerprint::LEN];
        model.copy_from_slice(&head[12..12 + Fingerprint::LEN]);
        let Some(model) = Fingerprint::from_bytes(model) else {
            return Err(fault(format!(
                "it is from an RWKV version {} that this program does not know",
                number(12)
            )));
        };
        let values = body[HEAD..].as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        Ok(Self { model, values })
    }

    /// Whether `model`, whose states have the floats of `layout`, can go on from here.
    ///
    /// A float that is infinite or not a number would be in every later one, without a word.
    pub(crate) fn check(&self, model: &Fingerprint, layout: &StateLayout) -> Result<()> {
        if let Some(problem) = self.model.mismatch(model) {
            return Err(Error::State { problem });
        }
        let (is, expected) = (self.values.len(), layout.initial().len());
        if is != expected {
            return Err(Error::State { problem: format!("it has {is} floats; this model's has {expected}") });
        }
        if !all_finite(&self.values)
            && let Some(at) = self.values.iter().position(|value| !value.is_finite())
        {
            return Err(Error::State { problem: format!("its float {at} is {}", self.values[at]) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::ModelConfig;
    use crate::model::Network;

    fn example() -> (State, StateLayout) {
        let config = ModelConfig::v4(5, 4, 2);
        let (_, _, layout) = Network::new(&config);
        let mut state = State::new(Fingerprint { config, weights: 0x1234_5678 }, &layout);
        for (index, value) in state.as_mut_slice().iter_mut().enumerate() {
            *value += index as f32 * 0.1;
        }
        (state, layout)
    }

    #[test]
    fn a_new_state_is_empty_sums_with_an_exponent_of_minus_infinity() {
        let config = ModelConfig::v4(5, 2, 1);
        let (_, _, layout) = Network::new(&config);
        let state = State::new(Fingerprint { config, weights: 0 }, &layout);
        assert_eq!(state.as_slice(), [0., 0., 0., 0., 0., 0., 0., 0., -1e30, -1e30]);
    }

    #[test]
    fn bytes_round_trip() {
        let (state, layout) = example();
        let read = State::from_bytes(&state.to_bytes()).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.to_bytes(), state.to_bytes());
        read.check(state.model(), &layout).unwrap();
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_noticed() {
        let (state, _) = example();
        let bytes = state.to_bytes();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert_eq!(State::from_bytes(&bytes).unwrap_err().code(), "STATE", "byte {at}");
            assert_eq!(State::from_bytes(&bytes[..at]).unwrap_err().code(), "STATE", "{at} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(State::from_bytes(&longer).unwrap_err().code(), "STATE");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            prop_assert!(State::from_bytes(&body).is_err());
            // Behind a sound beginning, the length and the rest are whatever they are.
            let head = &example().0.to_bytes()[..HEAD - 4];
            prop_assert!(State::from_bytes(&[head, &body].concat()).is_err());
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        struct Case {
            change: fn(&mut Vec<u8>),
            says: &'static str,
        }
        let cases = [
            Case { change: |bytes| bytes.clear(), says: "too few" },
            Case { change: |bytes| bytes[0] = b'x', says: "not a state" },
            Case { change: |bytes| bytes[8] = 9, says: "version 9" },
            Case { change: |bytes| bytes.truncate(100), says: "incomplete" },
            Case { change: |bytes| bytes[60] ^= 1, says: "checksum" },
        ];
        for Case { change, says } in cases {
            let mut bytes = example().0.to_bytes();
            change(&mut bytes);
            let message = State::from_bytes(&bytes).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn another_model_refuses_it_and_says_how_it_differs() {
        let (state, layout) = example();
        let model = *state.model();
        let other_shape = Fingerprint { config: ModelConfig::v4(5, 8, 2), ..model };
        let other_weights = Fingerprint { weights: 1, ..model };
        let says = |model| state.check(&model, &layout).unwrap_err().to_string();
        assert!(says(other_shape).contains("n_embd 8"), "{}", says(other_shape));
        assert!(says(other_weights).contains("other weights"), "{}", says(other_weights));
        // A forged length under the right fingerprint.
        let forged = State { model, values: vec![0.0; 3] };
        assert!(forged.check(&model, &layout).unwrap_err().to_string().contains("3 floats"));
    }

    #[test]
    fn a_state_that_is_not_finite_is_refused() {
        let (state, layout) = example();
        let model = *state.model();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut state = state.clone();
            state.as_mut_slice()[7] = bad;
            let read = State::from_bytes(&state.to_bytes()).unwrap();
            let error = read.check(&model, &layout).unwrap_err();
            assert!(
                error.code() == "STATE" && error.to_string().contains(&format!("float 7 is {bad}")),
                "{error}"
            );
        }
    }
}

//! The state of a model after a text: a few vectors a layer, however long the text.

pub(crate) mod time_state;

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rwkv_kernels::{Cpu, all_finite};

use crate::checksum::Origin;
use crate::error::{Error, Result};
use crate::fingerprint::{Fingerprint, OF_A_PART};
use crate::regular::open_regular;

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

/// Where each layer keeps its part of a state, and what that is before the first token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateLayout {
    parts: Vec<Part>,
    len: usize,
}

/// Consecutive floats of a state that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    len: usize,
    /// Before the first token.
    initial: f32,
    /// Where training of the state itself starts, and the least and the greatest value that it may give.
    tuned: f32,
    least: f32,
    most: f32,
}

impl StateLayout {
    /// `pp`, the running maximum of v4's exponents, before the first token; rwkv.cpp's value for "minus
    /// infinity".
    const EMPTY: f32 = -1e30;

    /// A slot of `len` floats that starts as zeros.
    pub fn zeros(&mut self, len: usize) -> Slot {
        self.add(Part { len, initial: 0.0, tuned: 0.0, least: f32::MIN, most: f32::MAX })
    }

    /// A slot that starts as zeros, and stays so where the state itself is trained.
    pub fn untuned_zeros(&mut self, len: usize) -> Slot {
        self.add(Part { len, initial: 0.0, tuned: 0.0, least: 0.0, most: 0.0 })
    }

    /// v4's (aa, bb, pp) of `n_embd` floats each, in one slot: sums of nothing, and their exponent.
    ///
    /// A state that is trained starts from sums of nothing too, but relative to the exponent 0, from which
    /// they can grow; bb is a sum of weights and stays positive.
    pub fn wkv4(&mut self, n_embd: usize) -> Slot {
        let Slot { at, .. } = self.zeros(n_embd);
        self.add(Part { len: n_embd, initial: 0.0, tuned: 0.0, least: 0.0, most: f32::MAX });
        self.add(Part { len: n_embd, initial: Self::EMPTY, tuned: 0.0, least: f32::MIN, most: f32::MAX });
        Slot { at, len: 3 * n_embd }
    }

    /// Number of floats of a state.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a state has no floats.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The state before the first token.
    pub fn initial(&self) -> Vec<f32> {
        self.values(|part| part.initial)
    }

    /// Where training of the state itself starts.
    pub fn tuned(&self) -> Vec<f32> {
        self.values(|part| part.tuned)
    }

    /// Moves floats of a trained state that have left their range back to its border.
    pub fn clamp(&self, state: &mut [f32]) {
        let mut rest = state;
        for part in &self.parts {
            let (own, after) = rest.split_at_mut(part.len);
            for value in own {
                *value = value.max(part.least).min(part.most);
            }
            rest = after;
        }
    }

    fn values(&self, value: impl Fn(&Part) -> f32) -> Vec<f32> {
        self.parts.iter().flat_map(|part| std::iter::repeat_n(value(part), part.len)).collect()
    }

    fn add(&mut self, part: Part) -> Slot {
        let slot = Slot { at: self.len, len: part.len };
        self.parts.push(part);
        self.len += part.len;
        slot
    }
}

/// A model's memory of one text, the recurrent state: a few KB for a small model, a few MB for a large one,
/// and no more after a million tokens than after one.
///
/// Cloning a state forks the text; comparing two compares what they hold, float by float, and their models'
/// fingerprints if they were made by two models.
///
/// The byte form, all little-endian: `rwkvstat`, u32 2 (its version), the model's [`Fingerprint`] (u32
/// version, n_vocab, n_embd, n_layer, n_ffn, what other sizes the version has, CRC-32 of its weights), u32
/// number of floats, the floats, u32 CRC-32 of everything before.
#[derive(Clone, Debug)]
pub struct State {
    origin: Arc<Origin>,
    values: Vec<f32>,
    /// Whether they are known to be finite.
    is_finite: bool,
}

const MAGIC: &[u8; 8] = b"rwkvstat";
const FORMAT: u32 = 2;
/// Bytes before the fingerprint: magic and version.
const HEAD: usize = 8 + 4;
/// The least that a state has: no sizes beyond the common ones, no floats, a checksum.
const LEAST: usize = HEAD + 24 + 4 + 4;

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values && self.origin.is(&other.origin)
    }
}

impl State {
    /// The state of `model` before the first token.
    pub(crate) fn new(model: &Arc<Origin>, layout: &StateLayout) -> Self {
        Self { origin: Arc::clone(model), values: layout.initial(), is_finite: true }
    }

    /// A state of `model` with these floats.
    pub(crate) fn of_values(model: &Arc<Origin>, values: Vec<f32>) -> Self {
        Self { origin: Arc::clone(model), values, is_finite: false }
    }

    /// The same, of a model that was found to be its own.
    pub(crate) fn with_origin(self, model: &Arc<Origin>) -> Self {
        Self { origin: Arc::clone(model), ..self }
    }

    /// Which model it belongs to. Of a state that did not come from bytes, the first call reads all weights
    /// of the model.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the model's file was written to, [`Error::Io`].
    pub fn model(&self) -> Result<Fingerprint> {
        self.origin.fingerprint(None)
    }

    /// The floats, in rwkv.cpp's order: for each layer `ffn_xx` and `att_xx`, n_embd each, and then
    /// what the attention keeps: aa, bb, pp in v4, S of each head in v7.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// The floats, to change.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.is_finite = false;
        &mut self.values
    }

    /// A later state of the same model, of finite floats.
    pub(crate) fn next(&self, values: Vec<f32>) -> Self {
        Self { origin: Arc::clone(&self.origin), values, is_finite: true }
    }

    /// The floats.
    pub(crate) fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Takes finite floats of the same model, and leaves the old ones in their place.
    pub(crate) fn replace(&mut self, values: &mut Vec<f32>) {
        std::mem::swap(&mut self.values, values);
        self.is_finite = true;
    }

    /// Whether the file at `path` begins as one of [`to_bytes`](Self::to_bytes).
    pub(crate) fn is_one(path: &Path) -> bool {
        let mut first = [0; 8];
        let read = open_regular(path).and_then(|mut file| file.read_exact(&mut first));
        read.is_ok() && first == *MAGIC
    }

    /// The byte form; [`from_bytes`](Self::from_bytes) is its inverse. It names the model by a checksum of
    /// all its weights, which the first call for a model computes.
    ///
    /// # Errors
    /// Those of [`model`](Self::model).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let model = self.model()?;
        let mut bytes = Vec::with_capacity(LEAST + 4 * self.values.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&model.to_bytes());
        // The largest published model's has 17 million floats: far below 2³².
        bytes.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        bytes.extend_from_slice(bytemuck::cast_slice(&self.values));
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads the byte form.
    ///
    /// This checks that the bytes are those that were written; whether they are from the right model is
    /// checked where the state is used ([`Model::state_from_bytes`](crate::Model::state_from_bytes) does
    /// both).
    ///
    /// # Errors
    /// [`Error::State`] that says what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let fault = |problem: String| Error::State { problem };
        if bytes.len() < LEAST {
            let problem = format!("{} bytes are too few for a state; it has at least {LEAST}", bytes.len());
            return Err(fault(problem));
        }
        let (head, rest) = bytes.split_at(HEAD);
        if &head[..8] != MAGIC {
            return Err(fault("these bytes are not a state: they do not start with \"rwkvstat\"".into()));
        }
        let format = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if format == 1 {
            return Err(fault(format!("it was {OF_A_PART}; make it again from its text")));
        }
        if format != FORMAT {
            return Err(fault(format!(
                "its bytes are of version {format}; this program reads version {FORMAT}"
            )));
        }
        let (model, rest) = Fingerprint::from_bytes(rest).map_err(fault)?;
        let Some((len, rest)) = rest.split_first_chunk() else {
            return Err(fault("it is incomplete: its number of floats is missing".to_owned()));
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len.checked_mul(4).and_then(|len| len.checked_add(4)) != Some(rest.len()) {
            let expected = (bytes.len() - rest.len()) as u64 + 4 * len as u64 + 4;
            return Err(fault(format!(
                "{} bytes, where {expected} were written: it is incomplete or damaged",
                bytes.len()
            )));
        }
        let (body, crc) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(fault("its checksum does not fit its bytes: it is damaged".into()));
        }
        let values = rest[..4 * len].as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        Ok(Self { origin: Origin::known(model), values, is_finite: false })
    }

    /// Whether `model`, whose states have the floats of `layout`, can go on from here.
    ///
    /// A float that is infinite or not a number would be in every later one, without a word.
    pub(crate) fn check(&self, model: &Origin, layout: &StateLayout, cpu: &Cpu) -> Result<()> {
        if let Some(problem) = self.origin.mismatch(model, Some(cpu))? {
            return Err(Error::State { problem });
        }
        let (is, expected) = (self.values.len(), layout.len());
        if is != expected {
            return Err(Error::State { problem: format!("it has {is} floats; this model's has {expected}") });
        }
        if !self.is_finite
            && !all_finite(&self.values)
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

    fn cpu() -> Cpu {
        Cpu::new(rwkv_kernels::Isa::Scalar, 1)
    }

    fn example() -> (State, StateLayout) {
        let config = ModelConfig::v4(5, 4, 2);
        let (_, _, layout) = Network::new(&config);
        let mut state = State::new(&Origin::known(Fingerprint { config, weights: 0x1234_5678 }), &layout);
        for (index, value) in state.as_mut_slice().iter_mut().enumerate() {
            *value += index as f32 * 0.1;
        }
        (state, layout)
    }

    /// A sum of weights that training has made negative would divide by less than nothing.
    #[test]
    fn a_trained_state_stays_where_its_sums_can_be() {
        let mut layout = StateLayout::default();
        layout.zeros(1);
        layout.wkv4(2);
        layout.untuned_zeros(1);
        let mut state = [-1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, 8.0];
        layout.clamp(&mut state);
        assert_eq!(
            state.map(f32::to_bits),
            [-1.0_f32, -2.0, 3.0, 0.0, 5.0, -6.0, 7.0, 0.0].map(f32::to_bits)
        );
    }

    #[test]
    fn a_new_state_is_empty_sums_with_an_exponent_of_minus_infinity() {
        let config = ModelConfig::v4(5, 2, 1);
        let (_, _, layout) = Network::new(&config);
        let state = State::new(&Origin::known(Fingerprint { config, weights: 0 }), &layout);
        assert_eq!(state.as_slice(), [0., 0., 0., 0., 0., 0., 0., 0., -1e30, -1e30]);
    }

    #[test]
    fn bytes_round_trip() {
        let (state, layout) = example();
        let read = State::from_bytes(&state.to_bytes().unwrap()).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.to_bytes().unwrap(), state.to_bytes().unwrap());
        read.check(&state.origin, &layout, &cpu()).unwrap();
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_noticed() {
        let (state, _) = example();
        let bytes = state.to_bytes().unwrap();
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
            let head = &example().0.to_bytes().unwrap()[..HEAD - 4];
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
            Case {
                change: |bytes| bytes[8] = 1,
                says: "looked at a part of the weights only; make it again",
            },
            Case { change: |bytes| bytes.truncate(100), says: "incomplete" },
            Case { change: |bytes| bytes[60] ^= 1, says: "checksum" },
        ];
        for Case { change, says } in cases {
            let mut bytes = example().0.to_bytes().unwrap();
            change(&mut bytes);
            let message = State::from_bytes(&bytes).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn another_model_refuses_it_and_says_how_it_differs() {
        let (state, layout) = example();
        let model = state.model().unwrap();
        let other_shape = Fingerprint { config: ModelConfig::v4(5, 8, 2), ..model };
        let other_weights = Fingerprint { weights: 1, ..model };
        let says = |model| state.check(&Origin::known(model), &layout, &cpu()).unwrap_err().to_string();
        assert!(says(other_shape).contains("n_embd 8"), "{}", says(other_shape));
        assert!(says(other_weights).contains("other weights"), "{}", says(other_weights));
        // A forged length under the right fingerprint.
        let forged = State { values: vec![0.0; 3], ..state.clone() };
        assert!(forged.check(&state.origin, &layout, &cpu()).unwrap_err().to_string().contains("3 floats"));
    }

    #[test]
    fn a_state_that_is_not_finite_is_refused() {
        let (state, layout) = example();
        let model = state.model().unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut state = state.clone();
            state.as_mut_slice()[7] = bad;
            let read = State::from_bytes(&state.to_bytes().unwrap()).unwrap();
            let error = read.check(&Origin::known(model), &layout, &cpu()).unwrap_err();
            assert!(
                error.code() == "STATE" && error.to_string().contains(&format!("float 7 is {bad}")),
                "{error}"
            );
        }
    }
}

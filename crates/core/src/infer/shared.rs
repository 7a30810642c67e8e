//! What the clones of a model share, and its passes over tokens.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rwkv_kernels::{Cpu, all_finite};

use super::batch::{Outputs, Part, Position, Scratch, Segment};
use super::exec::{Infer, Needed};
use crate::checksum::Origin;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Network;
use crate::state::StateLayout;
use crate::store::{NotFinite, Parameters};

/// What does not depend on who computes.
pub(super) struct Shared {
    pub(super) config: ModelConfig,
    network: Network,
    pub(super) parameters: Parameters,
    pub(super) state_layout: StateLayout,
    pub(super) origin: Arc<Origin>,
    /// Memory of finished passes, for the next ones: as many as ever ran at the same time.
    scratch: Mutex<Vec<Scratch>>,
}

impl Shared {
    pub(super) fn new(config: ModelConfig, parameters: Parameters, cpu: &Arc<Cpu>) -> Arc<Self> {
        let (network, layout, state_layout) = Network::new(&config);
        assert_eq!(layout.specs().len(), parameters.n_model(), "parameters of another model");
        let origin = Origin::new(config, parameters.parts(), cpu);
        Arc::new(Self { config, network, parameters, state_layout, origin, scratch: Mutex::default() })
    }

    /// Reads all segments, in as many passes as it takes.
    ///
    /// Calls `sink(segment, tokens, logits)` with the logits (tokens, n_vocab) of those tokens of the segment
    /// for which they are wanted, in order within a segment. On an error, that of `sink` too, all states are
    /// as they were.
    pub(super) fn run(
        &self,
        cpu: &Cpu,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for segment in segments.iter() {
            self.check_tokens(segment.tokens)?;
            segment.state.check(&self.origin, &self.state_layout, cpu)?;
        }
        self.parameters.check_file()?;
        let pool = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = pool().pop().unwrap_or_default();
        scratch.states.clear();
        // A slice at a time: float by float this took 2 % of a token's time, at 1.5 billion parameters in
        // Q4_0.
        for segment in segments.iter() {
            scratch.states.extend_from_slice(segment.state.as_slice());
        }
        let result = self.run_with(cpu, &mut scratch, segments, outputs, sink);
        if result.is_err() {
            let mut before = scratch.states.as_slice();
            for Segment { state, .. } in segments {
                let (own, rest) = before.split_at(state.as_slice().len());
                state.as_mut_slice().copy_from_slice(own);
                before = rest;
            }
        }
        pool().push(scratch);
        result
    }

    fn run_with(
        &self,
        cpu: &Cpu,
        scratch: &mut Scratch,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        mut sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let n_vocab = self.config.n_vocab;
        let mut next = Position::default();
        while scratch.plan(segments, outputs, &mut next) {
            let Scratch {
                arena,
                activations,
                tokens,
                rows,
                outputs,
                kept,
                needed_rows,
                needed_outputs,
                parts,
                states: _,
            } = &mut *scratch;
            // A pass takes consecutive segments, so its states are a stretch too.
            let members = parts.first().map_or(0, |part| part.segment)..next.planned;
            let mut states: Vec<_> =
                segments[members].iter_mut().map(|segment| segment.state.as_mut_slice()).collect();
            arena.clear();
            let mut infer = Infer {
                parameters: &self.parameters,
                cpu,
                arena,
                activations,
                tokens,
                segments: rows,
                states: &mut states,
                outputs,
                needed: Needed { kept, segments: needed_rows, outputs: needed_outputs },
                not_finite: None,
            };
            let logits = self.network.forward(&mut infer);
            let not_finite = infer.not_finite;
            let mut logits = arena.get(logits);
            self.check_pass(cpu, not_finite, logits, &states)?;
            for Part { segment, tokens, outputs } in &*parts {
                let (rows, rest) = logits.split_at(outputs * n_vocab);
                logits = rest;
                if *outputs > 0 {
                    sink(*segment, tokens.end - outputs..tokens.end, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Whether what a pass computed means anything.
    ///
    /// # Errors
    /// [`Error::FileChanged`] if the weights changed meanwhile, which explains all else; [`Error::ModelFile`]
    /// or [`Error::NotFinite`] for what is infinite or not a number.
    fn check_pass(
        &self,
        cpu: &Cpu,
        not_finite: Option<NotFinite>,
        logits: &[f32],
        states: &[&mut [f32]],
    ) -> Result<()> {
        let parameters = &self.parameters;
        parameters.check_file()?;
        if let Some(found) = not_finite {
            let error = parameters.explain(cpu, found);
            parameters.check_file()?;
            return Err(error);
        }
        // Whatever goes wrong reaches the logits of its token or the states, and those of no other.
        let finite = all_finite(logits) && states.iter().all(|state| all_finite(state));
        if finite { Ok(()) } else { Err(Error::NotFinite { what: "what the model computes".to_owned() }) }
    }

    /// Whether there are tokens, and the model has all of them.
    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let n_vocab = self.config.n_vocab;
        if tokens.is_empty() {
            return Err(Error::option("tokens", "empty", "at least one token"));
        }
        match tokens.iter().find(|&&token| token as usize >= n_vocab) {
            Some(&token) => Err(Error::TokenOutOfRange { token, n_vocab }),
            None => Ok(()),
        }
    }
}

//! What the clones of a model share, and its passes over tokens.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rwkv_kernels::{Cpu, all_finite};

use super::batch::{Outputs, Part, Position, Reading, Scratch, Segment};
use super::exec::{Infer, Needed, SegmentState};
use crate::checksum::Origin;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Network;
use crate::state::StateLayout;
use crate::store::{NotFinite, Parameters};

/// What does not depend on who computes.
pub(crate) struct Shared {
    pub(super) config: ModelConfig,
    network: Network,
    pub(super) parameters: Parameters,
    pub(crate) state_layout: StateLayout,
    pub(crate) origin: Arc<Origin>,
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
    /// for which they are wanted, in order within a segment. `stop` is asked before every product, and within those that
    /// take long.
    ///
    /// # Errors
    /// [`Error::Aborted`] if `stop` says so; those of `sink` and of [`Model::eval`](super::Model::eval). The new
    /// states then mean nothing.
    pub(crate) fn run(
        &self,
        cpu: &Cpu,
        segments: &mut [Reading<'_>],
        stop: &dyn Fn() -> bool,
        sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for segment in segments.iter() {
            self.check_tokens(segment.tokens)?;
            segment.from.check(&self.origin, &self.state_layout, cpu)?;
            assert_eq!(segment.to.len(), self.state_layout.len(), "room for a state");
        }
        self.parameters.check_file()?;
        let mut scratch = self.take_scratch();
        let result = self.run_with(cpu, &mut scratch, segments, stop, sink);
        self.keep_scratch(scratch);
        result
    }

    /// As [`run`](Self::run), of segments whose states are moved forward, or stay as they were on an error.
    pub(super) fn run_segments(
        &self,
        cpu: &Cpu,
        segments: &mut [Segment<'_>],
        outputs: Outputs,
        stop: &dyn Fn() -> bool,
        sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut scratch = self.take_scratch();
        let mut states = std::mem::take(&mut scratch.states);
        self.keep_scratch(scratch);
        states.resize_with(segments.len(), Vec::new);
        for state in &mut states {
            state.resize(self.state_layout.len(), 0.0);
        }
        let mut readings: Vec<_> = segments
            .iter()
            .zip(&mut states)
            .map(|(Segment { tokens, state }, to)| Reading { tokens, from: state, to, outputs })
            .collect();
        let result = self.run(cpu, &mut readings, stop, sink);
        if result.is_ok() {
            for (Segment { state, .. }, new) in segments.iter_mut().zip(&mut states) {
                state.replace(new);
            }
        }
        let mut scratch = self.take_scratch();
        scratch.states = states;
        self.keep_scratch(scratch);
        result
    }

    fn take_scratch(&self) -> Scratch {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep_scratch(&self, scratch: Scratch) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    fn run_with(
        &self,
        cpu: &Cpu,
        scratch: &mut Scratch,
        segments: &mut [Reading<'_>],
        stop: &dyn Fn() -> bool,
        mut sink: impl FnMut(usize, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let n_vocab = self.config.n_vocab;
        let mut next = Position::default();
        while scratch.plan(segments, &mut next) {
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
            let mut states: Vec<_> = segments[members]
                .iter_mut()
                .zip(&*parts)
                .map(|(segment, part)| SegmentState {
                    from: (part.tokens.start == 0).then(|| segment.from.as_slice()),
                    to: segment.to,
                })
                .collect();
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
                stop,
                is_stopped: false,
                state_is_finite: true,
            };
            let logits = self.network.forward(&mut infer);
            let (not_finite, is_stopped, state_is_finite) =
                (infer.not_finite, infer.is_stopped, infer.state_is_finite);
            if is_stopped {
                return Err(Error::Aborted);
            }
            let mut logits = arena.get(logits);
            self.check_pass(cpu, not_finite, state_is_finite && all_finite(logits))?;
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
    fn check_pass(&self, cpu: &Cpu, not_finite: Option<NotFinite>, is_finite: bool) -> Result<()> {
        let parameters = &self.parameters;
        parameters.check_file()?;
        if let Some(found) = not_finite {
            let error = parameters.explain(cpu, found);
            parameters.check_file()?;
            return Err(error);
        }
        // Whatever goes wrong reaches the logits of its token or the states, and those of no other.
        if is_finite { Ok(()) } else { Err(Error::NotFinite { what: "what the model computes".to_owned() }) }
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

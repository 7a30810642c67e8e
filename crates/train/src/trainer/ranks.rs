//! A trainer as one of several that learn together.

use std::fmt::Display;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::measure::LossOf;
use super::outer::Outer;
use super::{Best, Passes, StepReport, Trainer};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::options::TrainOptions;
use crate::profile::{Cost, Pass};
use crate::ranks::{Common, Courier, Ranks, Rows, gather};
use crate::run::LogLine;
use crate::tape::ROWS;

/// Floats that are sent at a time: 64 MB.
const PART: usize = 1 << 24;

/// Rows that go through a rank's model at a time, if they take less than one part in `SHARE` of the memory.
const ROWS_OF_RANK: usize = 4096;
const SHARE: f64 = 4.0;

/// Where a run stands, beside its parameters and moments.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    step: u64,
    seconds: f64,
    best: Option<Best>,
    /// Of the last validation, if it was after the last step.
    val_loss: Option<f32>,
    /// The last step, if what is due after it is not done.
    pending: Option<StepReport>,
}

impl Trainer {
    /// Learns from now on with others, one trainer on each rank: each takes its part of every batch, and gradients are
    /// summed. Trainers of other ranks than 0 take over where that of rank 0 stands, and from now on write nothing into
    /// their own directories: only rank 0's is the run.
    ///
    /// # Errors
    /// [`rwkv_core::Error::InvalidOption`] if the batch does not divide by the ranks, or states are carried.
    /// [`Error::Ranks`] if the ranks have not the same options, text, model, program and kind of CPU, or cannot be
    /// reached.
    pub fn join(&mut self, mut ranks: Box<dyn Ranks>) -> Result<()> {
        self.common()?.check(&mut *ranks)?;
        let (batch_size, count) = (self.options.batch_size, ranks.count());
        if !batch_size.is_multiple_of(count) {
            let expected = format!("a multiple of {count}, the number of ranks");
            return Err(rwkv_core::Error::option("batch_size", batch_size, expected).into());
        }
        if self.streams.is_some() && count > 1 {
            let expected = "left out: states are carried by one rank alone";
            return Err(rwkv_core::Error::option("carry_state", true, expected).into());
        }
        self.ranks = Courier::start(ranks)?;
        self.take_over()?;
        let rows_of_rank = batch_size / count * self.options.ctx_len;
        self.tape.begin_after(self.ranks.rank() * rows_of_rank);
        if count > 1 && self.outer.is_none() {
            self.tape.tell_early(self.rows_at_once(batch_size / count));
        }
        Ok(())
    }

    /// Rows that go through the model at a time. Gradients are complete only with the last rows, so the more rows, the longer
    /// the part of backward in which they can be summed; but activations of all of them must fit into a part of the memory.
    fn rows_at_once(&self, batch_size: usize) -> usize {
        let threads = Some(self.tape.cpu().threads());
        let options = TrainOptions { batch_size, threads, ..self.options.clone() };
        let need = Memory::of_early(&options, &self.config, None, Some(ROWS_OF_RANK)).total();
        if SHARE * need <= rwkv_core::machine::memory() { ROWS_OF_RANK } else { ROWS }
    }

    /// Whether this trainer is rank 0, or alone: it has the run's directory.
    pub fn leads(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// What all ranks must have alike.
    fn common(&self) -> Result<Common> {
        let mut options = self.options.clone();
        // These are each rank's own.
        (options.threads, options.out, options.force) = (None, "".into(), false);
        let options = serde_json::to_value(&options).map_err(unwritten)?;
        let text = |name: &str, value: &dyn ToString| (name.to_owned(), value.to_string());
        let tape = &self.tape;
        let mut all = vec![
            text("version", &env!("CARGO_PKG_VERSION")),
            text("the instruction set", &tape.cpu().isa()),
            text("a text with the checksum", &format!("{:08x}", self.data.crc32())),
            text("a base with the fingerprint", &self.run.base().unwrap_or("none")),
            text("this many tokens to learn:", &self.data.train().len()),
            text("this many trained parameters:", &tape.params().n_trained()),
        ];
        // Paths may differ from machine to machine; what they lead to is compared above.
        for (name, value) in options.as_object().into_iter().flatten() {
            if !["data", "val", "from", "out", "threads", "tokenizerFile"].contains(&name.as_str()) {
                all.push((format!("option {name}"), value.to_string()));
            }
        }
        Ok(Common::new(all))
    }

    /// Takes parameters, moments and the number of steps from rank 0.
    fn take_over(&mut self) -> Result<()> {
        let own = Standing {
            step: self.step,
            seconds: self.seconds,
            best: self.best,
            val_loss: self.val_loss,
            pending: self.pending,
        };
        let own = serde_json::to_vec(&own).map_err(unwritten)?;
        let all = self.ranks.call(move |ranks| gather(ranks, &own))?;
        let first = all.first().map(Vec::as_slice).unwrap_or_default();
        let Standing { step, seconds, best, val_loss, pending } =
            serde_json::from_slice(first).map_err(unwritten)?;
        let (params, _) = self.tape.params_and_gradients();
        params.raws_mut().into_iter().try_for_each(|raw| take_from_first(&self.ranks, raw))?;
        params.refresh();
        let outer = self.outer.iter_mut().flat_map(Outer::moments_mut);
        for moment in self.optimizer.moments_mut().iter_mut().chain(outer) {
            moment.values.iter_mut().try_for_each(|values| take_from_first(&self.ranks, values))?;
        }
        if !self.leads() {
            (self.step, self.seconds, self.best, self.val_loss) = (step, seconds, best, val_loss);
            (self.pending, self.soundness) = (pending, None);
        }
        Ok(())
    }

    /// The sequences of a pass that this rank learns from.
    pub(super) fn own_sequences(&self, pass: usize) -> Range<usize> {
        let own = self.options.batch_size / self.ranks.count();
        let first = pass * self.options.batch_size + self.ranks.rank() * own;
        first..first + own
    }

    /// How many ranks' gradients are summed in a step: all, unless ranks take their steps by themselves.
    pub(super) fn ranks_of_step(&self) -> usize {
        if self.outer.is_some() { 1 } else { self.ranks.count() }
    }

    /// Whether ranks that take steps by themselves synchronize after this one.
    fn synchronizes_after(&self, step: u64) -> bool {
        let is_last = step >= self.options.max_steps;
        self.outer.as_ref().is_some_and(|outer| is_last || outer.is_due(step))
    }

    /// What the passes gave on all ranks together, or the error that one of them met. Ranks that take a step by
    /// themselves ask no other, but tell an error, which the others hear of when they synchronize.
    pub(super) fn of_all_ranks(&mut self, own: Result<Passes>) -> Result<Passes> {
        let count = self.ranks.count();
        let is_by_itself = self.outer.is_some() && !self.synchronizes_after(self.step + 1);
        if count == 1 || is_by_itself && own.is_ok() {
            // The others have as many.
            return own.map(|own| Passes { tokens: own.tokens * count, ..own });
        }
        let is_asked = std::mem::take(&mut self.is_asked);
        let (mut sum, all) =
            self.exchange(own, |passes| (passes.loss.to_bits(), passes.tokens as u64, is_asked))?;
        self.is_to_end = all.iter().any(|&(_, _, is_asked)| is_asked);
        let losses = all.iter().map(|&(loss, ..)| f64::from_bits(loss));
        sum.loss = losses.sum::<f64>() * self.ranks_of_step() as f64 / count as f64;
        sum.tokens = all.iter().map(|&(_, tokens, _)| tokens as usize).sum();
        Ok(sum)
    }

    /// What this rank has, and what every rank says of its own; or the error that one of them met, or
    /// [`rwkv_core::Error::Aborted`] if one was asked to end and none met another error.
    fn exchange<T, S: Serialize + DeserializeOwned>(
        &mut self,
        own: Result<T>,
        say: impl FnOnce(&T) -> S,
    ) -> Result<(T, Vec<S>)> {
        // An end that was asked for is no error to tell of.
        let of_error = |error: &Error| (!is_end(error)).then(|| error.to_string());
        let said = serde_json::to_vec(&own.as_ref().map(say).map_err(of_error)).map_err(unwritten)?;
        let all = self.ranks.call(move |ranks| gather(ranks, &said))?;
        let read = |said: &Vec<u8>| serde_json::from_slice(said).map_err(unwritten);
        let all: Vec<std::result::Result<S, Option<String>>> = all.iter().map(read).collect::<Result<_>>()?;
        let told =
            all.iter().enumerate().find_map(|(rank, said)| Some((rank, said.as_ref().err()?.as_ref()?)));
        match (own, told) {
            (Err(error), _) if !is_end(&error) => Err(error),
            (_, Some((rank, error))) => Err(Error::Ranks { problem: format!("rank {rank}: {error}") }),
            (Err(end), None) => Err(end),
            (Ok(own), None) => {
                let all: Option<_> = all.into_iter().map(std::result::Result::ok).collect();
                Ok((own, all.ok_or(rwkv_core::Error::Aborted)?))
            }
        }
    }

    /// Adds up the gradients of all ranks, those that were not sent yet, and waits for all of them.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.ranks.count() == 1 {
            return Ok(());
        }
        let start = self.tape.profile().start();
        let (params, gradients) = self.tape.gradients_mut();
        let embedding = params.layout().find("emb.weight").filter(|&index| params.is_trained(index));
        let embedding =
            embedding.map(|parameter| Rows { parameter, width: params.layout().specs()[parameter].cols });
        self.sums.finish(&self.ranks, gradients, params.trained(), embedding)?;
        let threads = self.tape.cpu().threads();
        let bytes = 4 * self.n_trained() as u64;
        self.tape.profile().stop(start, (Pass::Update, "waiting for other ranks"), threads, || Cost {
            operations: 0,
            bytes,
        });
        Ok(())
    }

    /// Synchronizes ranks that have taken steps by themselves, if it is due. The gradients are gone after it.
    ///
    /// # Errors
    /// Those of [`Ranks::exchange`], after which this trainer can only be given up.
    pub(super) fn synchronize(&mut self) -> Result<()> {
        if !self.synchronizes_after(self.step) {
            return Ok(());
        }
        if let Some(outer) = &self.outer {
            let (params, gradients) = self.tape.gradients_mut();
            outer.gradient(params, 1.0 / self.ranks.count() as f32, gradients);
        }
        self.finish()?;
        if let Some(outer) = &mut self.outer {
            let (params, gradients) = self.tape.params_and_gradients();
            outer.step(params, gradients);
        }
        self.clamp_state();
        Ok(())
    }

    /// The mean loss over what all ranks have looked at, or the error that one of them met.
    pub(super) fn mean_of_all(&mut self, own: Result<LossOf>) -> Result<f32> {
        // As bits, because JSON has no NaN.
        let told = self.exchange(own, |loss| (loss.sum.to_bits(), loss.tokens));
        // One call that ends for it is enough.
        self.is_to_end &= told.is_ok();
        let (_, all) = told?;
        let sum: f64 = all.iter().map(|&(sum, _)| f64::from_bits(sum)).sum();
        let tokens: u64 = all.iter().map(|&(_, tokens)| tokens).sum();
        Ok((sum / tokens as f64) as f32)
    }

    /// Writes a line of the run's log, on rank 0.
    pub(super) fn log(&mut self, line: &LogLine) -> Result<()> {
        if self.leads() { self.run.log(line) } else { Ok(()) }
    }
}

/// Whether an error says that a control has ended the work.
fn is_end(error: &Error) -> bool {
    matches!(error, Error::Rwkv(rwkv_core::Error::Aborted))
}

/// Replaces `values`, as many on every rank, by those of rank 0.
fn take_from_first(ranks: &Courier, values: &mut [f32]) -> Result<()> {
    if ranks.count() == 1 {
        return Ok(());
    }
    for part in values.chunks_mut(PART) {
        let mut bytes = bytemuck::cast_slice(part).to_vec();
        let bytes = ranks.call(move |ranks| ranks.take_from_first(&mut bytes).map(|()| bytes))?;
        bytemuck::cast_slice_mut(part).copy_from_slice(&bytes);
    }
    Ok(())
}

fn unwritten(error: impl Display) -> Error {
    Error::Ranks { problem: format!("what ranks tell each other cannot be read: {error}") }
}

//! A trainer as one of several that learn together.

use std::fmt::Display;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Best, Passes, StepReport, Trainer};
use crate::error::{Error, Result};
use crate::profile::{Cost, Pass};
use crate::ranks::{Common, Ranks, sum_all, take_all_from_first};
use crate::run::LogLine;

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
        self.ranks = ranks;
        self.take_over()?;
        let rows_of_rank = batch_size / count * self.options.ctx_len;
        self.tape.begin_after(self.ranks.rank() * rows_of_rank);
        Ok(())
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
        let all = self.ranks.gather(&serde_json::to_vec(&own).map_err(unwritten)?)?;
        let first = all.first().map(Vec::as_slice).unwrap_or_default();
        let Standing { step, seconds, best, val_loss, pending } =
            serde_json::from_slice(first).map_err(unwritten)?;
        let (params, _) = self.tape.params_and_gradients();
        take_all_from_first(&mut *self.ranks, &mut params.raws_mut())?;
        params.refresh();
        for moment in self.optimizer.moments_mut() {
            let mut values: Vec<_> = moment.values.iter_mut().map(Vec::as_mut_slice).collect();
            take_all_from_first(&mut *self.ranks, &mut values)?;
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

    /// What the passes gave on all ranks together, or the error that one of them met.
    pub(super) fn of_all_ranks(&mut self, own: Result<Passes>) -> Result<Passes> {
        if self.ranks.count() == 1 {
            return own;
        }
        let (mut sum, all) = self.exchange(own, |passes| (passes.loss.to_bits(), passes.tokens as u64))?;
        sum.loss = all.iter().map(|&(loss, _)| f64::from_bits(loss)).sum();
        sum.tokens = all.iter().map(|&(_, tokens)| tokens as usize).sum();
        Ok(sum)
    }

    /// What this rank has, and what every rank says of its own; or the error that one of them met.
    fn exchange<T, S: Serialize + DeserializeOwned>(
        &mut self,
        own: Result<T>,
        say: impl FnOnce(&T) -> S,
    ) -> Result<(T, Vec<S>)> {
        let said = own.as_ref().map(say).map_err(ToString::to_string);
        let said = serde_json::to_vec(&said).map_err(unwritten)?;
        let all = self.ranks.gather(&said)?;
        let own = own?;
        let read = |(rank, said): (usize, &Vec<u8>)| match serde_json::from_slice(said) {
            Ok(Ok(said)) => Ok(said),
            Ok(Err::<_, String>(error)) => Err(Error::Ranks { problem: format!("rank {rank}: {error}") }),
            Err(error) => Err(unwritten(error)),
        };
        let all: Result<_> = all.iter().enumerate().map(read).collect();
        Ok((own, all?))
    }

    /// Adds the gradients of all ranks.
    pub(super) fn sum_gradients(&mut self) -> Result<()> {
        if self.ranks.count() == 1 {
            return Ok(());
        }
        let start = self.tape.profile().start();
        sum_all(&mut *self.ranks, &mut self.tape.trained_gradients())?;
        let threads = self.tape.cpu().threads();
        let bytes = 4 * self.n_trained() as u64;
        self.tape
            .profile()
            .stop(start, (Pass::Update, "sum over ranks"), threads, || Cost { operations: 0, bytes });
        Ok(())
    }

    /// The number that rank 0 has, or the error that it met.
    pub(super) fn first_of(&mut self, own: Result<f32>) -> Result<f32> {
        if self.ranks.count() == 1 {
            return own;
        }
        // As bits, because JSON has no NaN.
        let (own, all) = self.exchange(own, |number| number.to_bits())?;
        Ok(all.first().map_or(own, |&bits| f32::from_bits(bits)))
    }

    /// Writes a line of the run's log, on rank 0.
    pub(super) fn log(&mut self, line: &LogLine) -> Result<()> {
        if self.leads() { self.run.log(line) } else { Ok(()) }
    }
}

fn unwritten(error: impl Display) -> Error {
    Error::Ranks { problem: format!("what ranks tell each other cannot be read: {error}") }
}

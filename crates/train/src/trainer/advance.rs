//! A run as its options say: what comes after each step, and when it ends.

use rwkv_core::Control;

use super::{Saved, StepReport, Trainer};
use crate::error::Result;
use crate::options::{Keep, TrainOptions};

/// A step of a run, and what came after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advance {
    /// The step.
    pub step: StepReport,
    /// Mean loss over the whole validation split after the step, if the options asked for it.
    pub val_loss: Option<f32>,
    /// What was saved after the step, if the options asked for it.
    pub saved: Option<Saved>,
}

impl Trainer {
    /// The rest of the run; `tell` is told each step, when what is due after it is done.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance).
    pub fn run(
        &mut self,
        mut control: impl Control + Send,
        mut tell: impl FnMut(&Self, &Advance),
    ) -> Result<()> {
        while let Some(advance) = self.advance(&mut control)? {
            tell(self, &advance);
        }
        Ok(())
    }

    /// The next step of the run, with the validation and the saving that are due after it; none if the run is
    /// [`done`](Self::done).
    ///
    /// If `control` ends it after the step, the next call does what is left and returns that step; so does
    /// the first call after a resumption from a checkpoint that was saved in between.
    ///
    /// # Errors
    /// [`rwkv_core::Error::Aborted`] if `control` says so; those of [`step`](Self::step),
    /// [`validate`](Self::validate) and [`save`](Self::save).
    pub fn advance(&mut self, mut control: impl Control + Send) -> Result<Option<Advance>> {
        let step = match self.pending {
            Some(step) => step,
            None if self.done() => return Ok(None),
            None => self.step(&mut control)?,
        };
        self.pending = Some(step);
        let val_loss = match self.val_loss {
            _ if !step.validation_due => None,
            None => Some(self.validate(&mut control)?),
            known => known,
        };
        // What is saved here is the last thing that was due.
        self.pending = None;
        let saved = if !self.leads() {
            // Rank 0 has the run's directory.
            Ok(None)
        } else if step.checkpoint_due || self.is_last_step() {
            self.save(&mut control).map(Some)
        } else if val_loss.is_some() && self.may_replace() {
            self.save_model(&mut control).map(|_| None)
        } else {
            Ok(None)
        };
        self.pending = saved.is_err().then_some(step);
        Ok(Some(Advance { step, val_loss, saved: saved? }))
    }

    /// Takes up what was due after the last step, if the run was stopped before that: its report is in the log.
    pub(super) fn find_what_is_due(&mut self, is_pending: bool) {
        let Some((line, before)) = self.run.last().cloned().filter(|(line, _)| line.step == self.step) else {
            return;
        };
        self.clock.1 = line.clock;
        let (validation_due, checkpoint_due) = self.due();
        let is_due = is_pending || validation_due && self.val_loss.is_none();
        let (Some(loss), true) = (line.loss, is_due) else { return };
        let TrainOptions { ctx_len, batch_size, accumulate, .. } = self.options;
        self.pending = Some(StepReport {
            step: self.step,
            loss,
            learning_rate: line.learning_rate.unwrap_or_default(),
            grad_norm: line.grad_norm.unwrap_or_default(),
            tokens: ctx_len * batch_size * accumulate,
            seconds: line.seconds - before,
            validation_due,
            checkpoint_due,
        });
    }

    /// Whether a validation alone is a reason to write the model.
    fn may_replace(&self) -> bool {
        self.options.keep == Keep::Best || self.best.is_some_and(|best| best.step == self.step)
    }
}

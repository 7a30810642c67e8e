//! What a run leaves on disk, and whether it is worth going on from.

use std::sync::atomic::AtomicBool;

use rwkv::{DataType, Result, write_model};
use serde::{Deserialize, Serialize};

use super::Trainer;
use crate::checkpoint::{self, Manifest};
use crate::data::Dataset;
use crate::options::TrainOptions;

/// Tokens, or one window if that is longer, which tell a sound model from one that is not.
const TOKENS: usize = 2048;

/// Whether a model is one to keep and to go on from.
///
/// Guessing among n_vocab tokens costs ln n_vocab nats a token, which is where a new model begins. A model is *sound*
/// if its loss is at most one nat more, on validation text or on training text: a model that has learned a small text by
/// heart may be surprised by another, and is no ruin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Soundness {
    /// Mean loss on validation text, in nats a token: of the whole split if it was validated after this step, else of
    /// its first 2048 tokens or so. Finite.
    pub val_loss: f32,
    /// Whether it is sound.
    pub is_sound: bool,
}

impl Trainer {
    /// Writes `checkpoint-<step>/`, from which [`resume`](Self::resume) goes on, and removes all but the newest two and
    /// the newest sound one. What else is missing of the run's folder is written again.
    ///
    /// # Errors
    /// [`Error::Io`](rwkv::Error::Io), with the last good checkpoint still there; [`Error::Diverged`](rwkv::Error::Diverged)
    /// once the run has diverged, or if the model's loss is not finite; [`Error::Run`](rwkv::Error::Run) if the folder was
    /// removed and another trainer is at work in a new one.
    pub fn save_checkpoint(&mut self) -> Result<Soundness> {
        let soundness = self.soundness()?;
        self.run.mend()?;
        let options = TrainOptions { threads: None, ..self.options.clone() };
        let (crc32, seconds) = (self.data.crc32(), self.seconds);
        let manifest = Manifest::new(self.step, self.config, options, crc32, seconds, soundness);
        let (means, squares) = self.optimizer.moments();
        checkpoint::write(self.run.path(), manifest, [self.tape.params(), means, squares])?;
        self.run.prune()?;
        Ok(soundness)
    }

    /// Writes `model.bin`, which inference reads, unless the model is not sound and would replace another. Returns
    /// whether it was written.
    ///
    /// # Errors
    /// As [`save_checkpoint`](Self::save_checkpoint).
    pub fn save_model(&mut self) -> Result<bool> {
        let soundness = self.soundness()?;
        self.run.mend()?;
        let path = self.run.path().join("model.bin");
        let is_written = soundness.is_sound || !path.exists();
        if is_written {
            write_model(path, &self.config, &self.layout, &self.stored_params(), DataType::F32)?;
        }
        Ok(is_written)
    }

    /// Whether the model after the last step is sound.
    ///
    /// # Errors
    /// [`Error::Diverged`](rwkv::Error::Diverged) if its loss is not even finite.
    pub fn soundness(&mut self) -> Result<Soundness> {
        self.check_not_diverged()?;
        if let Some(known) = self.soundness {
            return Ok(known);
        }
        let val_loss = match self.val_loss {
            Some(known) => known,
            None => self.loss_of_a_few(Dataset::validation)?,
        };
        if !val_loss.is_finite() {
            return Err(self.diverge(self.step, val_loss));
        }
        let most = (self.config.n_vocab as f32).ln() + 1.0;
        let is_sound = val_loss <= most || self.loss_of_a_few(Dataset::train)? <= most;
        let soundness = Soundness { val_loss, is_sound };
        self.soundness = Some(soundness);
        Ok(soundness)
    }

    fn loss_of_a_few(&mut self, part: fn(&Dataset) -> &[u32]) -> Result<f32> {
        let windows = (TOKENS / self.options.ctx_len).clamp(1, self.options.batch_size);
        self.mean_loss(part, windows, &AtomicBool::new(false), |_| ())
    }
}

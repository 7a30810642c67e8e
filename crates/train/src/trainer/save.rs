//! What a run leaves on disk, and whether it is worth going on from.

use std::path::PathBuf;

use rwkv_core::lora::stage_lora;
use rwkv_core::{Control, DataType, Model, SamplerOptions, Staged, State, stage_model};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::measure::mean_loss;
use crate::checkpoint::{self, Floats, Manifest, PARAMETERS};
use crate::data::{Dataset, Part};
use crate::error::{Error, Result};
use crate::options::TrainOptions;
use crate::record::{self, Holding, Kept};
use crate::report::write_report;
use crate::run::Sample;

/// Tokens, or one window if that is longer, which tell a sound model from one that is not.
const TOKENS: usize = 2048;

/// Tokens of the validation text in which a beginning is looked for, at most so many characters, and tokens that
/// the model writes after it.
const START: usize = 256;
const PROMPT: usize = 32;
const WRITTEN: usize = 400;

/// What was saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saved {
    /// Whether the model is one to go on from.
    pub soundness: Soundness,
    /// Whether [`Trainer::result`] is of this step.
    pub wrote_result: bool,
}

/// Whether a model is one to keep and to go on from.
///
/// Guessing among n_vocab tokens costs ln n_vocab nats a token, which is where a new model begins. A model is
/// *sound* if its loss is at most one nat more, on validation text or on training text: a model that has
/// learned a small text by heart may be surprised by another, and is no ruin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Soundness {
    /// Mean loss on validation text, in nats a token: of the whole split if it was validated after this step,
    /// else of its first 2048 tokens or so. Finite.
    pub val_loss: f32,
    /// Whether it is sound.
    pub is_sound: bool,
}

/// The validation with the lowest loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Best {
    /// The step after which it was.
    pub step: u64,
    /// Mean loss over the whole validation split.
    pub val_loss: f32,
    /// How many validations there were since then.
    pub(crate) since: u64,
    /// The step of the last of those, or of this one.
    pub(crate) last: u64,
}

impl Best {
    /// What is the best after a validation.
    pub(super) fn after(best: Option<Self>, step: u64, val_loss: f32) -> Self {
        match best {
            // A second look at the same model is none.
            Some(best) if best.val_loss <= val_loss && best.last == step => best,
            Some(best) if best.val_loss <= val_loss => Self { since: best.since + 1, last: step, ..best },
            _ => Self { step, val_loss, since: 0, last: step },
        }
    }
}

impl Trainer {
    /// Writes `checkpoint-<step>/`, from which [`resume`](Self::resume) goes on, and removes all but the
    /// newest two and the newest sound one. What else is missing of the run's directory is written again.
    ///
    /// # Errors
    /// [`rwkv_core::Error::Io`], with the last good checkpoint still there;
    /// [`Error::Diverged`] once the run has diverged, or if the model's loss is not
    /// finite; [`Error::Run`] if the directory was removed and another trainer is at work
    /// in a new one.
    /// [`rwkv_core::Error::Aborted`] if `control` says so, before anything is written.
    pub fn save_checkpoint(&mut self, control: impl Control) -> Result<Soundness> {
        let soundness = self.soundness(control)?;
        self.run.mend()?;
        self.write_checkpoint(soundness)?;
        Ok(soundness)
    }

    /// All that a run leaves, as it is by now: [`save_checkpoint`](Self::save_checkpoint),
    /// [`save_model`](Self::save_model), if the model is sound something that it writes, into `samples.jsonl`, and
    /// `report.html`.
    ///
    /// # Errors
    /// [`rwkv_core::Error::Aborted`] if `control` says so while the model is measured: nothing is written. If it
    /// says so while the model writes, only that is left out. Otherwise as [`save_model`](Self::save_model).
    pub fn save(&mut self, mut control: impl Control) -> Result<Saved> {
        let saved = self.save_checkpoint_and_model(&mut control)?;
        if saved.soundness.is_sound {
            match self.add_sample(control) {
                Err(Error::Rwkv(rwkv_core::Error::Aborted)) => (),
                done => done?,
            }
        }
        write_report(self.run.path())?;
        Ok(saved)
    }

    /// As [`save`](Self::save), but that the model is not asked to write anything, which takes a while.
    ///
    /// # Errors
    /// Those of [`save`](Self::save).
    pub fn save_without_sample(&mut self, control: impl Control) -> Result<Saved> {
        let saved = self.save_checkpoint_and_model(control)?;
        write_report(self.run.path())?;
        Ok(saved)
    }

    fn save_checkpoint_and_model(&mut self, control: impl Control) -> Result<Saved> {
        let soundness = self.save_checkpoint(control)?;
        Ok(Saved { soundness, wrote_result: self.write_model(soundness)? })
    }

    /// Has the model go on from the beginning of a line of the validation text, which it has never seen.
    fn add_sample(&mut self, control: impl Control) -> Result<()> {
        let start = self.data.validation().first(START)?;
        let prompt = beginning(&String::from_utf8_lossy(&self.tokenizer.decode(&start)?));
        let options = SamplerOptions { temperature: 0.8, top_p: 0.95, seed: 1, ..SamplerOptions::default() };
        let text = self.sample(&prompt, WRITTEN, options, control)?;
        self.run.add_sample(Sample { step: self.step, prompt, text })
    }

    fn write_checkpoint(&self, soundness: Soundness) -> Result<()> {
        let options = self.options.clone().relative_to(self.run.path());
        let options = TrainOptions { threads: None, ..options };
        let (crc32, seconds) = (self.data.crc32(), self.seconds);
        let mut manifest = Manifest::new(self.step, self.config, options, crc32, seconds, soundness);
        manifest.best = self.best;
        manifest.is_pending = self.pending.is_some();
        let params = self.tape.params();
        // The states that the next step starts from, if they are carried, go with the parameters.
        let raw = params.trained().map(|index| params.raw(index));
        let raw = raw.chain(self.states.iter().map(Vec::as_slice)).collect();
        let moments = self.moments().map(|moment| Floats {
            name: moment.name,
            values: params.trained().map(|index| moment.values[index].as_slice()).collect(),
        });
        let files: Vec<_> = [Floats { name: PARAMETERS, values: raw }].into_iter().chain(moments).collect();
        checkpoint::write(self.run.path(), manifest, &files)?;
        self.run.prune()
    }

    /// Writes [`result`](Self::result), which inference reads, unless that would replace a better model: one
    /// that is sound by one that is not, or, if the options say so, one with a lower validation loss. Returns
    /// whether it was written; [`kept`](Self::kept) says what it is by then.
    ///
    /// # Errors
    /// As [`save_checkpoint`](Self::save_checkpoint); [`Error::Run`] if somebody has put
    /// another file in its place, which stays.
    pub fn save_model(&mut self, control: impl Control) -> Result<bool> {
        let soundness = self.soundness(control)?;
        self.run.mend()?;
        self.write_model(soundness)
    }

    fn write_model(&mut self, soundness: Soundness) -> Result<bool> {
        if let Some(kept) = &self.kept {
            record::mend(self.run.path(), kept)?;
        }
        let new = self.description(soundness);
        match record::look(self.run.path(), &new.file)? {
            Holding::Foreign(reason) => return Err(record::foreign(self.run.path(), &new.file, reason)),
            Holding::Ours(old) if !new.replaces(&old, self.options.keep) => {
                record::mend(self.run.path(), &old)?;
                self.kept = Some(old);
                return Ok(false);
            }
            Holding::Ours(_) | Holding::Nothing => (),
        }
        self.kept = Some(record::replace(self.run.path(), self.stage()?, new)?);
        Ok(true)
    }

    /// Writes what a process that was killed, or a full disk, kept from being written after the checkpoint
    /// that the run goes on from, or what was removed since.
    pub(super) fn write_what_is_missing(&mut self) -> Result<()> {
        let Some(soundness) = self.soundness else { return Ok(()) };
        match record::look(self.run.path(), self.result_name())? {
            // Checked before the run was touched.
            Holding::Foreign(_) => return Ok(()),
            Holding::Ours(kept) if kept.step == self.step => {
                record::mend(self.run.path(), &kept)?;
                self.kept = Some(kept);
            }
            Holding::Ours(_) | Holding::Nothing => {
                self.write_model(soundness)?;
            }
        }
        // Of a run that goes on the next save writes one.
        if self.is_last_step() { write_report(self.run.path()) } else { Ok(()) }
    }

    /// What the model after the last step is, but for its file's length and checksum.
    fn description(&self, soundness: Soundness) -> Kept {
        Kept {
            file: self.result_name().to_owned(),
            bytes: 0,
            crc32: 0,
            step: self.step,
            val_loss: self.val_loss,
            is_sound: soundness.is_sound,
            options_crc32: self.run.options_crc32(),
            data_crc32: self.data.crc32(),
            tokenizer_crc32: crc32fast::hash(self.tokenizer.to_json().as_bytes()),
            base: self.run.base().map(str::to_owned),
        }
    }

    /// What the run writes as it is by now, beside the place where it goes.
    fn stage(&self) -> Result<Staged> {
        let (path, params) = (self.result(), self.tape.params());
        let staged = if self.state.is_some() {
            let bytes = self.initial_state(&self.model()).to_bytes()?;
            Staged::write(&path, |w| w.write_all(&bytes))?
        } else if params.has_adapters() {
            stage_lora(&path, self.config, params, self.options.lora_alpha() as f32)?
        } else {
            let values: Vec<_> = (0..params.n_model()).map(|index| params.stored(index)).collect();
            stage_model(&path, &self.config, params.layout(), &values, DataType::F32)?
        };
        Ok(staged)
    }

    /// The file that [`save_model`](Self::save_model) writes: `model.bin`, or what changes the model that the
    /// run started from, `lora.safetensors` or `tuned.state`.
    pub fn result(&self) -> PathBuf {
        self.run.path().join(self.result_name())
    }

    fn result_name(&self) -> &'static str {
        self.options.result_name()
    }

    /// Whether the model after the last step is sound.
    ///
    /// # Errors
    /// [`Error::Diverged`] if its loss is not even finite;
    /// [`rwkv_core::Error::Aborted`] if `control` says so.
    pub fn soundness(&mut self, mut control: impl Control) -> Result<Soundness> {
        self.check_not_diverged()?;
        if let Some(known) = self.soundness {
            return Ok(known);
        }
        let val_loss = match self.val_loss {
            Some(known) => known,
            None => self.loss_of_a_few(Dataset::validation, &mut control)?,
        };
        if !val_loss.is_finite() {
            return Err(self.diverge(self.step, val_loss));
        }
        let most = most(self.config.n_vocab);
        let is_sound = val_loss <= most || self.loss_of_a_few(Dataset::train, &mut control)? <= most;
        let soundness = Soundness { val_loss, is_sound };
        self.soundness = Some(soundness);
        Ok(soundness)
    }

    fn loss_of_a_few(&mut self, part: fn(&Dataset) -> &Part, control: impl Control) -> Result<f32> {
        let model = self.model();
        loss_of_a_few(&model, &self.initial_state(&model), part(&self.data), &self.options, control)
    }
}

/// The first words of a text that begins in the middle of a line: those after the first line break, if there is
/// one, and no half of a word.
fn beginning(text: &str) -> String {
    let lines = text.split_once('\n').map_or("", |(_, rest)| rest.trim_start());
    let from = if lines.is_empty() { text } else { lines };
    let first: String = from.chars().take(PROMPT).collect();
    first.rsplit_once(char::is_whitespace).map_or("", |(whole, _)| whole).to_owned()
}

fn loss_of_a_few(
    model: &Model,
    initial: &State,
    tokens: &Part,
    options: &TrainOptions,
    control: impl Control,
) -> Result<f32> {
    let windows = (TOKENS / options.ctx_len).clamp(1, options.batch_size);
    mean_loss(model, initial, tokens, options, None, windows, control)
}

/// Whether a model is sound whose checkpoint does not say: see [`Soundness`].
///
/// # Errors
/// [`rwkv_core::Error::Aborted`] if `control` says so.
pub(super) fn is_sound(
    model: &Model,
    data: &Dataset,
    options: &TrainOptions,
    mut control: impl Control,
) -> Result<bool> {
    let (most, initial) = (most(model.config().n_vocab), model.new_state());
    Ok(loss_of_a_few(model, &initial, data.validation(), options, &mut control)? <= most
        || loss_of_a_few(model, &initial, data.train(), options, control)? <= most)
}

/// The loss of guessing, and one nat more.
fn most(n_vocab: usize) -> f32 {
    libm::logf(n_vocab as f32) + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_goes_on_from_whole_words_at_the_beginning_of_a_line() {
        let cases = [
            ("?\n\nGREMIO:\nGood morrow, neighbour Baptista.", "GREMIO:\nGood morrow, neighbour"),
            ("one line without an end, and long enough", "one line without an end, and"),
            ("a\n", "a"),
            ("wordsthathavenoendatallandnospaces", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(beginning(text), expected);
        }
    }
}

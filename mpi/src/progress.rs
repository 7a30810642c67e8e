//! What is shown of a run: lines for people, or with `--json` the objects that `rwkv train --json` prints.

use std::io::Write;
use std::time::{Duration, Instant};

use rwkv_core::machine::Bytes;
use rwkv_core::{SamplerOptions, go_on};
use rwkv_train::{Advance, Result, Saved, StepReport, Trainer, Tune};
use serde_json::{Value, json};

/// After so long without a line there is one.
const QUIET: Duration = Duration::from_secs(10);

/// How much of the mean of losses stays when one is taken in, once there are many.
const DECAY: f64 = 0.98;

/// Tokens of a sample, and how many of them there are in a run.
const SAMPLE: usize = 160;
const SAMPLES: u64 = 4;

/// Tells of a run on standard output, on rank 0.
pub struct Progress {
    is_json: bool,
    speaks: bool,
    /// Whether what is said arrives.
    is_heard: bool,
    ranks: usize,
    start: Instant,
    told: Instant,
    /// Of this session.
    steps: u64,
    tokens: usize,
    seconds: f64,
    smoothed: f64,
    validation: Option<(u64, f32)>,
    saved: Option<Saved>,
}

impl Progress {
    /// Of a run that goes on now, on so many ranks.
    pub fn new(trainer: &Trainer, ranks: usize, is_json: bool) -> Self {
        let now = Instant::now();
        Self {
            is_json,
            speaks: trainer.leads(),
            is_heard: true,
            ranks,
            start: now,
            told: now,
            steps: 0,
            tokens: 0,
            seconds: 0.0,
            smoothed: 0.0,
            validation: None,
            saved: None,
        }
    }

    /// Whether what was said has arrived.
    pub fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Says what learns what.
    pub fn start(&mut self, trainer: &Trainer) {
        let (config, data, tokenizer) = (trainer.config(), trainer.data(), trainer.tokenizer());
        let options = serde_json::to_value(trainer.options()).unwrap_or_default();
        let option = |name: &str| options.get(name).cloned().unwrap_or_default();
        let (learned, validated) = (data.train().len(), data.validation().len());
        self.object(&json!({
            "event": "start", "data": option("data"), "out": option("out"), "from": option("from"),
            "parameters": trainer.n_params(), "trainedParameters": trainer.n_trained(),
            "trainTokens": learned, "valTokens": validated, "nVocab": tokenizer.n_vocab(),
            "threads": trainer.threads(), "precision": option("precision"), "isa": trainer.isa().to_string(),
            "steps": trainer.steps(), "wentBackFrom": trainer.went_back_from(), "maxSteps": option("maxSteps"),
            "ranks": self.ranks,
        }));
        let unit = format!("{}s", tokenizer.kind().unit());
        self.line(&format!(
            "{} {unit} to learn, {} to validate, a vocabulary of {} tokens",
            number(learned as u64),
            number(validated as u64),
            number(tokenizer.n_vocab() as u64)
        ));
        let (all, of_them) = (trainer.n_params() as u64, trainer.n_trained() as u64);
        let part =
            if of_them == all { String::new() } else { format!(", {} of them trained", number(of_them)) };
        self.line(&format!(
            "RWKV-{} of {}, {} wide: {} parameters{part}",
            config.version.to_string().trim_start_matches('v'),
            several(config.n_layer, "layer"),
            config.n_embd,
            number(all)
        ));
        let precision = option("precision");
        self.line(&format!(
            "{} of {} · {}, {} · {}",
            several(self.ranks, "rank"),
            several(trainer.threads(), "thread"),
            trainer.isa(),
            precision.as_str().unwrap_or_default(),
            trainer.out().display()
        ));
        if let Some(step) = trainer.went_back_from() {
            self.line(&format!(
                "all checkpoints after step {}, up to checkpoint-{step}, were worse than guessing and are removed",
                trainer.steps()
            ));
        }
        if trainer.steps() > 0 {
            self.line(&format!("going on after step {}", trainer.steps()));
        }
    }

    /// Says what a step came to, now and then; and what the model writes by now.
    ///
    /// # Errors
    /// Those of [`Trainer::sample`].
    pub fn after(&mut self, trainer: &Trainer, &Advance { step, val_loss, saved }: &Advance) -> Result<()> {
        if !self.speaks {
            return Ok(());
        }
        self.saved = saved;
        let decay = DECAY.min(self.steps as f64 / (self.steps + 4) as f64);
        self.smoothed = decay * self.smoothed + (1.0 - decay) * f64::from(step.loss);
        self.steps += 1;
        self.tokens += step.tokens;
        self.seconds += step.seconds;
        let StepReport { loss, learning_rate, .. } = step;
        let speed = step.tokens as f64 / step.seconds;
        self.object(&json!({
            "event": "step", "step": step.step, "loss": loss, "learningRate": learning_rate, "tokensPerSecond": speed,
        }));
        let max_steps = trainer.options().max_steps;
        let is_due = step.step.is_multiple_of((max_steps / 40).max(1)) || self.told.elapsed() >= QUIET;
        if is_due || self.steps == 1 || val_loss.is_some() {
            self.told = Instant::now();
            let bits = val_loss.and_then(|loss| trainer.bits_per_byte(loss));
            let bits = bits.map_or(String::new(), |bits| format!(" ({bits:.3} bits a byte)"));
            let validation = val_loss.map_or(String::new(), |loss| format!("  validation {loss:.3}{bits}"));
            let left = self.seconds / self.steps as f64 * max_steps.saturating_sub(step.step) as f64;
            let left = if left > 0.0 { format!("  {} left", clock(left)) } else { String::new() };
            self.line(&format!(
                "step {}/{max_steps}  loss {loss:.3}  smoothed {:.3}{validation}  {} tokens/s{left}",
                step.step,
                self.smoothed,
                number((self.tokens as f64 / self.seconds) as u64)
            ));
        }
        if let Some(loss) = val_loss {
            let bits = trainer.bits_per_byte(loss);
            self.object(
                &json!({"event": "validation", "step": step.step, "valLoss": loss, "bitsPerByte": bits}),
            );
            let before = self.validation.replace((step.step, loss)).map_or(0, |(step, _)| step);
            let part = |step: u64| SAMPLES * step / max_steps.max(1);
            if part(step.step) != part(before) {
                self.sample(trainer)?;
            }
        }
        Ok(())
    }

    fn sample(&mut self, trainer: &Trainer) -> Result<()> {
        let seed = trainer.steps();
        let options = SamplerOptions { temperature: 0.8, top_p: 0.95, seed, ..SamplerOptions::default() };
        let text = trainer.sample("", SAMPLE, options, go_on)?;
        self.object(&json!({"event": "sample", "step": seed, "text": text}));
        text.trim().lines().for_each(|line| self.line(&format!("  │ {line}")));
        Ok(())
    }

    /// Says that the run was ended, and how to go on.
    pub fn interrupted(&mut self, trainer: &Trainer, saved: Saved) {
        self.saved = Some(saved);
        self.unsound(trainer);
        let (steps, out) = (trainer.steps(), trainer.out());
        self.object(&json!({"event": "interrupted", "steps": steps, "resume": out}));
        self.line(&format!("stopped after step {steps} and saved it; to go on, with any number of ranks:"));
        self.line(&format!("  rwkv-mpi train --resume {}", out.display()));
    }

    /// Says what the run came to.
    pub fn end(&mut self, trainer: &Trainer) {
        self.unsound(trainer);
        let (steps, val_loss, options) =
            (trainer.steps(), self.validation.map(|(_, loss)| loss), trainer.options());
        let speed = (self.seconds > 0.0).then(|| self.tokens as f64 / self.seconds);
        let (seconds, result) = (self.start.elapsed().as_secs_f64(), trainer.result());
        let mut done = json!({
            "event": "done", "steps": steps, "trainLoss": (self.steps > 0).then_some(self.smoothed), "valLoss": val_loss,
            "bitsPerByte": val_loss.and_then(|loss| trainer.bits_per_byte(loss)), "best": trainer.best().map(|best| json!({"step": best.step, "valLoss": best.val_loss})),
            "kept": trainer.kept().map(|kept| json!({"step": kept.step, "valLoss": kept.val_loss})), "tokensPerSecond": speed, "seconds": seconds,
        });
        let kind = match (options.tune, options.lora_rank) {
            (Tune::State, _) => "state",
            (_, Some(_)) => "lora",
            _ => "model",
        };
        done[kind] = json!(result);
        self.object(&done);
        if steps < options.max_steps {
            let patience = options.patience.unwrap_or_default();
            let why =
                format!("no better validation loss in {patience} validations; a larger --patience goes on");
            self.line(&format!("the run ended with step {steps}: {why}"));
        } else if self.steps == 0 {
            self.line(&format!("the run ended with step {steps}: all steps are done"));
        }
        if let (Some(loss), Some(speed)) = (val_loss, speed) {
            self.line(&format!("validation loss {loss:.3}, training loss {:.3}", self.smoothed));
            self.line(&format!("{} tokens/s in steps · {} in all", number(speed as u64), clock(seconds)));
        }
        let size = std::fs::metadata(&result).map_or(0, |file| file.len());
        self.line(&format!(
            "{} ({}) · {}",
            result.display(),
            Bytes(size as f64),
            trainer.out().join("report.html").display()
        ));
        if let Some(kept) = trainer.kept().filter(|kept| kept.step != steps) {
            self.line(&format!("it is the model of step {}", kept.step));
        }
    }

    /// Says how to go on after a run has diverged.
    pub fn diverged(&mut self, trainer: &Trainer) {
        let resume = lower_rate(trainer);
        self.object(&json!({"event": "diverged", "resume": resume}));
        self.line(&format!("to go on at half the learning rate:\n  {resume}"));
    }

    /// Says so if the model that was saved last is worse than guessing: nothing else about it would tell.
    fn unsound(&mut self, trainer: &Trainer) {
        let Some(Saved { soundness, wrote_result }) = self.saved.filter(|saved| !saved.soundness.is_sound)
        else {
            return;
        };
        let (val_loss, resume) = (soundness.val_loss, lower_rate(trainer));
        let chance = libm::log(trainer.tokenizer().n_vocab() as f64);
        self.object(&json!({
            "event": "unsound", "steps": trainer.steps(), "valLoss": val_loss, "chance": chance,
            "wroteModel": wrote_result, "resume": resume,
        }));
        let losses = format!("its validation loss is {val_loss:.3}, that of guessing {chance:.3}");
        self.line(&format!("this model is worse than guessing: {losses}"));
        self.line(
            "to go on from the last checkpoint that was better, or from the beginning, with a lower rate:",
        );
        self.line(&format!("  {resume}"));
    }

    fn object(&mut self, object: &Value) {
        if self.is_json {
            self.say(&object.to_string());
        }
    }

    fn line(&mut self, line: &str) {
        if !self.is_json {
            self.say(line);
        }
    }

    fn say(&mut self, text: &str) {
        if self.speaks && self.is_heard {
            let mut out = std::io::stdout().lock();
            self.is_heard = writeln!(out, "{text}").and_then(|()| out.flush()).is_ok();
        }
    }
}

/// What to type to go on at half the learning rate.
fn lower_rate(trainer: &Trainer) -> String {
    let half = trainer.options().learning_rate.unwrap_or_default() / 2.0;
    format!("rwkv-mpi train --resume {} --learning-rate {half}", trainer.out().display())
}

/// `12345` as `12,345`.
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 rank`, `2 ranks`.
fn several(count: usize, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// Seconds as a clock shows them: `1:15`, `1:02:05`.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::{clock, number, several};

    #[test]
    fn numbers_and_times_are_shown_as_people_read_them() {
        assert_eq!([1, 999, 1000, 12_345_678].map(number), ["1", "999", "1,000", "12,345,678"]);
        assert_eq!([1, 2].map(|count| several(count, "rank")), ["1 rank", "2 ranks"]);
        assert_eq!([0.0, 75.4, 3725.0, -1.0].map(clock), ["0:00", "1:15", "1:02:05", "0:00"]);
    }
}

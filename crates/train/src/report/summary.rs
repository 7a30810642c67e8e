//! A run in figures: what its report and `rwkv info` say of it.

use serde::Serialize;
use serde_json::{Map, Value};

use super::read::RunView;
use super::series::{MAX_POINTS, Point, reduce, smooth};
use super::text::{name_of, significant};
use crate::options::{DefaultValue, Kind, OF_COMMAND, TrainOptions};
use crate::record::Kept;

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The run's name: its directory's.
    pub name: String,
    /// Steps done, those before a resumption included.
    pub steps: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// The file that the run leaves; none if it is not there.
    pub file: Option<String>,
    /// What that file is; none if nothing says so, or if it is not the file of which that is said.
    pub kept: Option<Kept>,
    /// The step and the loss of the last step.
    pub train_loss: Option<Loss>,
    /// The last validation.
    pub val_loss: Option<Loss>,
    /// The validation with the lowest loss.
    pub best: Option<Loss>,
    /// How many bytes of text a token of the validation set stands for, on average, where that is known.
    pub bytes_per_token: Option<f64>,
    /// The loss of the file that the run leaves, or else the lowest of validation, in bits for each byte of the text.
    pub bits_per_byte: Option<f64>,
    /// Tokens learned from.
    pub tokens: f64,
    /// Time spent in steps.
    pub seconds: f64,
    /// Time that the run took in all, where its log says so.
    pub clock: Option<f64>,
    /// Tokens a second, over the time spent in steps.
    pub tokens_per_second: Option<f64>,
    /// Number of parameters of the model.
    pub parameters: f64,
    /// How many values are trained, where that can be said.
    pub trained_parameters: Option<f64>,
    /// What a token is, `character` or `byte`; none if the tokenizer is gone.
    pub token: Option<&'static str>,
    /// The steps of the checkpoints, in order.
    pub checkpoints: Vec<u64>,
    /// The model that the run started from, by its name.
    pub from: Option<String>,
    /// The fingerprint of that model.
    pub base: Option<String>,
    /// The options that differ from their defaults; of paths the last part.
    pub options: Map<String, Value>,
}

/// A loss, in nats a token, and the step that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The step, counted from 1.
    pub step: u64,
    /// The loss.
    pub loss: f64,
}

/// The curves of a run's losses.
#[derive(Clone, Debug, Serialize)]
pub struct Losses {
    /// Of training, smoothed.
    pub training: Vec<Loss>,
    /// Of validation.
    pub validation: Vec<Loss>,
}

impl Losses {
    /// The curves as a JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An option of a run as it was used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) group: &'static str,
    pub(super) name: &'static str,
    /// What it was; none if it is off or was left to the machine.
    pub(super) value: Value,
    /// What is shown of that.
    pub(super) shown: String,
    pub(super) is_default: bool,
}

/// The options in the order and the groups in which they are shown. Others follow in a group of their own.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Text and model",
        &[
            "data",
            "val",
            "tokenizer",
            "vocabSize",
            "tokenizerFile",
            "arch",
            "nLayer",
            "nEmbd",
            "ctxLen",
            "seed",
        ],
    ),
    ("Fine-tuning", &["from", "tune", "train", "freeze", "loraRank", "loraAlpha", "loraTargets"]),
    (
        "Optimizer",
        &[
            "optimizer",
            "batchSize",
            "accumulate",
            "weightDecay",
            "beta1",
            "beta2",
            "gradClip",
            "dropout",
            "order",
            "carryState",
            "resetState",
        ],
    ),
    (
        "Learning rate",
        &["learningRate", "finalLearningRate", "matrixLearningRate", "warmupSteps", "decay", "cooldown"],
    ),
    (
        "Course of the run",
        &[
            "maxSteps",
            "evalInterval",
            "checkpointInterval",
            "keep",
            "patience",
            "precision",
            "threads",
            "recompute",
        ],
    ),
];

/// Options whose default is up to the machine or a pattern: what is written of them was given.
const AS_GIVEN: [&str; 3] = ["threads", "precision", "loraTargets"];

impl Summary {
    /// The summary as a JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl RunView {
    /// The run in figures.
    pub fn summary(&self) -> Summary {
        let last = self.steps.last();
        let seconds = last.map_or(0.0, |line| line.seconds);
        let tokens = self.last_step() as f64 * self.tokens_per_step();
        let loss = |(step, loss)| Loss { step, loss };
        let kept_loss = self.kept.as_ref().and_then(|kept| kept.val_loss.map(f64::from));
        let options = self.settings().into_iter().filter(|setting| !setting.is_default);
        Summary {
            name: self.name.clone(),
            steps: self.last_step(),
            max_steps: self.config.options.max_steps,
            file: self.file.clone(),
            kept: self.kept.clone(),
            train_loss: last.and_then(|line| Some(Loss { step: line.step, loss: line.loss? })),
            val_loss: self.last_validation().map(loss),
            best: self.best().map(loss),
            bytes_per_token: self.bytes_per_token(),
            bits_per_byte: kept_loss
                .or(self.best().map(|(_, loss)| loss))
                .and_then(|it| self.bits_per_byte(it)),
            tokens,
            seconds,
            clock: last.and_then(|line| line.clock),
            tokens_per_second: (seconds > 0.0).then(|| tokens / seconds),
            parameters: self.parameters(),
            trained_parameters: self.trained_parameters(),
            token: self.token(),
            checkpoints: self.checkpoints.clone(),
            from: self.config.options.from.as_deref().map(name_of),
            base: self.config.base.clone(),
            options: options.map(|setting| (setting.name.to_owned(), setting.value)).collect(),
        }
    }

    /// The trend of the losses of the steps, and the validations, each at most 2,000 points.
    pub fn losses(&self) -> Losses {
        let of = |points: &[Point]| {
            reduce(points, MAX_POINTS).iter().map(|p| Loss { step: p.step, loss: p.value }).collect()
        };
        Losses { training: of(&smooth(&self.training())), validation: of(&self.validations) }
    }

    /// The losses of the steps.
    pub(super) fn training(&self) -> Vec<Point> {
        self.steps.iter().filter_map(|line| Some(line.point(line.loss?))).collect()
    }

    /// What a token is.
    pub(super) fn token(&self) -> Option<&'static str> {
        Some(self.tokenizer.as_ref()?.kind().unit())
    }

    /// Every option in force but the run's directory, in groups.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let options = &self.config.options;
        let values = values(options);
        // What those would be that depend on others, had they been left out.
        let auto = TrainOptions {
            learning_rate: None,
            final_learning_rate: None,
            matrix_learning_rate: None,
            warmup_steps: None,
            lora_alpha: None,
            ..options.clone()
        };
        // The last rate is a part of the highest, whatever that is.
        let of_rate = TrainOptions { learning_rate: options.learning_rate, ..auto.clone() };
        let (auto, of_rate) = (self::values(&auto.resolved()), self::values(&of_rate.resolved()));
        let place =
            |name: &str| GROUPS.iter().position(|(_, names)| names.contains(&name)).unwrap_or(GROUPS.len());
        let rank = |group: usize, name: &str| GROUPS.get(group)?.1.iter().position(|it| *it == name);
        let [character, adamw, v4] = ["character", "adamw", "v4"].map(Value::from);
        let mut placed = Vec::new();
        for option in TrainOptions::table() {
            let name = option.name.as_str();
            // They belong to a command and not to a run.
            if OF_COMMAND.contains(&name) {
                continue;
            }
            let value = values.get(name).cloned().unwrap_or_default();
            let is_default = match &option.default {
                // A run that starts from a model takes these from it.
                _ if options.from.is_some() && ["tokenizer", "nLayer", "nEmbd", "arch"].contains(&name) => {
                    true
                }
                DefaultValue::Required => false,
                DefaultValue::None => value.is_null(),
                DefaultValue::Value(default) => value == *default,
                DefaultValue::Auto(_) => {
                    let auto = match name {
                        "tokenizer" => Some(&character),
                        "optimizer" => Some(&adamw),
                        "arch" => Some(&v4),
                        "finalLearningRate" => of_rate.get(name),
                        name => auto.get(name),
                    };
                    // What no other option decides was given.
                    value.is_null() || (!AS_GIVEN.contains(&name) && auto == Some(&value))
                }
            };
            // No page tells where on its machine a file is.
            let of_path =
                |path: &Value| path.as_str().map_or(Value::Null, |path| name_of(path.as_ref()).into());
            let value = match (option.kind, &value) {
                (Kind::Path | Kind::Paths, Value::String(_)) => of_path(&value),
                (Kind::Paths, Value::Array(paths)) => paths.iter().map(of_path).collect(),
                _ => value,
            };
            let shown = match (&value, &option.default) {
                (Value::Null, DefaultValue::Auto(_)) if name == "threads" => "all".to_owned(),
                (Value::Null, DefaultValue::Auto(_)) if name == "precision" => "the fastest".to_owned(),
                (Value::Null, _) => "–".to_owned(),
                (Value::String(text), _) => text.clone(),
                (Value::Bool(on), _) => if *on { "on" } else { "off" }.to_owned(),
                (Value::Array(texts), _) => {
                    texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
                }
                // Without the digits that only tell how it was computed.
                (Value::Number(number), _) if number.is_f64() => {
                    significant(number.as_f64().unwrap_or(0.0), 6)
                }
                (value, _) => value.to_string(),
            };
            let place = place(name);
            let group = GROUPS.get(place).map_or("Other", |(group, _)| group);
            placed.push(((place, rank(place, name)), Setting { group, name, value, shown, is_default }));
        }
        placed.sort_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, setting)| setting).collect()
    }
}

/// The values of options by name; those that are left out are missing.
fn values(options: &TrainOptions) -> Map<String, Value> {
    // It fails at paths that are not UTF-8, and these come from a file of JSON.
    let json = options.to_json().unwrap_or_default();
    serde_json::from_str(&json).unwrap_or_default()
}

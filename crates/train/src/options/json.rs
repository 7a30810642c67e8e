//! Options in JSON: what programs in other languages pass, what a run's files hold, and the table that
//! describes them.

use std::path::Path;
use std::sync::LazyLock;

use rwkv_core::{Error, Result};
use serde::Serializer;
use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeMap};
use serde_json::{Map, Value};

use super::describe::{self, DefaultValue, Described};
use super::{Inputs, ResumeOptions, TrainOptions};

/// The options of a command, which are not those of its run.
pub(crate) const OF_COMMAND: [&str; 2] = ["out", "force"];

/// The first of the options that came after the first release.
const FIRST_LATER: &str = "from";

impl TrainOptions {
    /// Every option, described.
    pub fn table() -> &'static [Described] {
        static TABLE: LazyLock<Vec<Described>> = LazyLock::new(|| {
            let usual = TrainOptions::new("", "");
            let values = serde_json::to_value(&usual).unwrap_or_default();
            let limits = usual.limits();
            let describe = |field: &describe::Field| {
                let range = limits.iter().find(|limit| limit.name == field.name);
                let changes = ResumeOptions::FIELDS.iter().any(|other| other.name == field.name);
                let value = &values[describe::camel_case(field.name)];
                field.describe(value, range.map(|limit| limit.expected.clone()), changes)
            };
            TrainOptions::FIELDS.iter().map(describe).collect()
        });
        &TABLE
    }

    /// Options from a JSON object, by their names in camelCase; what is left out has its default.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the option which is required, unknown or of another kind.
    pub fn from_json(json: &str) -> Result<Self> {
        let given = describe::parse(json, Self::FIELDS)?;
        let is_missing = |option: &&Described| {
            option.default == DefaultValue::Required && !given.contains_key(&option.name)
        };
        if let Some(missing) = Self::table().iter().find(is_missing) {
            return Err(Error::option(missing.field, "missing", missing.kind.expected()));
        }
        let mut all: Map<String, Value> =
            Self::new("", "").values()?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        all.extend(given);
        from_map(all)
    }

    /// All options as a JSON object, but those that are `None`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if a path is not UTF-8.
    pub fn to_json(&self) -> Result<String> {
        let values = self.values()?.into_iter().filter(|(_, value)| !value.is_null());
        Ok(values.map(|(name, value)| (name.to_owned(), value)).collect::<Value>().to_string())
    }

    /// All options in their order, by their names in camelCase; those that are off or not known yet are null.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub(crate) fn values(&self) -> Result<Vec<(&'static str, Value)>> {
        let values = serde_json::to_value(self).map_err(|error| {
            let data = self.data.paths().map(|path| ("data", path));
            let val = self.val.iter().flat_map(Inputs::paths).map(|path| ("val", path));
            let others = [("out", Some(&*self.out)), ("from", self.from.as_deref())];
            let others = others.into_iter().filter_map(|(name, path)| Some((name, path?)));
            let is_not_utf8 = |path: &Path| path.to_str().is_none();
            let found = data.chain(val).chain(others).find(|(_, path)| is_not_utf8(path));
            Error::option(found.map_or("options", |(name, _)| name), format!("({error})"), "UTF-8")
        })?;
        let of = |option: &'static Described| {
            (option.name.as_str(), values.get(&option.name).cloned().unwrap_or_default())
        };
        Ok(Self::table().iter().map(of).collect())
    }

    /// The options as a checkpoint holds them: without those that belong to a command and not to a run, and
    /// without the later ones that have their defaults.
    ///
    /// # Errors
    /// Those of the serializer, and a path that is not UTF-8.
    pub(crate) fn saved<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut is_later = false;
        let values = self.values().map_err(S::Error::custom)?;
        let usual = Self::new("", "").values().map_err(S::Error::custom)?;
        for ((name, value), (_, usual)) in values.iter().zip(&usual) {
            is_later |= *name == FIRST_LATER;
            let is_left_out = OF_COMMAND.contains(name) || (is_later && value == usual);
            if !is_left_out {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

impl ResumeOptions {
    /// Changes from a JSON object, by the names of the options in camelCase.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the option which is unknown or of another kind.
    pub fn from_json(json: &str) -> Result<Self> {
        from_map(describe::parse(json, Self::FIELDS)?)
    }
}

/// Reads a struct of options whose names and kinds are checked.
fn from_map<T: DeserializeOwned>(options: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(options)).map_err(|error| {
        Error::option("options", format!("an object with an error ({error})"), "of our kinds")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Decay, Kind, TokenizerKind, TrainPrecision, Tune};

    fn options() -> TrainOptions {
        TrainOptions::new("book.txt", "run")
    }

    /// What runs of the first release hold, byte for byte: the checksum of `checkpoint.json` is over this
    /// text.
    const FIRST_RELEASE: &str = concat!(
        r#"{"data":"/texts/book.txt","tokenizer":"byte","nLayer":1,"nEmbd":8,"ctxLen":8,"batchSize":2,"#,
        r#""maxSteps":4,"learningRate":0.003,"finalLearningRate":0.0001,"warmupSteps":1,"weightDecay":0.1,"#,
        r#""beta1":0.9,"beta2":0.99,"gradClip":1.0,"seed":1,"threads":null,"precision":"f32","#,
        r#""evalInterval":250,"checkpointInterval":500}"#
    );

    fn saved(options: &TrainOptions) -> String {
        let mut text = Vec::new();
        options.saved(&mut serde_json::Serializer::new(&mut text)).expect("options");
        String::from_utf8(text).expect("JSON")
    }

    #[test]
    fn files_of_the_first_release_are_read_and_written_as_they_were() {
        let read: TrainOptions = serde_json::from_str(FIRST_RELEASE).expect("options");
        let expected = TrainOptions {
            tokenizer: Some(TokenizerKind::Byte),
            n_layer: 1,
            n_embd: 8,
            ctx_len: 8,
            batch_size: 2,
            max_steps: 4,
            warmup_steps: Some(1),
            precision: Some(TrainPrecision::F32),
            ..TrainOptions::new("/texts/book.txt", "")
        };
        assert_eq!(read, expected.resolved());
        assert_eq!(saved(&read), FIRST_RELEASE);
        for (good, damaged, says) in [
            ("\"nLayer\":1,", "", "missing field `nLayer`"),
            ("\"seed\":1", "\"seed\":\"x\"", "invalid type: string \"x\", expected u64 at line 1 column"),
            ("\"byte\"", "\"words\"", "unknown variant `words`, expected one of `character`, `byte`"),
        ] {
            let text = FIRST_RELEASE.replace(good, damaged);
            let error = serde_json::from_str::<TrainOptions>(&text).expect_err(good).to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_default_of_a_later_option_is_not_saved_and_another_value_comes_back() {
        let usual = TrainOptions { tokenizer: Some(TokenizerKind::Byte), ..options() };
        for (change, is_saved) in [
            (TrainOptions { out: "elsewhere".into(), force: true, ..usual.clone() }, None),
            (TrainOptions { cooldown: 1.0, accumulate: 1, decay: Decay::Cosine, ..usual.clone() }, None),
            (TrainOptions { cooldown: 0.4, ..usual.clone() }, Some(r#","cooldown":0.4}"#)),
            (TrainOptions { accumulate: 2, ..usual.clone() }, Some(r#","accumulate":2}"#)),
            (TrainOptions { tune: Tune::State, ..usual.clone() }, Some(r#","tune":"state"}"#)),
            (TrainOptions { recompute: true, ..usual.clone() }, Some(r#","recompute":true}"#)),
            (TrainOptions { freeze: Some(vec!["*".into()]), ..usual.clone() }, Some(r#","freeze":["*"]}"#)),
            (TrainOptions { patience: Some(3), ..usual.clone() }, Some(r#","patience":3}"#)),
        ] {
            let text = saved(&change);
            let expected = saved(&usual);
            match is_saved {
                None => assert_eq!(text, expected),
                Some(end) => assert_eq!(text, expected.trim_end_matches('}').to_owned() + end),
            }
            let read: TrainOptions = serde_json::from_str(&text).expect("what was saved");
            assert_eq!(read, TrainOptions { out: "".into(), force: false, ..change });
        }
    }

    #[test]
    fn options_of_other_languages_are_checked_by_name_and_kind() {
        let given =
            r#"{"data":"a","out":"b","nLayer":2,"gradClip":0,"precision":"bf16","seed":9007199254740991}"#;
        let expected = TrainOptions {
            n_layer: 2,
            grad_clip: 0.0,
            precision: Some(TrainPrecision::Bf16),
            seed: (1 << 53) - 1,
            ..TrainOptions::new("a", "b")
        };
        assert_eq!(TrainOptions::from_json(given).expect("options"), expected);
        assert_eq!(TrainOptions::from_json(&expected.to_json().expect("JSON")).expect("options"), expected);
        let cases = [
            ("{}", "data is missing; it must be a path"),
            (r#"{"data":"a"}"#, "out is missing; it must be a path"),
            (r#"{"data":"","out":"b"}"#, "data is empty; it must be a path"),
            (r#"{"data":"a","out":[]}"#, "out is an array; it must be a path"),
            (r#"{"data":"a","out":"b","freeze":"x"}"#, "freeze is \"x\"; it must be an array of strings"),
            (
                r#"{"data":"a","out":"b","freeze":["x",""]}"#,
                "freeze is an array; it must be an array of strings",
            ),
            ("[]", "options is an array; it must be an object in JSON"),
            ("{", "options is a text with an error"),
        ];
        for (json, says) in cases {
            let error = TrainOptions::from_json(json).expect_err(json).to_string();
            assert!(error.starts_with(says), "{error}");
        }
        let cases = [
            (r#"{"maxSteps":-1}"#, "max_steps is -1; it must be a whole number from 0 to 2^53 − 1"),
            (r#"{"maxSteps":1.5}"#, "max_steps is 1.5; it must be a whole number from 0 to 2^53 − 1"),
            (r#"{"maxSteps":9007199254740992}"#, "max_steps is 9007199254740992; it must be a whole number"),
            (r#"{"maxSteps":1e300}"#, "max_steps is 1e+300; it must be a whole number from 0 to 2^53 − 1"),
            (r#"{"from":""}"#, "from is empty; it must be a path"),
            (r#"{"recompute":1}"#, "recompute is 1; it must be true or false"),
            (r#"{"keep":["x"]}"#, "keep is an array; it must be best or last"),
            (r#"{"learningRate":"x"}"#, "learning_rate is \"x\"; it must be a finite number"),
            (r#"{"learningRate":null}"#, "learning_rate is null; it must be a finite number"),
            (r#"{"precision":"f16"}"#, "precision is \"f16\"; it must be f32 or bf16"),
            (
                r#"{"nLayer":3}"#,
                "options is an object with \"nLayer\"; it must be an object with these names alone",
            ),
        ];
        for (json, says) in cases {
            let error = ResumeOptions::from_json(json).expect_err(json).to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }

    #[test]
    fn the_table_describes_every_option() {
        let table = TrainOptions::table();
        let find = |name| table.iter().find(|option| option.name == name).expect(name);
        assert_eq!(table.iter().filter(|option| option.default == DefaultValue::Required).count(), 2);
        let ctx_len = find("ctxLen");
        assert_eq!((ctx_len.field, ctx_len.kind, ctx_len.changes_on_resume), ("ctx_len", Kind::Count, false));
        assert_eq!(ctx_len.default, DefaultValue::Value(64.into()));
        assert_eq!(ctx_len.range.as_deref(), Some("a whole number from 1 to 16777216"));
        let rate = find("learningRate");
        assert!(rate.changes_on_resume && matches!(rate.default, DefaultValue::Auto(_)));
        assert_eq!(rate.range.as_deref(), Some("more than 0 and at most 1"));
        assert_eq!(find("gradClip").range.as_deref(), Some("at least 0 and finite"));
        assert_eq!(find("beta1").range.as_deref(), Some("at least 0 and less than 1"));
        assert_eq!(find("precision").kind, Kind::Choice(&["f32", "bf16"]));
        assert_eq!(find("keep").default, DefaultValue::Value("best".into()));
        // What serde makes of the names, and what the documentation says of the defaults.
        let values = serde_json::to_value(options()).expect("options");
        assert_eq!(values.as_object().map(Map::len), Some(table.len()));
        for (option, field) in table.iter().zip(TrainOptions::FIELDS) {
            assert!(values.get(&option.name).is_some(), "{}", option.name);
            let doc = field.doc.concat();
            match &option.default {
                DefaultValue::Required => assert!(doc.ends_with(" Required."), "{doc}"),
                DefaultValue::Value(Value::String(word)) => {
                    assert!(doc.ends_with(&format!(" Default: {word}.")), "{doc}");
                }
                DefaultValue::Value(value) => {
                    let value = value.as_f64().map_or(value.to_string(), |number| number.to_string());
                    assert!(doc.ends_with(&format!(" Default: {value}.")), "{doc}");
                }
                DefaultValue::None | DefaultValue::Auto(_) => {
                    assert!(values[&option.name].is_null(), "{doc}");
                }
            }
        }
        for option in table {
            assert!(option.doc.ends_with('.') && option.doc.len() > 10, "{option:?}");
        }
    }
}

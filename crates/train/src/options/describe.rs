//! What programs can know of an option beyond what a struct tells them: its documentation, the kind of its
//! values, its default, its range.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;

use rwkv_core::{Error, Result};
use serde_json::{Map, Value};

/// A struct of options as it stands, and its `FIELDS`: what documentation comments and types say of each, for
/// programs.
macro_rules! described {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[doc = $doc:literal])+ $(#[serde($($serde:tt)*)])? pub $field:ident: $type:ty,)+
        }
    ) => {
        $(#[$about])*
        pub struct $name {
            $($(#[doc = $doc])+ $(#[serde($($serde)*)])? pub $field: $type,)+
        }

        impl $name {
            pub(super) const FIELDS: &'static [Field] = &[
                $(Field { name: stringify!($field), doc: &[$($doc),+], kind: <$type as Setting>::KIND },)+
            ];
        }
    };
}

pub(super) use described;

/// One option of [`TrainOptions`](super::TrainOptions), for programs that make flags, types or pages of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The name in camelCase, as in files and in TypeScript.
    pub name: String,
    /// The name as a field in Rust.
    pub field: &'static str,
    /// What it means, without its default: one or more sentences, the first of which can stand alone. Names of
    /// options are fields in backticks.
    pub doc: String,
    /// What its values are.
    pub kind: Kind,
    /// What it is if it is left out.
    pub default: DefaultValue,
    /// The values that are allowed, in words that follow "it must be"; none if every value of the kind is.
    pub range: Option<String>,
    /// Whether a run that goes on can have another value than before.
    pub changes_on_resume: bool,
}

/// The kind of an option's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The path of a file or a directory.
    Path,
    /// A string.
    Text,
    /// Several strings, none of them empty.
    Texts,
    /// One path or text, or several.
    Paths,
    /// True or false.
    Boolean,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A whole number, not negative.
    Count,
    /// A number.
    Number,
}

/// The default of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum DefaultValue {
    /// It cannot be left out.
    Required,
    /// It is off.
    None,
    /// A value that depends on other options or on the machine, in words.
    Auto(String),
    /// This value.
    Value(Value),
}

impl Kind {
    /// The largest whole number that JSON carries exactly between all programs: 2⁵³ − 1.
    const MAX_COUNT: u64 = (1 << 53) - 1;

    /// In words, to follow "it must be".
    pub fn expected(self) -> String {
        match self {
            Self::Path => "a path".to_owned(),
            Self::Text => "a string".to_owned(),
            Self::Texts => "an array of strings, each of at least one character".to_owned(),
            Self::Paths => "a path, a text as {\"text\": \"…\"}, or an array of these".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Count => "a whole number from 0 to 2^53 − 1".to_owned(),
            Self::Number => "a finite number".to_owned(),
        }
    }

    /// Whether a value is of this kind.
    pub(super) fn accepts(self, value: &Value) -> bool {
        match self {
            Self::Path => value.as_str().is_some_and(|path| !path.is_empty()),
            Self::Text => value.is_string(),
            Self::Texts => value.as_array().is_some_and(|texts| {
                texts.iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty()))
            }),
            Self::Paths => {
                let is_one = |value: &Value| Self::Path.accepts(value) || is_text(value);
                is_one(value) || value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(is_one))
            }
            Self::Boolean => value.is_boolean(),
            Self::Choice(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Count => value.as_u64().is_some_and(|count| count <= Self::MAX_COUNT),
            Self::Number => value.is_number(),
        }
    }
}

/// Whether a value is `{"text": "…"}`.
fn is_text(value: &Value) -> bool {
    value.as_object().is_some_and(|text| text.len() == 1 && text.get("text").is_some_and(Value::is_string))
}

/// A type that options have.
pub(super) trait Setting {
    const KIND: Kind;
}

impl Setting for PathBuf {
    const KIND: Kind = Kind::Path;
}

impl Setting for String {
    const KIND: Kind = Kind::Text;
}

impl Setting for Vec<String> {
    const KIND: Kind = Kind::Texts;
}

impl Setting for bool {
    const KIND: Kind = Kind::Boolean;
}

impl Setting for usize {
    const KIND: Kind = Kind::Count;
}

impl Setting for u64 {
    const KIND: Kind = Kind::Count;
}

impl Setting for f64 {
    const KIND: Kind = Kind::Number;
}

impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND;
}

/// A field of a struct of options.
pub(super) struct Field {
    pub(super) name: &'static str,
    /// The lines of its documentation.
    pub(super) doc: &'static [&'static str],
    pub(super) kind: Kind,
}

impl Field {
    /// What a program can know of the field.
    ///
    /// # Arguments
    /// - `value`: what the struct's defaults have.
    pub(super) fn describe(
        &self,
        value: &Value,
        range: Option<String>,
        changes_on_resume: bool,
    ) -> Described {
        let doc = self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        // The documentation ends in `Required.` or in `Default: … .`.
        let (meaning, default) = match doc.split_once(" Default: ") {
            Some((meaning, default)) => (meaning, default.trim_end_matches('.')),
            None => (doc.trim_end_matches(" Required."), ""),
        };
        let default = match default {
            "" => DefaultValue::Required,
            "none" => DefaultValue::None,
            words if value.is_null() => DefaultValue::Auto(words.to_owned()),
            _ => DefaultValue::Value(value.clone()),
        };
        Described {
            name: camel_case(self.name),
            field: self.name,
            doc: meaning.to_owned(),
            kind: self.kind,
            default,
            range,
            changes_on_resume,
        }
    }
}

/// An option that must be in a range, and whether it is.
pub(super) struct Limit {
    pub(super) name: &'static str,
    /// The range in words, to follow "it must be".
    pub(super) expected: String,
    /// The value, if it is not in the range.
    refused: Option<String>,
}

impl Limit {
    /// # Errors
    /// [`Error::InvalidOption`] if the value is not in the range.
    pub(super) fn check(self) -> Result<()> {
        match self.refused {
            Some(value) => Err(Error::option(self.name, value, self.expected)),
            None => Ok(()),
        }
    }
}

/// Holds an option, if it is given, to a range. What is not a number is in none.
pub(super) fn within<T: Setting + PartialOrd + Display>(
    name: &'static str,
    value: impl Into<Option<T>>,
    range: impl RangeBounds<T>,
) -> Limit {
    let refused = value.into().filter(|value| !range.contains(value)).map(|value| value.to_string());
    Limit { name, expected: in_words(&range), refused }
}

/// A range, to follow "it must be".
fn in_words<T: Setting + Display>(range: &impl RangeBounds<T>) -> String {
    use Bound::{Excluded, Included, Unbounded};
    let whole = if T::KIND == Kind::Count { "a whole number " } else { "" };
    match (range.start_bound(), range.end_bound()) {
        (Included(low), Included(high)) => format!("{whole}from {low} to {high}"),
        (low, high) => {
            let low = match low {
                Included(low) => format!("at least {low}"),
                Excluded(low) => format!("more than {low}"),
                Unbounded => String::new(),
            };
            let high = match high {
                Included(high) => format!("at most {high}"),
                Excluded(high) => format!("less than {high}").replace("less than inf", "finite"),
                Unbounded => String::new(),
            };
            format!("{whole}{low} and {high}")
        }
    }
}

/// The options in a JSON text, by name, each of which is a field and of its kind.
///
/// # Errors
/// [`Error::InvalidOption`] if it is no object, and with an option's name in Rust if that is unknown or of
/// another kind.
pub(super) fn parse(json: &str, fields: &[Field]) -> Result<Map<String, Value>> {
    let options = match serde_json::from_str(json) {
        Ok(Value::Object(options)) => options,
        Ok(other) => return Err(Error::option("options", shown(&other), "an object in JSON")),
        Err(error) => {
            let problem = format!("a text with an error ({error})");
            return Err(Error::option("options", problem, "an object in JSON"));
        }
    };
    for (name, value) in &options {
        match fields.iter().find(|field| camel_case(field.name) == *name) {
            None => {
                let known: Vec<String> = fields.iter().map(|field| camel_case(field.name)).collect();
                let expected = format!("an object with these names alone: {}", known.join(", "));
                return Err(Error::option("options", format!("an object with {name:?}"), expected));
            }
            Some(field) if !field.kind.accepts(value) => {
                return Err(Error::option(field.name, shown(value), field.kind.expected()));
            }
            Some(_) => {}
        }
    }
    Ok(options)
}

/// A value in a message: numbers and strings as they are, everything else by what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        value => value.to_string(),
    }
}

/// `n_layer` as `nLayer`, which is what serde makes of it.
pub(super) fn camel_case(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |camel, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        camel + &initial.to_ascii_uppercase() + rest
    })
}

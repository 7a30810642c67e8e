//! What can be said of an option, and what is done with each: reading it from JSON, checking it, naming it.

use std::fmt::Display;
use std::path::PathBuf;

use rwkv_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// One option of [`TrainOptions`](super::TrainOptions), for programs that make flags, types or pages of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The name in camelCase, as in files and in messages.
    pub name: &'static str,
    /// The name as a field in Rust.
    pub field: &'static str,
    /// What it means: one or more sentences, the first of which can stand alone. Names of options are fields
    /// in backticks.
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
    Auto(&'static str),
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
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Count => "a whole number from 0 to 2^53 − 1".to_owned(),
            Self::Number => "a finite number".to_owned(),
        }
    }

    /// Whether a value is of this kind.
    fn accepts(self, value: &Value) -> bool {
        match self {
            Self::Path => value.as_str().is_some_and(|path| !path.is_empty()),
            Self::Text => value.is_string(),
            Self::Texts => value.as_array().is_some_and(|texts| {
                texts.iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty()))
            }),
            Self::Boolean => value.is_boolean(),
            Self::Choice(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Count => value.as_u64().is_some_and(|count| count <= Self::MAX_COUNT),
            Self::Number => value.is_number(),
        }
    }
}

/// A type that options have.
pub(super) trait Setting: Serialize + DeserializeOwned {
    const KIND: Kind;

    /// What is wrong with a value, whatever the option.
    fn problem(&self) -> Option<&'static str> {
        None
    }
}

impl Setting for PathBuf {
    const KIND: Kind = Kind::Path;

    // An empty path would mean the current directory, which nobody has named.
    fn problem(&self) -> Option<&'static str> {
        self.as_os_str().is_empty().then_some("empty")
    }
}

impl Setting for String {
    const KIND: Kind = Kind::Text;
}

impl Setting for Vec<String> {
    const KIND: Kind = Kind::Texts;

    fn problem(&self) -> Option<&'static str> {
        self.iter().any(String::is_empty).then_some("an array with an empty string")
    }
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

/// A field that holds a setting: always, or if it is not left out.
pub(super) trait Field<T> {
    fn given(&self) -> Option<&T>;
}

impl<T> Field<T> for T {
    fn given(&self) -> Option<&T> {
        Some(self)
    }
}

impl<T> Field<T> for Option<T> {
    fn given(&self) -> Option<&T> {
        self.as_ref()
    }
}

/// A number that can have a range.
pub(super) trait Number: Copy + PartialOrd + Display {
    const IS_WHOLE: bool;
    /// What is larger than every number that an option can be, if the type has it.
    const INFINITY: Option<Self>;
}

impl Number for usize {
    const IS_WHOLE: bool = true;
    const INFINITY: Option<Self> = None;
}

impl Number for u64 {
    const IS_WHOLE: bool = true;
    const INFINITY: Option<Self> = None;
}

impl Number for f64 {
    const IS_WHOLE: bool = false;
    const INFINITY: Option<Self> = Some(f64::INFINITY);
}

/// The numbers between two, named after the ends that do not belong to it. What is not a number is in none.
#[derive(Clone, Copy)]
pub(super) enum Range<T> {
    Closed(T, T),
    LeftOpen(T, T),
    RightOpen(T, T),
}

impl<T: Number> Range<T> {
    fn contains(self, x: T) -> bool {
        match self {
            Self::Closed(low, high) => low <= x && x <= high,
            Self::LeftOpen(low, high) => low < x && x <= high,
            Self::RightOpen(low, high) => low <= x && x < high,
        }
    }

    /// In words, to follow "it must be".
    pub(super) fn expected(self) -> String {
        let whole = if T::IS_WHOLE { "a whole number " } else { "" };
        match self {
            Self::Closed(low, high) => format!("{whole}from {low} to {high}"),
            Self::LeftOpen(low, high) => format!("{whole}more than {low} and at most {high}"),
            Self::RightOpen(low, high) if Some(high) == T::INFINITY => {
                format!("{whole}at least {low} and finite")
            }
            Self::RightOpen(low, high) => format!("{whole}at least {low} and less than {high}"),
        }
    }
}

/// Refuses a number that is out of its range.
pub(super) fn check_range<T: Number>(
    name: &'static str,
    field: &impl Field<T>,
    range: Range<T>,
) -> Result<()> {
    match field.given() {
        Some(&value) if !range.contains(value) => Err(Error::option(name, value, range.expected())),
        _ => Ok(()),
    }
}

/// Refuses a value that no option of its type can have.
pub(super) fn check_value<T: Setting>(name: &'static str, field: &impl Field<T>) -> Result<()> {
    match field.given().and_then(T::problem) {
        Some(problem) => Err(Error::option(name, problem, T::KIND.expected())),
        None => Ok(()),
    }
}

/// The options in a JSON text, by name.
///
/// # Errors
/// [`Error::InvalidOption`] if it is no object.
pub(super) fn parse(json: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(json) {
        Ok(Value::Object(options)) => Ok(options),
        Ok(other) => Err(Error::option("options", shown(&other), "an object in JSON")),
        Err(error) => {
            Err(Error::option("options", format!("a text with an error ({error})"), "an object in JSON"))
        }
    }
}

/// Takes an option out of those that were given, by its name in JSON.
///
/// # Errors
/// [`Error::InvalidOption`] with its `name` in Rust if it is of another kind.
pub(super) fn take<T: Setting>(
    given: &mut Map<String, Value>,
    in_json: &str,
    name: &'static str,
) -> Result<Option<T>> {
    let Some(value) = given.remove(in_json) else { return Ok(None) };
    let refused = || Error::option(name, shown(&value), T::KIND.expected());
    if !T::KIND.accepts(&value) {
        return Err(refused());
    }
    T::deserialize(&value).map(Some).map_err(|_| refused())
}

/// Refuses options that are left over when all that there are have been taken.
pub(super) fn check_all_taken(given: &Map<String, Value>, known: &[&str]) -> Result<()> {
    match given.keys().next() {
        Some(name) => {
            let expected = format!("an object with these names alone: {}", known.join(", "));
            Err(Error::option("options", format!("an object with {name:?}"), expected))
        }
        None => Ok(()),
    }
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

/// Reads the field `name` of a file; a field that is not there is one that holds nothing, if it can.
pub(super) fn read_field<T: DeserializeOwned, E: serde::de::Error>(
    fields: &mut Map<String, Value>,
    name: &'static str,
) -> std::result::Result<T, E> {
    match fields.remove(name) {
        Some(value) => serde_json::from_value(value).map_err(|error| E::custom(format!("{name}: {error}"))),
        None => serde_json::from_value(Value::Null).map_err(|_| E::missing_field(name)),
    }
}

/// The option's value in JSON.
///
/// # Errors
/// [`Error::InvalidOption`] for a path that is not UTF-8.
pub(super) fn to_json<T: Serialize>(name: &'static str, value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::option(name, format!("({error})"), "UTF-8"))
}

/// The lines of a documentation comment as one text.
pub(super) fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The one element of an array, if it has one.
pub(super) fn only<T, const N: usize>(array: [T; N]) -> Option<T> {
    array.into_iter().next()
}

/// Length of [`camel_case`].
pub(super) const fn camel_case_len(snake: &str) -> usize {
    let (bytes, mut len, mut at) = (snake.as_bytes(), 0, 0);
    while at < bytes.len() {
        len += (bytes[at] != b'_') as usize;
        at += 1;
    }
    len
}

/// `n_layer` as the bytes of `nLayer`, where a constant can use it.
pub(super) const fn camel_case<const LEN: usize>(snake: &str) -> [u8; LEN] {
    let (bytes, mut camel, mut from, mut to) = (snake.as_bytes(), [0; LEN], 0, 0);
    while from < bytes.len() {
        if bytes[from] == b'_' {
            from += 1;
            camel[to] = bytes[from].to_ascii_uppercase();
        } else {
            camel[to] = bytes[from];
        }
        (from, to) = (from + 1, to + 1);
    }
    camel
}

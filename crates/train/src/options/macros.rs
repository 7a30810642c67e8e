//! The macros of the table: they turn its rows into structs, and into what every option would else repeat.

/// An enum of a few words, each of which stands for a variant in files, in messages and in other languages.
macro_rules! choices {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal,)+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word of each.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Its word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl Setting for $name {
            const KIND: Kind = Kind::Choice(Self::WORDS);
        }
    };
}

/// The structs of the options, from the rows of their table; `table.rs` says what a row is.
///
/// Rows are read one by one into a form of their own, `{ [documentation] name (type) (type of the field)
/// [default] [where it is saved] [range] }`, and collected twice: all of them, and those that can change when
/// a run goes on.
macro_rules! training_options {
    // Another section: where the rows from here on are saved.
    (@read [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+]; [$($next:ident)+] $($rest:tt)*) => {
        training_options! { @read [$($all)*] [$($resumable)*] [$($next)+]; $($rest)* }
    };

    // The next row, by the kind of its default; the field of what can be left out without a value is an
    // Option.
    (@read [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+];
        $(#[doc = $doc:literal])+ $name:ident: $type:ty = required
        $(, $low:literal $above:tt x $below:tt $high:expr)?, $resume:ident; $($rest:tt)*
    ) => {
        training_options! { @$resume [$($all)*] [$($resumable)*] [$($saved)+];
            { [$($doc)+] $name ($type) ($type) [required] [$($saved)+] [$($low $above x $below $high)?] }
            $($rest)*
        }
    };

    (@read [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+];
        $(#[doc = $doc:literal])+ $name:ident: $type:ty = none
        $(, $low:literal $above:tt x $below:tt $high:expr)?, $resume:ident; $($rest:tt)*
    ) => {
        training_options! { @$resume [$($all)*] [$($resumable)*] [$($saved)+];
            { [$($doc)+] $name ($type) (Option<$type>) [none] [$($saved)+] [$($low $above x $below $high)?] }
            $($rest)*
        }
    };

    (@read [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+];
        $(#[doc = $doc:literal])+ $name:ident: $type:ty = auto $words:literal
        $(, $low:literal $above:tt x $below:tt $high:expr)?, $resume:ident; $($rest:tt)*
    ) => {
        training_options! { @$resume [$($all)*] [$($resumable)*] [$($saved)+];
            { [$($doc)+] $name ($type) (Option<$type>) [auto $words] [$($saved)+]
              [$($low $above x $below $high)?] }
            $($rest)*
        }
    };

    (@read [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+];
        $(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:expr
        $(, $low:literal $above:tt x $below:tt $high:expr)?, $resume:ident; $($rest:tt)*
    ) => {
        training_options! { @$resume [$($all)*] [$($resumable)*] [$($saved)+];
            { [$($doc)+] $name ($type) ($type) [value $value] [$($saved)+] [$($low $above x $below $high)?] }
            $($rest)*
        }
    };

    // The row that was read joins one list or both.
    (@resumable [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+]; $row:tt $($rest:tt)*) => {
        training_options! { @read [$($all)* $row] [$($resumable)* $row] [$($saved)+]; $($rest)* }
    };

    (@fixed [$($all:tt)*] [$($resumable:tt)*] [$($saved:ident)+]; $row:tt $($rest:tt)*) => {
        training_options! { @read [$($all)* $row] [$($resumable)*] [$($saved)+]; $($rest)* }
    };

    // All rows are read.
    (@read
        [$({ [$($doc:literal)+] $name:ident ($type:ty) ($field:ty) [$($default:tt)+] [$($saved:ident)+]
             [$($low:literal $above:tt x $below:tt $high:expr)?] })+]
        [$({ [$($r_doc:literal)+] $r_name:ident ($r_type:ty) ($r_field:ty) [$($r_default:tt)+]
             [$($r_saved:ident)+] [$($r_range:tt)*] })+]
        [$($last:ident)+];
    ) => {
        /// Options of a new run; `None` means what the documentation of the field says.
        ///
        /// ```
        /// use rwkv_train::TrainOptions;
        ///
        /// let options =
        ///     TrainOptions { n_layer: 2, max_steps: 500, ..TrainOptions::new("book.txt", "runs/book") };
        /// assert_eq!(options.resolved().warmup_steps, Some(50));
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        pub struct TrainOptions {
            $($(#[doc = $doc])+ #[doc = ""] #[doc = default_doc!($($default)+)] pub $name: $field,)+
        }

        /// What can change when a run goes on; `None` leaves it as it was.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct ResumeOptions {
            $($(#[doc = $r_doc])+ pub $r_name: Option<$r_type>,)+
        }

        /// The options' names in camelCase, as JSON has them. Errors have those of Rust.
        #[allow(non_upper_case_globals)]
        mod names {
            use $crate::options::describe::{camel_case, camel_case_len};

            $(pub(super) const $name: &str = {
                const NAME: [u8; camel_case_len(stringify!($name))] = camel_case(stringify!($name));
                match std::str::from_utf8(&NAME) {
                    Ok(name) => name,
                    Err(_) => stringify!($name),
                }
            };)+
        }

        impl TrainOptions {
            const NAMES: &'static [&'static str] = &[$(names::$name),+];

            /// The defaults: nanoGPT's CPU budget, 0.87 million parameters and 1.5 million tokens.
            pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
                Self { data: data.into(), out: out.into(), ..Self::defaults() }
            }

            /// The defaults; what is required is empty.
            fn defaults() -> Self {
                Self { $($name: default_value!($($default)+)),+ }
            }

            /// Refuses numbers out of their range and paths that are empty.
            pub(super) fn check_each(&self) -> Result<()> {
                $(
                    check_value::<$type>(stringify!($name), &self.$name)?;
                    $(check_range::<$type>(stringify!($name), &self.$name, range!($low $above x $below $high))?;)?
                )+
                Ok(())
            }

            /// Takes the options that are given.
            pub(super) fn take(&mut self, given: &mut Map<String, Value>) -> Result<()> {
                $(if let Some(value) = take::<$type>(given, names::$name, stringify!($name))? {
                    self.$name = value.into();
                })+
                check_all_taken(given, Self::NAMES)
            }

            /// All options with their names; those that are off or not known yet are null.
            pub(crate) fn values(&self) -> Result<Vec<(&'static str, Value)>> {
                Ok(vec![$((names::$name, to_json(stringify!($name), &self.$name)?)),+])
            }

            /// Every option, described.
            pub fn table() -> Vec<Described> {
                let resumable = [$(names::$r_name),+];
                vec![$(Described {
                    name: names::$name,
                    field: stringify!($name),
                    doc: joined(&[$($doc),+]),
                    kind: <$type as Setting>::KIND,
                    default: described_default!($($default)+),
                    range: only([$(Range::<$type>::expected(range!($low $above x $below $high)))?]),
                    changes_on_resume: resumable.contains(&names::$name),
                }),+]
            }
        }

        impl ResumeOptions {
            const NAMES: &'static [&'static str] = &[$(names::$r_name),+];

            /// Takes the options that are given.
            pub(super) fn take(&mut self, given: &mut Map<String, Value>) -> Result<()> {
                $(self.$r_name = take::<$r_type>(given, names::$r_name, stringify!($r_name))?;)+
                check_all_taken(given, Self::NAMES)
            }

            /// Makes the changes.
            pub(super) fn change(&self, options: &mut TrainOptions) {
                $(if let Some(value) = &self.$r_name {
                    options.$r_name = value.to_owned().into();
                })+
            }
        }

        /// As in `config.json` and `checkpoint.json`.
        #[allow(clippy::float_cmp)] // a default is the very number
        impl Serialize for TrainOptions {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                $(if is_saved!([$($saved)+] self.$name, Self::defaults().$name) {
                    map.serialize_entry(names::$name, &self.$name)?;
                })+
                map.end()
            }
        }

        impl<'de> Deserialize<'de> for TrainOptions {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let defaults = Self::defaults();
                let mut fields = Map::<String, Value>::deserialize(deserializer)?;
                Ok(Self {
                    $($name: saved_value!([$($saved)+] fields, names::$name, defaults.$name)),+
                })
            }
        }
    };

    // The table as it is written.
    ([$($saved:ident)+] $($rows:tt)+) => {
        training_options! { @read [] [] [$($saved)+]; $($rows)+ }
    };
}

/// What a default is to the field.
macro_rules! default_value {
    (required) => {
        Default::default()
    };
    (none) => {
        None
    };
    (auto $words:literal) => {
        None
    };
    (value $value:expr) => {
        $value
    };
}

/// What a default is to its reader.
macro_rules! default_doc {
    (required) => {
        "Required."
    };
    (none) => {
        "Default: none."
    };
    (auto $words:literal) => {
        concat!("Default: ", $words, ".")
    };
    (value $value:expr) => {
        concat!("Default: `", stringify!($value), "`.")
    };
}

/// What a default is to programs.
macro_rules! described_default {
    (required) => {
        DefaultValue::Required
    };
    (none) => {
        DefaultValue::None
    };
    (auto $words:literal) => {
        DefaultValue::Auto($words)
    };
    (value $value:expr) => {
        DefaultValue::Value(serde_json::json!($value))
    };
}

macro_rules! range {
    ($low:literal <= x <= $high:expr) => {
        Range::Closed($low, $high)
    };
    ($low:literal < x <= $high:expr) => {
        Range::LeftOpen($low, $high)
    };
    ($low:literal <= x < $high:expr) => {
        Range::RightOpen($low, $high)
    };
}

/// Whether a value is written to a run's files.
macro_rules! is_saved {
    ([saved] $value:expr, $default:expr) => {
        true
    };
    ([not saved] $value:expr, $default:expr) => {
        false
    };
    ([saved unless default] $value:expr, $default:expr) => {
        $value != $default
    };
}

/// The value from a run's files.
macro_rules! saved_value {
    ([saved] $fields:ident, $name:expr, $default:expr) => {
        read_field(&mut $fields, $name)?
    };
    ([not saved] $fields:ident, $name:expr, $default:expr) => {
        $default
    };
    ([saved unless default] $fields:ident, $name:expr, $default:expr) => {
        if $fields.contains_key($name) { read_field(&mut $fields, $name)? } else { $default }
    };
}

pub(super) use {
    choices, default_doc, default_value, described_default, is_saved, range, saved_value, training_options,
};

#[cfg(test)]
mod tests {
    //! Options of every kind, most of them as those that came after the first release.
    #![allow(dead_code, unreachable_pub)]

    use std::path::PathBuf;

    use rwkv_core::Result;
    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::{Map, Value, json};

    use crate::options::describe::{
        DefaultValue, Described, Kind, Range, Setting, check_all_taken, check_range, check_value, joined,
        only, parse, read_field, take, to_json,
    };

    choices! {
        /// Which.
        pub enum Which {
            /// This.
            This = "this",
            /// That.
            That = "that",
        }
    }

    training_options! {
        [saved]
        /// Text.
        data: PathBuf = required, resumable;
        [not saved]
        /// Directory.
        out: PathBuf = required, fixed;
        [saved]
        /// Width.
        width: usize = 8, 1 <= x <= 9, fixed;
        [saved unless default]
        /// Share.
        share: f64 = 0.0, 0.0 <= x < 1.0, fixed;
        /// Model.
        from: PathBuf = none, fixed;
        /// Names.
        only_these: Vec<String> = vec!["a".to_owned()], resumable;
        /// Words.
        words: String = none, resumable;
        /// Again.
        again: bool = false, resumable;
        /// Which.
        which: Which = auto "this, or that", fixed;
    }

    fn taken(given: &Value) -> Result<TrainOptions> {
        let mut options = TrainOptions::new("a", "b");
        options.take(&mut parse(&given.to_string())?)?;
        options.check_each()?;
        Ok(options)
    }

    #[test]
    fn a_default_of_a_later_option_is_not_written_and_another_value_comes_back() {
        let old = r#"{"data":"a","width":8}"#;
        let read: TrainOptions = serde_json::from_str(old).expect("a file without the later ones");
        assert_eq!(read, TrainOptions::new("a", ""));
        assert_eq!(serde_json::to_string(&read).expect("JSON"), old);
        let given = json!({
            "share": 0.5, "from": "m.bin", "onlyThese": ["x", "y"], "words": "", "again": true, "which": "that"
        });
        let options = taken(&given).expect("options of every kind");
        let expected = TrainOptions {
            share: 0.5,
            from: Some("m.bin".into()),
            only_these: vec!["x".to_owned(), "y".to_owned()],
            words: Some(String::new()),
            again: true,
            which: Some(Which::That),
            ..TrainOptions::new("a", "b")
        };
        assert_eq!(options, expected);
        let text = serde_json::to_string(&options).expect("JSON");
        let back: TrainOptions = serde_json::from_str(&text).expect("what was written");
        assert_eq!(back, TrainOptions { out: PathBuf::new(), ..expected });
    }

    #[test]
    fn values_of_other_kinds_are_refused() {
        for (given, says) in [
            (json!({"width": 10}), "width is 10; it must be a whole number from 1 to 9"),
            (json!({"share": 1}), "share is 1; it must be at least 0 and less than 1"),
            (json!({"share": null}), "share is null; it must be a finite number"),
            (json!({"from": ""}), "from is empty; it must be a path"),
            (json!({"words": 1}), "words is 1; it must be a string"),
            (json!({"onlyThese": "x"}), "only_these is \"x\"; it must be an array of strings"),
            (json!({"onlyThese": ["x", ""]}), "only_these is an array; it must be an array of strings"),
            (json!({"again": 1}), "again is 1; it must be true or false"),
            (json!({"which": "other"}), "which is \"other\"; it must be this or that"),
        ] {
            let error = taken(&given).expect_err(says).to_string();
            assert!(error.starts_with(says), "{error}");
        }
        let empty = TrainOptions { only_these: vec![String::new()], ..TrainOptions::new("a", "b") };
        assert!(empty.check_each().is_err());
    }

    #[test]
    fn the_table_says_what_the_rows_say() {
        let kinds: Vec<Kind> = TrainOptions::table().iter().map(|option| option.kind).collect();
        let which = Kind::Choice(&["this", "that"]);
        let expected = [Kind::Path, Kind::Path, Kind::Count, Kind::Number, Kind::Path, Kind::Texts];
        assert_eq!(kinds, [&expected[..], &[Kind::Text, Kind::Boolean, which]].concat());
        let defaults: Vec<DefaultValue> =
            TrainOptions::table().into_iter().skip(4).map(|option| option.default).collect();
        let expected = [
            DefaultValue::None,
            DefaultValue::Value(json!(["a"])),
            DefaultValue::None,
            DefaultValue::Value(json!(false)),
            DefaultValue::Auto("this, or that"),
        ];
        assert_eq!(defaults, expected);
    }
}

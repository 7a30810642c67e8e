//! Errors: one enum for everything that can go wrong, with stable codes.

use std::path::PathBuf;

use rwkv_kernels::IsaError;

/// The result of anything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what to do about it.
///
/// [`code`](Self::code) is stable across releases; messages are for people and may change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, such as "open" or "write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A model file is damaged, incomplete or not a model file at all.
    #[error("{}: {}at byte {offset}: {problem}", path.display(), tensor.as_ref().map(|name| format!("tensor {name:?} ")).unwrap_or_default())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// The tensor, if the problem is within one.
        tensor: Option<String>,
        /// Where in the file.
        offset: u64,
        /// What is wrong, and what was expected.
        problem: String,
        /// What kind of problem it is.
        fault: Fault,
    },
    /// The file is sound but holds something that this version cannot run.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what to use instead.
        what: String,
        /// What kind of thing it is.
        fault: Fault,
    },
    /// A file was written to while it was in use.
    #[error(
        "{}: this file changed while it was in use: {how}; load it again (a file in use can be replaced safely by writing \
         a new one beside it and renaming that)",
        path.display()
    )]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// What is different.
        how: String,
    },
    /// A weight of a model in memory is infinite or not a number.
    #[error("tensor {tensor:?}: {problem}")]
    Weight {
        /// The parameter.
        tensor: String,
        /// Where in it.
        problem: String,
    },
    /// A result is infinite or not a number although every weight is finite.
    #[error(
        "{what} became infinite or not a number: this model's weights, or the state that it goes on from, are too large \
         for single precision; check how the model was made"
    )]
    NotFinite {
        /// The result.
        what: String,
    },
    /// An option has a value that makes no sense.
    #[error("{name} is {value}; it must be {expected}")]
    InvalidOption {
        /// The option's name, that of the field.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A token that the model does not have.
    #[error("token {token} is out of range: this model's vocabulary has {n_vocab} tokens, 0 to {}", n_vocab - 1)]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// The vocabulary's size, at least one.
        n_vocab: usize,
    },
    /// A state that is damaged or belongs to another model.
    #[error("this state cannot be used: {problem}")]
    State {
        /// What is wrong with it.
        problem: String,
    },
    /// A LoRA adapter that is damaged or of another model.
    #[error("{}: {problem}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A `tokenizer.json` that is damaged or of an unknown kind.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A character that the vocabulary does not have.
    #[error(
        "{} is not among the {n_vocab} characters this model was trained on; {}",
        at_position(*character, *position, place.as_deref()),
        if *character == BYTE_ORDER_MARK {
            "save the text as UTF-8 without it"
        } else {
            "with unknown \"skip\" such characters are left out"
        }
    )]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its position, counted in characters from 0.
        position: usize,
        /// How many characters the vocabulary has.
        n_vocab: usize,
        /// File, line and column, if the text is of a file.
        place: Option<String>,
    },
    /// A text that is not UTF-8.
    #[error(
        "{}: byte {offset} is not UTF-8; convert the text, have such bytes replaced (invalid \"replace\"), or use a \
         tokenizer of bytes",
        path.display()
    )]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that is not part of a character.
        offset: usize,
    },
    /// A text that cannot be read, or is too short for what is to be done with it.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would do.
        problem: String,
    },
    /// What was asked of something that does one thing at a time, and is at work.
    #[error("this {what} is still at work: wait for the earlier call, or use another {what}")]
    Busy {
        /// What it is, such as "session".
        what: &'static str,
    },
    /// A fault in this library.
    #[error("a fault in rwkv, please report it: {what}")]
    Internal {
        /// What went wrong.
        what: String,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Aborted,
    /// `RWKV_ISA` names a tier that is not there.
    #[error(transparent)]
    Isa(#[from] IsaError),
}

/// What some editors write before the first character of a file, unseen, to say that it is Unicode.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A character of a text, for messages.
fn at_position(character: char, position: usize, place: Option<&str>) -> String {
    let code = u32::from(character);
    let name = match character {
        BYTE_ORDER_MARK => format!("the byte order mark (U+{code:04X})"),
        _ => format!("character {character:?} (U+{code:04X})"),
    };
    match (place, character, position) {
        (Some(place), BYTE_ORDER_MARK, 0) => format!("{place}: {name} that the text begins with"),
        (None, BYTE_ORDER_MARK, 0) => format!("{name} that the text begins with"),
        (Some(place), ..) => format!("{place}: {name}"),
        (None, ..) => format!("{name} at position {position}"),
    }
}

/// The kind of thing in a model file that is wrong or not supported, for programs that tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// None of the others.
    Other,
    /// The file ends before what was announced, or in the middle of a header.
    Truncated,
    /// The file does not start like a model.
    Magic,
    /// The version of the file format.
    FormatVersion,
    /// The format of the weights.
    DataType,
    /// Dimensions that no tensor can have.
    Shape,
    /// Dimensions that this tensor does not have in a model of the announced size.
    Dimensions,
    /// A tensor's name: impossible, there twice, or not one of this model.
    Name,
    /// A tensor that should be there.
    Missing,
    /// The version of RWKV.
    Version,
}

impl Error {
    /// A stable name for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "IO",
            Self::ModelFile { .. } => "MODEL_FILE",
            Self::Unsupported { .. } => "UNSUPPORTED",
            Self::FileChanged { .. } => "FILE_CHANGED",
            Self::Weight { .. } | Self::NotFinite { .. } => "NOT_FINITE",
            Self::InvalidOption { .. } => "INVALID_OPTION",
            Self::TokenOutOfRange { .. } => "TOKEN_OUT_OF_RANGE",
            Self::State { .. } => "STATE",
            Self::Adapter { .. } => "ADAPTER",
            Self::Tokenizer { .. } => "TOKENIZER",
            Self::UnknownCharacter { .. } => "UNKNOWN_CHARACTER",
            Self::InvalidUtf8 { .. } => "INVALID_UTF8",
            Self::Data { .. } => "DATA",
            Self::Busy { .. } => "BUSY",
            Self::Internal { .. } => "INTERNAL",
            Self::Aborted => "ABORTED",
            Self::Isa(_) => "ISA",
        }
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What kind of thing in a model file it is about, if it is about one.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::ModelFile { fault, .. } | Self::Unsupported { fault, .. } => Some(*fault),
            _ => None,
        }
    }

    /// The same error of a model file, as one of this kind.
    pub(crate) fn of_kind(mut self, kind: Fault) -> Self {
        if let Self::ModelFile { fault, .. } | Self::Unsupported { fault, .. } = &mut self {
            *fault = kind;
        }
        self
    }

    /// An [`Error::InvalidOption`].
    #[allow(clippy::needless_pass_by_value)] // callers pass numbers and names, at no cost
    pub fn option(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        let text = value.to_string();
        // Rust writes 1e308 as 309 digits.
        let number = if text.len() > 24 { text.parse::<f64>().ok() } else { None };
        let value = number.map_or(text, |number| format!("{number:e}"));
        Self::InvalidOption { name, value, expected: expected.into() }
    }
}

//! Options that are one of a few words.

use rwkv_core::Version;
use rwkv_kernels::Precision;
pub use rwkv_text::{TokenizerKind, Unknown};

use super::describe::{Kind, Setting};

/// An enum of a few words, each of which stands for a variant in files, in messages and in other languages.
macro_rules! choices {
    (
        $(#[$about:meta])+
        pub enum $name:ident { $($(#[$meta:meta])+ $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$meta])+ #[serde(rename = $word)] $variant,)+
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

impl Setting for TokenizerKind {
    const KIND: Kind = Kind::Choice(Self::WORDS);
}

impl Setting for Version {
    const KIND: Kind = Kind::Choice(Self::NAMES);
}

impl Setting for Unknown {
    const KIND: Kind = Kind::Choice(Self::WORDS);
}

choices! {
    /// Precision of the operands of matrix products in training. Their sums are f32 either way, and so is
    /// everything else: parameters, gradients, moments, norms, attention, loss.
    pub enum TrainPrecision {
        /// Single precision.
        F32 = "f32",
        /// Operands rounded to bf16, at up to twice the speed; for CPUs that multiply it (AVX512_BF16).
        Bf16 = "bf16",
    }
}

choices! {
    /// How ranks send each other what is summed over them.
    #[derive(Default)]
    pub enum SumPrecision {
        /// Single precision.
        #[default]
        F32 = "f32",
        /// Rounded to bf16: half the bytes. Sums are taken in f32.
        Bf16 = "bf16",
    }
}

choices! {
    /// The part of a model that a run trains.
    #[derive(Default)]
    pub enum Tune {
        /// The parameters of the model, or adapters of it.
        #[default]
        Model = "model",
        /// The state that every sequence starts from, and nothing else.
        State = "state",
    }
}

choices! {
    /// The optimizer.
    pub enum OptimizerKind {
        /// AdamW for all parameters.
        AdamW = "adamw",
        /// Muon for the matrices between activations, AdamW for the embedding, the head and the vectors.
        Muon = "muon",
    }
}

choices! {
    /// The shape of the decay of the learning rate.
    #[derive(Default)]
    pub enum Decay {
        /// Along half a cosine.
        #[default]
        Cosine = "cosine",
        /// Along a straight line.
        Linear = "linear",
    }
}

choices! {
    /// Which model of a run `model.bin` is.
    #[derive(Default)]
    pub enum Keep {
        /// That with the lowest validation loss.
        #[default]
        Best = "best",
        /// The last one.
        Last = "last",
    }
}

choices! {
    /// The order in which sequences are learned.
    #[derive(Default)]
    pub enum Order {
        /// Every token once an epoch.
        #[default]
        Epoch = "epoch",
        /// Anywhere in the text, as nanoGPT's.
        Random = "random",
    }
}

choices! {
    /// What becomes of bytes that are not UTF-8.
    #[derive(Default)]
    pub enum InvalidText {
        /// An error that says where they are.
        #[default]
        Error = "error",
        /// U+FFFD.
        Replace = "replace",
    }
}

choices! {
    /// What comes from standard input.
    #[derive(Default)]
    pub enum Stdin {
        /// A text.
        #[default]
        Text = "text",
        /// JSON Lines: a document a line.
        JsonLines = "jsonl",
    }
}

impl From<TrainPrecision> for Precision {
    fn from(precision: TrainPrecision) -> Self {
        match precision {
            TrainPrecision::F32 => Self::F32,
            TrainPrecision::Bf16 => Self::Bf16,
        }
    }
}

impl From<Precision> for TrainPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

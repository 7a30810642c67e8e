//! Models in the formats of other programs, changed in a few places, and what is asked of whatever opens.

use arbitrary::{Arbitrary, Unstructured};
use rwkv_core::{Model, go_on};

use crate::{check_error, cpu};

/// No file is made longer than this.
const MOST: usize = 1 << 18;

/// A sound file, and where in it no weights are: so many bytes at its beginning, and so many at its end.
pub struct Sound {
    /// The file.
    pub bytes: &'static [u8],
    /// Bytes before the first weights.
    pub head: usize,
    /// Bytes after the last weights.
    pub tail: usize,
}

/// A file of rwkv-core's tests, with the bytes before its first weights and after its last.
#[macro_export]
macro_rules! fixture {
    ($name:literal, $head:literal, $tail:literal) => {
        $crate::formats::Sound {
            bytes: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../crates/core/tests/fixtures/",
                $name
            )),
            head: $head,
            tail: $tail,
        }
    };
}

/// The bytes of a file: `data` itself if it begins as `magic` says, else what it says in terms of edits to one of
/// `files`.
pub fn bytes(data: &[u8], files: &[Sound], magic: fn(&[u8]) -> bool) -> Vec<u8> {
    if magic(data) {
        return data.to_owned();
    }
    let mut unstructured = Unstructured::new(data);
    let which = u8::arbitrary(&mut unstructured).unwrap_or_default();
    let edits = Vec::<Edit>::arbitrary(&mut unstructured).unwrap_or_default();
    let file = &files[usize::from(which) % files.len()];
    let mut bytes = file.bytes.to_owned();
    for edit in edits.iter().take(12) {
        edit.apply(&mut bytes, file);
    }
    bytes.truncate(MOST);
    bytes
}

/// Opens the bytes of a file; a model that they make is evaluated, on two tokens. (What `exercise` does besides is the
/// same for a model of any file.)
pub fn open(bytes: Vec<u8>) {
    let len = bytes.len();
    let model = match Model::from_bytes_with(bytes, cpu(), go_on) {
        Ok(model) => model,
        Err(error) => return check_error(&error),
    };
    let file = model.store().file().expect("a model of a file");
    assert!(file.layout().n_params() <= 2 * len, "more parameters than the file can have");
    for (index, spec) in file.layout().specs().iter().enumerate() {
        assert_eq!(file.read(index).len(), spec.len(), "{}", spec.name);
    }
    let n_vocab = model.config().n_vocab;
    match model.eval_all(&[0, n_vocab as u32 - 1], &mut model.new_state()) {
        Ok(logits) => {
            assert_eq!(logits.len(), 2 * n_vocab);
            assert!(logits.iter().all(|logit| logit.is_finite()));
        }
        Err(error) => check_error(&error),
    }
}

/// Numbers that are wrong in the ways that numbers are.
#[derive(Debug, Arbitrary)]
enum Number {
    Small(u8),
    Any(u64),
    /// A power of two and its neighbours.
    Power(u8, i8),
    /// More or less than what is there.
    More(i8),
}

/// A change; places are counted round and round in what is no weight.
#[derive(Debug, Arbitrary)]
enum Edit {
    Byte {
        at: u16,
        to: u8,
    },
    Number {
        at: u16,
        bytes: u8,
        to: Number,
    },
    Splice {
        at: u16,
        out: u8,
        put: Vec<u8>,
    },
    /// Bytes of the file's own in another place.
    Move {
        from: u16,
        to: u16,
        len: u8,
    },
    /// A digit of a name, so that a tensor becomes that of another block.
    Digit {
        which: u16,
        to: u8,
    },
    /// Anywhere, weights too.
    Weight {
        at: u32,
        bits: u16,
    },
    Cut(u16),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, file: &Sound) {
        let place = |at: u16| {
            let at = usize::from(at) % (file.head + file.tail).max(1);
            let from_end = (file.head + file.tail - at).min(bytes.len());
            if at < file.head { at.min(bytes.len()) } else { bytes.len() - from_end }
        };
        match self {
            Self::Byte { at, to } => {
                let at = place(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = *to;
                }
            }
            Self::Number { at, bytes: size, to } => {
                let (at, size) = (place(*at), [1, 2, 4, 8][usize::from(size % 4)]);
                if let Some(field) = bytes.get_mut(at..at + size) {
                    let mut was = [0; 8];
                    was[..size].copy_from_slice(field);
                    let was = u64::from_le_bytes(was);
                    let number = match *to {
                        Number::Small(value) => value.into(),
                        Number::Any(value) => value,
                        Number::Power(power, more) => {
                            1_u64.rotate_left(power.into()).wrapping_add_signed(more.into())
                        }
                        Number::More(more) => was.wrapping_add_signed(more.into()),
                    };
                    field.copy_from_slice(&number.to_le_bytes()[..size]);
                }
            }
            Self::Splice { at, out, put } => {
                let at = place(*at);
                let end = (at + usize::from(*out)).min(bytes.len());
                bytes.splice(at..end, put.iter().copied().take(64));
            }
            Self::Move { from, to, len } => {
                let (from, to) = (place(*from), place(*to));
                let end = (from + usize::from(*len)).min(bytes.len());
                let own = bytes[from..end].to_owned();
                if let Some(field) = bytes.get_mut(to..to + own.len()) {
                    field.copy_from_slice(&own);
                }
            }
            Self::Digit { which, to } => {
                let digits: Vec<_> = (1..file.head.min(bytes.len()))
                    .filter(|&at| bytes[at - 1] == b'.' && bytes[at].is_ascii_digit())
                    .collect();
                if let Some(&at) = digits.get(usize::from(*which) % digits.len().max(1)) {
                    bytes[at] = b'0' + to % 10;
                }
            }
            Self::Weight { at, bits } => {
                let at = *at as usize % bytes.len().max(1);
                if let Some(field) = bytes.get_mut(at..at + 2) {
                    field.copy_from_slice(&bits.to_le_bytes());
                }
            }
            Self::Cut(by) => bytes.truncate(bytes.len().saturating_sub(usize::from(*by))),
        }
    }
}

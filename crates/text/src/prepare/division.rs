//! Which text is for training and which for validation.

use rwkv_core::Result;
use serde::{Deserialize, Serialize};

use super::batches::characters;
use crate::source::{Kind, Position, Sources};

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Train,
    Val,
}

/// How a stream is divided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Division {
    /// Not at all.
    All(Set),
    /// Whole documents are chosen for validation.
    Documents(Choice),
    /// The only document has so many characters for training; the others are for validation.
    Characters(u64),
}

impl Division {
    /// The set of a document, or of its part `is_past` the place at which it is divided.
    pub(super) fn set(&self, document: u64, is_past: bool) -> Set {
        let is_val = match self {
            Self::All(set) => return *set,
            Self::Documents(choice) => choice.is_val(document),
            Self::Characters(_) => is_past,
        };
        if is_val { Set::Val } else { Set::Train }
    }
}

/// What has to be known of the documents before the first token is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Survey {
    /// How many documents there are; where there are more than are asked for, as many as were asked for.
    pub(super) documents: u64,
    /// Characters of the only document.
    pub(super) characters: u64,
}

/// More documents than these are not counted.
const MOST_COUNTED: u64 = 10_000;

impl Survey {
    /// Counts documents, at least two if there are so many and at most as many as it takes for one of them to be
    /// chosen; and the characters of one that is alone, if it is to be divided. `go_on` is asked with bytes.
    pub(super) fn of(
        sources: &Sources,
        val_fraction: f64,
        mut go_on: impl FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        let enough = if val_fraction > 0.0 { stride(val_fraction).clamp(2, MOST_COUNTED) } else { 2 };
        let mut documents = 0;
        for (file, source) in sources.files().iter().enumerate() {
            if source.kind == Kind::Text {
                documents += 1;
            } else {
                for piece in sources.pieces(Position { file, ..Position::default() }) {
                    let piece = piece?;
                    if piece.at.file != file || documents >= enough {
                        break;
                    }
                    documents += u64::from(piece.is_last);
                    go_on(0)?;
                }
            }
            if documents >= enough {
                break;
            }
        }
        let mut count = 0;
        if documents == 1 && val_fraction > 0.0 {
            for piece in sources.pieces(Position::default()) {
                let piece = piece?;
                count += characters(&piece.text);
                go_on(piece.bytes_read)?;
            }
        }
        Ok(Self { documents: documents.min(enough), characters: count })
    }

    /// Whether each document ends with a token of its own.
    pub(super) fn has_ends(&self) -> bool {
        self.documents > 1
    }

    pub(super) fn division(&self, val_fraction: f64, seed: u64) -> Division {
        match self.documents {
            _ if val_fraction == 0.0 => Division::All(Set::Train),
            // nanoGPT's int(n * 0.9): 1.0 - 0.1 is the number 0.9.
            1 => Division::Characters((self.characters as f64 * (1.0 - val_fraction)) as u64),
            _ => {
                let first = self.documents.min(stride(val_fraction)).max(1);
                Division::Documents(Choice { seed, val_fraction, first })
            }
        }
    }
}

/// Of how many documents one is chosen.
fn stride(val_fraction: f64) -> u64 {
    (1.0 / val_fraction) as u64
}

/// One document out of each stretch of 1 / `val_fraction` of them, at random. So a document is chosen without
/// knowing how many there are, and the share is exact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    seed: u64,
    val_fraction: f64,
    /// Documents that the first is chosen of: all of them, if they are few, so that there is always one.
    first: u64,
}

impl Choice {
    fn is_val(&self, document: u64) -> bool {
        let near = (document as f64 * self.val_fraction) as u64;
        (near.saturating_sub(1)..=near + 2).any(|stretch| self.chosen(stretch) == document)
    }

    /// The document of this stretch.
    fn chosen(&self, stretch: u64) -> u64 {
        let random = random(self.seed, stretch);
        if stretch == 0 {
            return (random * self.first as f64) as u64;
        }
        ((stretch as f64 + random) / self.val_fraction) as u64
    }
}

/// A number from 0 to below 1, by `SplitMix64` (Steele, Lea and Flood 2014) of a seed and a number.
fn random(seed: u64, number: u64) -> f64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (mix(mix(seed) ^ number) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(documents: u64, val_fraction: f64, seed: u64) -> Vec<u64> {
        let division = Survey { documents, characters: 0 }.division(val_fraction, seed);
        (0..documents).filter(|&document| division.set(document, false) == Set::Val).collect()
    }

    #[test]
    fn the_share_is_exact_and_the_seed_chooses() {
        for (documents, val_fraction) in [(10_000, 0.1), (100_000, 0.0005), (9_999, 1.0 / 3.0), (1_000, 0.5)]
        {
            let some = chosen(documents, val_fraction, 1);
            let expected = documents as f64 * val_fraction;
            assert!((some.len() as f64 - expected).abs() <= 1.0, "{} of {expected}", some.len());
            assert_ne!(some, chosen(documents, val_fraction, 2));
        }
        // Not always the same place of a stretch.
        let places: Vec<u64> = chosen(1_000, 0.1, 1).iter().map(|document| document % 10).collect();
        assert!((0..10).all(|place| places.iter().filter(|&&it| it == place).count() < 25), "{places:?}");
    }

    #[test]
    fn one_of_few_documents_is_chosen() {
        for documents in 2..10 {
            for seed in 0..50 {
                assert_eq!(chosen(documents, 0.1, seed).len(), 1);
                assert_eq!(chosen(documents, 0.0005, seed).len(), 1);
            }
        }
    }

    #[test]
    fn one_document_is_divided_as_nanogpt_does() {
        let survey = Survey { documents: 1, characters: 1_115_394 };
        assert!(matches!(survey.division(0.1, 0), Division::Characters(1_003_854)));
    }
}

//! A byte-level BPE (Sennrich et al. 2016; over bytes, Radford et al. 2019), trained on a text.
//!
//! The words of the text are counted, where a word is what GPT-2's pattern splits off; then the pair of tokens
//! that stands beside each other most often becomes a token, until there are as many as were asked for. Of
//! pairs that are equally frequent the one of the lower numbers comes first, as in Hugging Face's trainer, so
//! that both make the same merges. That trainer is not used because it counts in 32 bits and can neither be
//! stopped nor tell how far it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rustc_hash::{FxHashMap, FxHashSet};
use rwkv_core::{Control, Error, Result, ask, go_on};
use tokenizers::pipeline::{PipelineTokenizer, PreTokenizer, PreTokenizerScratch, Span};

use super::json::{END_OF_TEXT, File, byte_level_alphabet, char_of_byte};
use super::long::{PIECE, in_pieces};
use super::{HuggingFace, Tokenizer};

/// Tokens that stand beside each other.
type Pair = (u32, u32);

/// How often a pair has to be in the text to become a token.
const MIN_COUNT: i64 = 2;

/// Words between two questions whether to go on: some ms.
const WORDS: usize = 1 << 12;

/// Vocabularies have tokens of 16 bits in most files; this leaves room for all that are published.
const MAX_VOCAB: usize = 1 << 20;

/// The words of a text and how often each is there.
pub struct WordCounts {
    splitter: PipelineTokenizer,
    counts: FxHashMap<Box<[u8]>, u64>,
    scratch: PreTokenizerScratch,
    spans: Vec<Span>,
}

impl std::fmt::Debug for WordCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordCounts").field("words", &self.counts.len()).finish_non_exhaustive()
    }
}

impl WordCounts {
    /// No words.
    ///
    /// # Errors
    /// None but those of a damaged program.
    pub fn new() -> Result<Self> {
        let json = byte_level(&[]).to_json();
        let read = tokenizers::canonicalize_str(&json)
            .map_err(|error| error.to_string())
            .and_then(|json| tokenizers::from_json(&json).map_err(|error| error.to_string()));
        let splitter = read.map_err(|problem| Error::Tokenizer { path: "bpe".into(), problem })?;
        Ok(Self {
            splitter,
            counts: FxHashMap::default(),
            scratch: PreTokenizerScratch::default(),
            spans: Vec::new(),
        })
    }

    /// Counts the words of a text, or of a part of one that [`cut`](Self::cut) has made.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a text that cannot be split into words.
    pub fn add(&mut self, text: &str) -> Result<()> {
        self.add_with(text, go_on)
    }

    /// As [`add`](Self::add), in work that can be stopped: `control` is told bytes, and asked every few ms.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`Error::Aborted`], with some words counted and others not.
    pub fn add_with(&mut self, text: &str, control: impl Control) -> Result<()> {
        in_pieces(text.as_bytes(), PIECE, Self::cut, control, |range| {
            // No cut is within a character.
            let error =
                || Error::option("text", "cut within a character", "one that can be split into words");
            self.add_part(text.get(range).ok_or_else(error)?)
        })
    }

    fn add_part(&mut self, text: &str) -> Result<()> {
        self.spans.clear();
        self.splitter.get_pre_tokenizer().pre_tokenize(text, &mut self.scratch, &mut self.spans).map_err(
            |error| Error::option("text", format!("({error})"), "one that can be split into words"),
        )?;
        for span in &self.spans {
            let word = &text.as_bytes()[span.start as usize..span.end as usize];
            match self.counts.get_mut(word) {
                Some(count) => *count += 1,
                None => _ = self.counts.insert(word.into(), 1),
            }
        }
        Ok(())
    }

    /// Takes over the words of another count.
    pub fn merge(&mut self, other: Self) {
        for (word, count) in other.counts {
            *self.counts.entry(word).or_default() += count;
        }
    }

    /// Number of different words.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// A vocabulary of `n_vocab` tokens: the 256 bytes, the most frequent pairs, and an end of text. It depends on
    /// the counts alone. `control` is asked with tokens.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if `n_vocab` is below 257, above 2²⁰, or more than the text has pairs for;
    /// [`Error::Aborted`].
    pub fn train(self, n_vocab: usize, control: impl Control) -> Result<Tokenizer> {
        self.train_with(n_vocab, true, control)
    }

    /// As [`train`](Self::train), with fewer tokens if the text has not so many pairs.
    ///
    /// # Errors
    /// As [`train`](Self::train), but for that.
    pub fn train_up_to(self, n_vocab: usize, control: impl Control) -> Result<Tokenizer> {
        self.train_with(n_vocab, false, control)
    }

    fn train_with(self, n_vocab: usize, is_exact: bool, mut control: impl Control) -> Result<Tokenizer> {
        if !(257..=MAX_VOCAB).contains(&n_vocab) {
            return Err(Error::option(
                "vocab_size",
                n_vocab,
                format!("from 257 to {MAX_VOCAB}: bytes and an end of text"),
            ));
        }
        let alphabet = byte_level_alphabet();
        let mut token_of_byte = [0; 256];
        for (token, &byte) in (0..).zip(&alphabet) {
            token_of_byte[usize::from(byte)] = token;
        }
        let mut pairs = Pairs::default();
        let total = (n_vocab - 257) as u64;
        for (number, (word, count)) in self.counts.into_iter().enumerate() {
            if number % WORDS == 0 {
                ask(&mut control, 0, total)?;
            }
            pairs.add(
                word.iter().map(|&byte| token_of_byte[usize::from(byte)]).collect(),
                count.cast_signed(),
            );
        }
        pairs.begin(&mut || ask(&mut control, 0, total))?;
        let wanted = n_vocab - 257;
        let mut merges = Vec::with_capacity(wanted);
        while merges.len() < wanted {
            let done = merges.len() as u64;
            if done.is_multiple_of(64) {
                ask(&mut control, done, total)?;
            }
            let Some(pair) = pairs.pop() else {
                if !is_exact {
                    break;
                }
                let most = 257 + merges.len();
                let expected =
                    format!("at most {most}: the text has no more pairs of tokens that are in it twice");
                return Err(Error::option("vocab_size", n_vocab, expected));
            };
            pairs.merge(pair, 256 + merges.len() as u32, &mut || ask(&mut control, done, total))?;
            merges.push(pair);
        }
        ask(&mut control, total, total)?;
        let file = byte_level(&merges);
        let tokenizer = HuggingFace::from_json(file.to_json(), &file.to_value());
        tokenizer.map(Into::into).map_err(|problem| Error::Tokenizer { path: "bpe".into(), problem })
    }

    /// A place at which a text can be cut between two words, near its end, or 0.
    pub fn cut(text: &[u8]) -> usize {
        super::hugging_face::cut_between_words(text)
    }
}

/// The file of a vocabulary: the bytes, these merges, and the end of text.
fn byte_level(merges: &[Pair]) -> File {
    let mut vocab: Vec<String> =
        byte_level_alphabet().into_iter().map(|byte| char_of_byte(byte).to_string()).collect();
    let mut named = Vec::with_capacity(merges.len());
    for &(left, right) in merges {
        let (left, right) = (vocab[left as usize].clone(), vocab[right as usize].clone());
        vocab.push(format!("{left}{right}"));
        named.push((left, right));
    }
    let end = vocab.len() as u32;
    File::byte_level(vocab.into_iter().zip(0..), &named, true).with_added(end, END_OF_TEXT, true)
}

/// The pairs of all words, the most frequent first.
#[derive(Default)]
struct Pairs {
    words: Vec<(Vec<u32>, i64)>,
    counts: FxHashMap<Pair, i64>,
    /// The words that a pair is in, or was once.
    places: FxHashMap<Pair, Vec<u32>>,
    /// Every pair at least once, with a count that it has or that was higher.
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Pairs {
    fn add(&mut self, word: Vec<u32>, count: i64) {
        // A word of a single byte has no pair.
        if word.len() > 1 {
            self.words.push((word, count));
        }
    }

    /// `go_on` ends the work by an error, as in [`merge`](Self::merge).
    fn begin(&mut self, go_on: &mut impl FnMut() -> Result<()>) -> Result<()> {
        // Whatever order a hash table gave them: by their first two tokens, and then within those, so that sorting
        // millions can be stopped.
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for (at, (word, count)) in std::mem::take(&mut self.words).into_iter().enumerate() {
            if at.is_multiple_of(WORDS) {
                go_on()?;
            }
            groups.entry((word.first().copied(), word.get(1).copied())).or_default().push((word, count));
        }
        for (_, mut group) in groups {
            go_on()?;
            group.sort_unstable();
            self.words.append(&mut group);
        }
        for (at, (word, count)) in (0..).zip(&self.words) {
            if (at as usize).is_multiple_of(WORDS) {
                go_on()?;
            }
            for pair in pairs_of(word) {
                *self.counts.entry(pair).or_default() += count;
                push_place(&mut self.places, pair, at);
            }
        }
        self.heap = self.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        Ok(())
    }

    /// Takes out the most frequent pair.
    fn pop(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let current = self.counts.get(&pair).copied().unwrap_or(0);
            if current < MIN_COUNT {
                continue;
            }
            if current == count {
                return Some(pair);
            }
            self.heap.push((current, Reverse(pair)));
        }
        None
    }

    /// Makes `pair` the token `token`, in every word.
    fn merge(&mut self, pair: Pair, token: u32, go_on: &mut impl FnMut() -> Result<()>) -> Result<()> {
        let mut changed = FxHashSet::default();
        for (number, at) in self.places.remove(&pair).unwrap_or_default().into_iter().enumerate() {
            // The first pairs are in very many words.
            if number % WORDS == WORDS - 1 {
                go_on()?;
            }
            let (word, count) = &mut self.words[at as usize];
            let merged = merged(word, pair, token);
            // It may have been in the word before another merge took a part of it.
            if merged.len() == word.len() {
                continue;
            }
            for old in pairs_of(word) {
                if let Some(left) = self.counts.get_mut(&old) {
                    *left -= *count;
                }
            }
            for new in pairs_of(&merged) {
                *self.counts.entry(new).or_default() += *count;
                if new.0 == token || new.1 == token {
                    push_place(&mut self.places, new, at);
                    changed.insert(new);
                }
            }
            *word = merged;
        }
        self.counts.remove(&pair);
        self.heap.extend(changed.into_iter().map(|pair| (self.counts[&pair], Reverse(pair))));
        Ok(())
    }
}

fn pairs_of(word: &[u32]) -> impl Iterator<Item = Pair> {
    word.windows(2).map(|pair| (pair[0], pair[1]))
}

fn push_place(places: &mut FxHashMap<Pair, Vec<u32>>, pair: Pair, word: u32) {
    let words = places.entry(pair).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

/// A word with `token` for every `pair`, from the left.
fn merged(word: &[u32], pair: Pair, token: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        if at + 1 < word.len() && (word[at], word[at + 1]) == pair {
            out.push(token);
            at += 2;
        } else {
            out.push(word[at]);
            at += 1;
        }
    }
    out
}

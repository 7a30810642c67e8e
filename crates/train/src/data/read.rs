//! Reading what the options name: one text, a corpus of documents, or tokens that were prepared.

use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rwkv_core::{Control, Error, Result, ask};
use rwkv_text::documents::{Document, read_documents, tokens_with};
use rwkv_text::source::Input;
use rwkv_text::token_file::{Format, TokenFile, read_meta};
use rwkv_text::tokenizer::WordCounts;
use rwkv_text::{Characters, Tokenizer, TokenizerKind, Unknown};

use super::{Dataset, Part, fault};
use crate::options::{Inputs, TrainOptions};

/// The part of the data that is tested on, unless there is a set of its own.
const VALIDATION: f64 = 0.1;

pub(super) fn read(
    options: &TrainOptions,
    tokenizer: Option<&Tokenizer>,
    mut control: impl Control,
) -> Result<(Dataset, Tokenizer)> {
    let name = options.data.name();
    let mut checksum = Hasher::new();
    if let Some(set) = TokenSet::find(&options.data, options)? {
        let tokenizer = set.tokenizer(options, tokenizer, &mut control)?;
        let train = set.read(&tokenizer, &mut checksum, &mut control)?;
        let validation = match &options.val {
            Some(val) => Some(validation_set(options, val, &tokenizer, &mut checksum, &mut control)?),
            None => set.validation(&tokenizer, &mut checksum, &mut control)?,
        };
        let (train, validation) = match validation {
            Some(validation) => (train, validation),
            None => train.split_at(nine_tenths(train.len())),
        };
        return finish(&name, options, tokenizer, train, validation, checksum.finalize());
    }

    let documents = documents(&options.data, options, tokenizer, &mut checksum, &mut control)?;
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer.clone(),
        None => make_tokenizer(&name, &documents, options, &mut control)?,
    };
    if documents.is_empty() {
        let problem = "there are no documents in it; there is nothing to learn".to_owned();
        return Err(fault(&name, problem));
    }
    let (train, validation) = match &options.val {
        Some(val) => {
            let train = tokens_with(&documents, documents.len() > 1, &tokenizer, &mut control)?.into();
            (train, validation_set(options, val, &tokenizer, &mut checksum, &mut control)?)
        }
        None if documents.len() == 1 => {
            let all = Part::from(tokens_with(&documents, false, &tokenizer, &mut control)?);
            all.split_at(nine_tenths(all.len()))
        }
        None => {
            let mut of = |which: Vec<usize>| -> Result<Part> {
                let which = which.into_iter().map(|index| &documents[index]);
                Ok(tokens_with(which, true, &tokenizer, &mut control)?.into())
            };
            let (train, validation) = split(documents.len(), options.seed);
            (of(train)?, of(validation)?)
        }
    };
    finish(&name, options, tokenizer, train, validation, checksum.finalize())
}

/// The parts, if a run can learn from them.
fn finish(
    name: &Path,
    options: &TrainOptions,
    tokenizer: Tokenizer,
    train: Part,
    validation: Part,
    crc32: u32,
) -> Result<(Dataset, Tokenizer)> {
    let unit = tokenizer.kind().unit();
    match too_short(&train, &validation, options.ctx_len, unit)? {
        Some(problem) => Err(fault(name, problem)),
        None => Ok((Dataset { train, validation, crc32 }, tokenizer)),
    }
}

/// ⌊0.9 n⌋ without a float.
fn nine_tenths(n: usize) -> usize {
    n / 10 * 9 + n % 10 * 9 / 10
}

/// What is wrong with data that is too short, if it is.
fn too_short(train: &Part, validation: &Part, ctx_len: usize, unit: &str) -> Result<Option<String>> {
    let len = train.len() + validation.len();
    let count = if len == 1 { format!("1 {unit}") } else { format!("{len} {unit}s") };
    let (first, second) = (train.first(1)?, validation.first(1)?);
    let is_monotonous = train.is_monotonous()?
        && validation.is_monotonous()?
        && (first == second || first.is_empty() || second.is_empty());
    if is_monotonous {
        let what = match len {
            0 => "the text is empty".to_owned(),
            1 => format!("the text is a single {unit}"),
            _ => format!("the text is {count}, all of them the same"),
        };
        return Ok(Some(format!("{what}; there is nothing to learn from it")));
    }
    let n_train = train.len();
    if n_train < 2 || validation.len() < 2 {
        return Ok(Some(format!(
            "the text has only {count}; training takes at least 11, of which a tenth validates"
        )));
    }
    if n_train < ctx_len + 1 {
        return Ok(Some(format!(
            "the text has only {count}, of which {n_train} are to be learned, and ctx_len is {ctx_len}; take a \
             ctx_len of at most {}, or a longer text",
            n_train - 1
        )));
    }
    Ok(None)
}

/// A validation set of its own.
fn validation_set(
    options: &TrainOptions,
    val: &Inputs,
    tokenizer: &Tokenizer,
    checksum: &mut Hasher,
    control: &mut impl Control,
) -> Result<Part> {
    if let Some(set) = TokenSet::find(val, options)? {
        return set.read(tokenizer, checksum, control);
    }
    let documents = documents(val, options, Some(tokenizer), checksum, control)?;
    Ok(tokens_with(&documents, documents.len() > 1, tokenizer, control)?.into())
}

/// All documents of some inputs.
fn documents(
    inputs: &Inputs,
    options: &TrainOptions,
    tokenizer: Option<&Tokenizer>,
    checksum: &mut Hasher,
    control: &mut impl Control,
) -> Result<Vec<Document>> {
    let takes_bytes = tokenizer.is_some_and(Tokenizer::takes_bytes);
    let checksum = |bytes: &[u8]| checksum.update(bytes);
    read_documents(inputs.all(), &options.source_options(), takes_bytes, checksum, control)
}

/// A tokenizer of the kind that the options ask for, made of the text.
fn make_tokenizer(
    name: &Path,
    documents: &[Document],
    options: &TrainOptions,
    control: &mut impl Control,
) -> Result<Tokenizer> {
    let texts = documents.iter().map(|document| {
        std::str::from_utf8(&document.text)
            .map_err(|error| Error::InvalidUtf8 { path: document.file.clone(), offset: error.valid_up_to() })
    });
    let texts = texts.collect::<Result<Vec<&str>>>()?;
    if texts.iter().all(|text| text.is_empty()) {
        return Err(fault(name, "the text is empty; there is nothing to learn from it".to_owned()));
    }
    if options.tokenizer == Some(TokenizerKind::Bpe) {
        let len = texts.iter().map(|text| text.len()).sum();
        let (mut counts, mut done) = (WordCounts::new()?, 0);
        for text in &texts {
            ask(control, done as u64, len as u64)?;
            counts.add(text)?;
            done += text.len();
        }
        return match options.vocab_size {
            Some(n_vocab) => counts.train(n_vocab, control),
            None => counts.train_up_to(default_vocab_size(len), control),
        };
    }
    let mut distinct: Vec<char> = Vec::new();
    for text in &texts {
        distinct.extend(text.chars());
        distinct.sort_unstable();
        distinct.dedup();
    }
    let problem = |problem| fault(name, problem);
    let mut characters = Characters::of(distinct).map_err(problem)?;
    if matches!(options.unknown, None | Some(Unknown::Byte)) {
        characters = characters.with_bytes();
    }
    Ok(if documents.len() > 1 { characters.with_end_of_text() } else { characters }.into())
}

/// The vocabulary of a BPE that is trained on a text of so many bytes: a token for every 2 KiB.
///
/// Measured on Tiny Shakespeare, 1 MB, in 120 s of the default model: 384, 512, 1024 and 2048 tokens led to 2.093,
/// 2.114, 2.171 and 2.223 bits a byte, in windows as in training. For longer texts the rule is a guess.
fn default_vocab_size(text_len: usize) -> usize {
    (text_len / 2048).clamp(384, 16_384)
}

/// Which of `count` documents are learned, and which are tested on: a tenth, and one at least, chosen by the
/// seed. Both in the order of the text.
fn split(count: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut all: Vec<usize> = (0..count).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // No other stream of random numbers of a run has this number.
    rng.set_stream(u64::MAX / 2);
    all.shuffle(&mut rng);
    let n_validation = ((count as f64 * VALIDATION) as usize).max(1);
    let mut train = all.split_off(n_validation);
    all.sort_unstable();
    train.sort_unstable();
    (train, all)
}

/// Files of tokens: those of a folder that was prepared, or some that are named.
struct TokenSet {
    folder: Option<PathBuf>,
    files: Vec<TokenFile>,
    validation: Option<TokenFile>,
}

impl TokenSet {
    /// The token files that the inputs are, if they are.
    fn find(inputs: &Inputs, options: &TrainOptions) -> Result<Option<Self>> {
        let all = inputs.all();
        let paths: Vec<&Path> = all.iter().filter_map(Input::path).collect();
        // Texts are no tokens.
        if paths.len() < all.len() {
            return Ok(None);
        }
        if let [folder] = *paths
            && folder.join("train.bin").is_file()
        {
            let val = folder.join("val.bin");
            let validation = if val.is_file() { Some(TokenFile::open(val)?) } else { None };
            let files = vec![TokenFile::open(folder.join("train.bin"))?];
            return Ok(Some(Self { folder: Some(folder.to_owned()), files, validation }));
        }
        let is_of_tokens = |path: &&Path| {
            path.extension().is_some_and(|ending| ending == "bin" || ending == "idx")
                || (!path.exists() && path.with_extension("idx").is_file())
        };
        if paths.is_empty() || !paths.iter().all(is_of_tokens) {
            return Ok(None);
        }
        // Any file can be learned as bytes.
        let beside = |name: &str| paths[0].with_file_name(name).exists();
        if options.tokenizer == Some(TokenizerKind::Byte) && !beside("tokenizer.json") {
            return Ok(None);
        }
        let files = paths.iter().map(TokenFile::open).collect::<Result<Vec<_>>>()?;
        let folder = paths[0].parent().filter(|_| paths.len() == 1).map(Path::to_owned);
        Ok(Some(Self { folder, files, validation: None }))
    }

    /// The tokenizer of the tokens: the one that is given, if it has as many; else the one that stands beside
    /// them, or else GPT-2's, which nanoGPT and llm.c take for granted.
    fn tokenizer(
        &self,
        options: &TrainOptions,
        given: Option<&Tokenizer>,
        control: &mut impl Control,
    ) -> Result<Tokenizer> {
        let beside = self.beside()?;
        if let (Some(given), Some(beside)) = (given, &beside)
            && given.n_vocab() != beside.n_vocab()
        {
            let problem = format!(
                "its tokens are of another tokenizer: that beside it has {}, and the one to be used {}",
                beside.n_vocab(),
                given.n_vocab()
            );
            return Err(fault(&options.data.name(), problem));
        }
        if let Some(found) = given.cloned().or(beside) {
            return Ok(found);
        }
        let gpt2 = Tokenizer::gpt2()?;
        let is_gpt2 = |file: &TokenFile| match (file.n_vocab(), file.format()) {
            (Some(n_vocab), _) => n_vocab as usize == gpt2.n_vocab(),
            (None, Format::Raw | Format::LlmC) => true,
            (None, Format::Binidx) => false,
        };
        if self.files.iter().all(is_gpt2)
            && self.files.iter().try_fold(true, |all, file| {
                Ok::<_, Error>(all && file.first_beyond(gpt2.n_vocab() as u32, &mut *control)?.is_none())
            })?
        {
            return Ok(gpt2);
        }
        let problem = "nothing beside it says which tokenizer its tokens are of; name one with tokenizer \
                       (gpt2, 20b, world) or tokenizer_file";
        Err(fault(&options.data.name(), problem.to_owned()))
    }

    /// The tokenizer that stands beside the files.
    fn beside(&self) -> Result<Option<Tokenizer>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let (json, meta) = (folder.join("tokenizer.json"), folder.join("meta.pkl"));
        if json.exists() {
            return Tokenizer::load(json).map(Some);
        }
        if !meta.exists() {
            return Ok(None);
        }
        let characters = Characters::of(read_meta(&meta)?).map_err(|problem| fault(&meta, problem))?;
        Ok(Some(characters.into()))
    }

    fn read(&self, tokenizer: &Tokenizer, checksum: &mut Hasher, control: &mut impl Control) -> Result<Part> {
        for file in &self.files {
            check_file(file, tokenizer, checksum, control)?;
        }
        Ok(self.files.clone().into())
    }

    fn validation(
        &self,
        tokenizer: &Tokenizer,
        checksum: &mut Hasher,
        control: &mut impl Control,
    ) -> Result<Option<Part>> {
        let Some(file) = &self.validation else { return Ok(None) };
        check_file(file, tokenizer, checksum, control)?;
        Ok(Some(vec![file.clone()].into()))
    }
}

/// Tokens between two questions to the control.
const TOKENS: u64 = 1 << 20;

/// Looks at every token once: none may be beyond the vocabulary, and all go into the checksum.
fn check_file(
    file: &TokenFile,
    tokenizer: &Tokenizer,
    checksum: &mut Hasher,
    control: &mut impl Control,
) -> Result<()> {
    file.check_vocab(tokenizer.n_vocab() as u32, &mut *control)?;
    let mut tokens = Vec::new();
    for start in (0..file.len()).step_by(TOKENS as usize) {
        ask(control, start, file.len())?;
        tokens.clear();
        file.read(start..(start + TOKENS).min(file.len()), &mut tokens)?;
        checksum.update(bytemuck::cast_slice(&tokens));
    }
    Ok(())
}

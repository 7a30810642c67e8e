//! Data sets by name: where they are from, and how they are made.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rwkv_core::{Control, Error, Result, ask, open_regular};
use sha2::{Digest, Sha256};

use super::Vocabulary;
use crate::TokenizerKind;

/// What a data set is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Tiny Shakespeare as characters: nanoGPT's `data/shakespeare_char`.
    ShakespeareChar,
    /// Tiny Shakespeare in the tokens of GPT-2: nanoGPT's `data/shakespeare`.
    Shakespeare,
    /// Eight million web pages in the tokens of GPT-2, as nanoGPT's `data/openwebtext`, but for which documents
    /// are for validation: there a shuffle of the `datasets` library chooses them, and here another one.
    OpenWebText,
    /// Files, folders, patterns, or `-`: what [`Sources::find`](crate::source::Sources::find) takes.
    Inputs(Vec<String>),
}

/// Tiny Shakespeare, and the SHA-256 of its 1,115,394 bytes.
const SHAKESPEARE: (&str, &str) = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
);

/// Where the 80 Parquet files of `OpenWebText` are (8,013,769 documents, 24 GB), named by a revision, which
/// never changes.
const OPENWEBTEXT: &str = "https://huggingface.co/datasets/Skylion007/openwebtext/resolve/79d93d786212f7344586290adb811d4ae6a1762c/plain_text/";
const OPENWEBTEXT_FILES: usize = 80;

impl Recipe {
    /// The words of those that have one.
    pub const WORDS: &'static [&'static str] = &["shakespeare_char", "shakespeare", "openwebtext"];

    /// That of a word; none for what names files.
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [Self::ShakespeareChar, Self::Shakespeare, Self::OpenWebText];
        all.into_iter().find(|recipe| recipe.word() == word)
    }

    /// Its word; `inputs` for files.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ShakespeareChar => Self::WORDS[0],
            Self::Shakespeare => Self::WORDS[1],
            Self::OpenWebText => Self::WORDS[2],
            Self::Inputs(_) => "inputs",
        }
    }

    /// The tokenizer, unless another one is named.
    pub(super) fn tokenizer(&self) -> Vocabulary {
        match self {
            Self::ShakespeareChar => Vocabulary::Kind(TokenizerKind::Character),
            Self::Shakespeare | Self::OpenWebText | Self::Inputs(_) => Vocabulary::Kind(TokenizerKind::Gpt2),
        }
    }

    /// The share for validation, unless another one is named.
    pub(super) fn val_fraction(&self) -> f64 {
        match self {
            Self::OpenWebText => 0.0005,
            Self::ShakespeareChar | Self::Shakespeare | Self::Inputs(_) => 0.1,
        }
    }

    pub(super) fn is_shakespeare(&self) -> bool {
        matches!(self, Self::ShakespeareChar | Self::Shakespeare)
    }

    /// The files that a download brings into the folder `out`, with their addresses and checksums.
    fn files(&self) -> Vec<(String, String, Option<&'static str>)> {
        match self {
            Self::ShakespeareChar | Self::Shakespeare => {
                vec![("input.txt".to_owned(), SHAKESPEARE.0.to_owned(), Some(SHAKESPEARE.1))]
            }
            Self::OpenWebText => (0..OPENWEBTEXT_FILES)
                .map(|file| format!("train-{file:05}-of-{OPENWEBTEXT_FILES:05}.parquet"))
                .map(|name| (format!("openwebtext/{name}"), format!("{OPENWEBTEXT}{name}"), None))
                .collect(),
            Self::Inputs(_) => Vec::new(),
        }
    }

    /// Downloads what is not there yet. Returns the inputs.
    pub(super) fn fetch(&self, out: &Path, mut control: impl Control) -> Result<Vec<String>> {
        if let Self::Inputs(inputs) = self {
            return Ok(inputs.clone());
        }
        let mut inputs = Vec::new();
        for (name, url, sha256) in self.files() {
            let path = out.join(name);
            inputs.push(path.to_string_lossy().into_owned());
            let is_there = path.try_exists().map_err(Error::io("open", &path))?;
            match sha256.filter(|_| is_there) {
                Some(expected) => {
                    let found = sha256_of(&path, &mut control)?;
                    if found != expected {
                        let problem = format!(
                            "this is another text: its SHA-256 is {found}, and that of {url} is {expected}; remove \
                             it to have that downloaded, or name it (--from)"
                        );
                        return Err(Error::Data { path, problem });
                    }
                }
                // A download takes its place when it is whole.
                None if is_there => {}
                None => {
                    if let Some(folder) = path.parent() {
                        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
                    }
                    download(&url, &path, sha256, &mut control)?;
                }
            }
        }
        Ok(inputs)
    }
}

#[cfg(feature = "download")]
fn download(url: &str, to: &Path, sha256: Option<&str>, control: &mut impl Control) -> Result<()> {
    crate::download::download(url, to, sha256, control)
}

#[cfg(not(feature = "download"))]
fn download(url: &str, to: &Path, _: Option<&str>, _: &mut impl Control) -> Result<()> {
    let problem = format!("this program cannot download; fetch {url} by other means, and name it (--from)");
    Err(Error::Data { path: to.to_owned(), problem })
}

/// What is to be said of a text that should be Tiny Shakespeare and is not.
pub(super) fn other_shakespeare(path: &Path, control: impl Control) -> Result<Option<String>> {
    let found = sha256_of(path, control)?;
    Ok((found != SHAKESPEARE.1).then(|| {
        format!(
            "{} is not the text that nanoGPT prepares: its SHA-256 is {found}, not {}",
            path.display(),
            SHAKESPEARE.1
        )
    }))
}

fn sha256_of(path: &Path, mut control: impl Control) -> Result<String> {
    let mut file: File = open_regular(path).map_err(Error::io("open", path))?;
    let total = file.metadata().map_err(Error::io("read", path))?.len();
    let (mut hash, mut done, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        ask(&mut control, done, total)?;
        let count = file.read(&mut chunk).map_err(Error::io("read", path))?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
        done += count as u64;
    }
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('?');
    Ok(hash.finalize().iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_recipe() {
        for &word in Recipe::WORDS {
            assert_eq!(Recipe::of_word(word).unwrap().word(), word);
        }
        assert_eq!(Recipe::of_word("inputs"), None);
    }

    #[test]
    fn files_have_addresses() {
        let files = Recipe::OpenWebText.files();
        assert_eq!(files.len(), 80);
        assert!(files[79].1.ends_with("/plain_text/train-00079-of-00080.parquet"), "{}", files[79].1);
    }

    /// No download where there is a file already: this one is not to be lost.
    #[test]
    fn another_text_in_the_place_of_the_download_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("input.txt");
        std::fs::write(&path, "mine").unwrap();
        let error = Recipe::Shakespeare.fetch(directory.path(), rwkv_core::go_on).unwrap_err().to_string();
        assert!(error.contains("input.txt: this is another text") && error.contains("--from"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}

//! What a run learns from: one file, folder or text, or several.

use std::path::{Path, PathBuf};

use rwkv_text::source::{Bytes, Input};
use serde::{Deserialize, Serialize};

use super::describe::{Kind, Setting};

/// Files, folders, patterns such as `books/*.txt`, `-` for standard input, or texts in memory. In JSON a path is a
/// string, a text `{"text": "…"}`, and several of them are an array.
///
/// A run that begins with texts in memory writes them into its directory, and goes on with these files: see
/// [`Trainer::create`](crate::Trainer::create).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Inputs {
    /// One.
    One(Input),
    /// Several, in this order.
    Several(Vec<Input>),
}

impl Inputs {
    /// All of them.
    pub fn all(&self) -> &[Input] {
        match self {
            Self::One(input) => std::slice::from_ref(input),
            Self::Several(inputs) => inputs,
        }
    }

    /// As [`all`](Self::all), to change.
    pub fn all_mut(&mut self) -> &mut [Input] {
        match self {
            Self::One(input) => std::slice::from_mut(input),
            Self::Several(inputs) => inputs,
        }
    }

    /// Those that are paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.all().iter().filter_map(Input::path)
    }

    /// Whether a text in memory is among them.
    pub(crate) fn has_texts(&self) -> bool {
        self.all().iter().any(|input| matches!(input, Input::Text(_)))
    }

    /// In a message: the first, and that there are others.
    pub fn name(&self) -> PathBuf {
        match self.all() {
            [] => PathBuf::new(),
            [one] => one.name().to_owned(),
            [first, others @ ..] => {
                let mut name = first.name().as_os_str().to_owned();
                name.push(format!(" and {} more", others.len()));
                name.into()
            }
        }
    }

    /// Whether one of them names nothing, or there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty() || self.paths().any(|path| path.as_os_str().is_empty())
    }

    /// Makes every path absolute, so that it means the same when the run goes on elsewhere.
    pub(crate) fn absolute(&mut self) -> std::io::Result<()> {
        self.files_mut().try_for_each(|path| {
            *path = std::path::absolute(&*path)?;
            Ok(())
        })
    }

    /// Puts the paths of files in place of texts in memory, of names that begin with `stem`, in the directory of a
    /// run. Returns the names of these files, and what is to be in them.
    pub(crate) fn keep_texts(&mut self, run: &Path, stem: &str) -> Vec<(String, Bytes)> {
        let count = self.all().iter().filter(|input| matches!(input, Input::Text(_))).count();
        let mut kept = Vec::new();
        for input in self.all_mut() {
            let Input::Text(text) = input else { continue };
            let name =
                if count == 1 { format!("{stem}.txt") } else { format!("{stem}-{}.txt", kept.len() + 1) };
            let path = run.join(&name);
            kept.push((name, text.clone()));
            *input = Input::Path(path);
        }
        kept
    }

    /// As a run's directory holds it: paths of files in that directory are relative to it, so that it can be moved.
    pub(crate) fn relative_to(&mut self, run: &Path) {
        for path in self.files_mut() {
            if let Ok(within) = path.strip_prefix(run)
                && !within.as_os_str().is_empty()
            {
                *path = within.to_owned();
            }
        }
    }

    /// Undoes [`relative_to`](Self::relative_to).
    pub(crate) fn within(&mut self, run: &Path) {
        self.files_mut().for_each(|path| *path = run.join(&*path));
    }

    /// All paths but that of standard input.
    fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.all_mut().iter_mut().filter_map(|input| match input {
            Input::Path(path) if path != Path::new("-") => Some(path),
            _ => None,
        })
    }
}

impl Setting for Inputs {
    const KIND: Kind = Kind::Paths;
}

/// What one input can be made of.
macro_rules! from_one {
    ($($one:ty),*) => {
        $(impl From<$one> for Inputs {
            fn from(input: $one) -> Self {
                Self::One(input.into())
            }
        })*
    };
}

from_one!(Input, PathBuf, &PathBuf, &Path, &str, &String, String);

impl<I: Into<Input>> From<Vec<I>> for Inputs {
    fn from(inputs: Vec<I>) -> Self {
        Self::Several(inputs.into_iter().map(Into::into).collect())
    }
}

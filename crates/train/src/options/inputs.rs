//! What a run learns from: one file or folder, or several.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::describe::{Kind, Setting};

/// Files, folders, patterns such as `books/*.txt`, or `-` for standard input. In JSON one of them is a string, and
/// several are an array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Inputs {
    /// One.
    One(PathBuf),
    /// Several, in this order.
    Several(Vec<PathBuf>),
}

impl Inputs {
    /// All of them.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths,
        }
    }

    /// In a message: the first, and that there are others.
    pub fn name(&self) -> PathBuf {
        match self.paths() {
            [] => PathBuf::new(),
            [one] => one.clone(),
            [first, others @ ..] => {
                let mut name = first.clone().into_os_string();
                name.push(format!(" and {} more", others.len()));
                name.into()
            }
        }
    }

    /// Whether one of them names nothing, or there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.paths().is_empty() || self.paths().iter().any(|path| path.as_os_str().is_empty())
    }

    /// Makes every path absolute, so that it means the same when the run goes on elsewhere.
    pub(crate) fn absolute(&mut self) -> std::io::Result<()> {
        let paths = match self {
            Self::One(path) => std::slice::from_mut(path),
            Self::Several(paths) => paths,
        };
        for path in paths.iter_mut().filter(|path| *path != Path::new("-")) {
            *path = std::path::absolute(&*path)?;
        }
        Ok(())
    }
}

impl Setting for Inputs {
    const KIND: Kind = Kind::Paths;
}

impl From<PathBuf> for Inputs {
    fn from(path: PathBuf) -> Self {
        Self::One(path)
    }
}

impl From<&PathBuf> for Inputs {
    fn from(path: &PathBuf) -> Self {
        Self::One(path.clone())
    }
}

impl From<&Path> for Inputs {
    fn from(path: &Path) -> Self {
        Self::One(path.to_owned())
    }
}

impl From<&str> for Inputs {
    fn from(path: &str) -> Self {
        Self::One(path.into())
    }
}

impl From<&String> for Inputs {
    fn from(path: &String) -> Self {
        Self::One(path.into())
    }
}

impl From<String> for Inputs {
    fn from(path: String) -> Self {
        Self::One(path.into())
    }
}

impl<P: Into<PathBuf>> From<Vec<P>> for Inputs {
    fn from(paths: Vec<P>) -> Self {
        Self::Several(paths.into_iter().map(Into::into).collect())
    }
}

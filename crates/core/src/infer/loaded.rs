//! What this process has loaded: models of one file share its weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use super::shared::Shared;
use crate::error::{Error, Result};

/// One state of one file. A file that is written anew, in place or by renaming, is another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
    /// Device and number: a new file under an old name differs even within the clock's resolution.
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Identity {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io("open", path))?;
        Ok(Self {
            path: path.canonicalize().map_err(Error::io("open", path))?,
            len: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino())
            },
        })
    }
}

static LOADED: Mutex<Vec<(Identity, Weak<Shared>)>> = Mutex::new(Vec::new());

/// What was loaded of this file and is still in use.
pub(super) fn find(identity: &Identity) -> Option<Arc<Shared>> {
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.iter().find(|(of, _)| of == identity).and_then(|(_, shared)| shared.upgrade())
}

/// Registers `shared` for as long as someone uses it.
pub(super) fn remember(identity: Identity, shared: &Arc<Shared>) {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.retain(|(_, shared)| shared.strong_count() > 0);
    loaded.push((identity, Arc::downgrade(shared)));
}

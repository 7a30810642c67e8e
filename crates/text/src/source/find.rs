//! The files that inputs name.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use glob::MatchOptions;
use rwkv_core::Error;

use super::{Bytes, Compression, Input, Kind, Result, Source, SourceOptions, data};

/// What is looked for in folders, for messages.
const LOOKED_FOR: &str =
    ".txt, .text, .md, .jsonl and .ndjson, each also with .gz or .zst after it, and .parquet";

/// Endings of archives that are not unpacked here, so that they are not taken for texts.
const OTHER_ARCHIVES: [&str; 10] = ["zip", "bz2", "xz", "7z", "lz4", "tar", "tgz", "tbz2", "txz", "rar"];

pub(super) fn all(inputs: &[Input], options: &SourceOptions) -> Result<Vec<Source>> {
    if inputs.is_empty() {
        return Err(Error::option("inputs", "empty", "files, folders, patterns, or - for standard input"));
    }
    let mut found = Found::default();
    for input in inputs {
        let path = match input {
            Input::Text(text) => {
                found.add_text(input, text);
                continue;
            }
            Input::Path(path) if path == Path::new("-") => {
                found.add_stdin(options.stdin);
                continue;
            }
            Input::Path(path) => path,
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => found.add_folder(path)?,
            Ok(metadata) => found.add_file(path, &metadata)?,
            Err(error) => match path.to_str() {
                Some(pattern) if is_absent(&error) && pattern.contains(['*', '?', '[']) => {
                    found.add_matching(pattern)?;
                }
                _ => return Err(Error::io("open", path)(error)),
            },
        }
    }
    Ok(found.sources)
}

/// Windows calls a name with `*` or `?` in it invalid.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput
    ) || cfg!(windows)
}

#[derive(Default)]
struct Found {
    sources: Vec<Source>,
    /// Their paths without links and detours, to tell whether one is there already.
    seen: HashSet<PathBuf>,
}

impl Found {
    fn add_stdin(&mut self, kind: Kind) {
        if self.seen.insert(PathBuf::from("-")) {
            let source = Source {
                path: PathBuf::from("-"),
                kind,
                compression: Compression::None,
                bytes: None,
                modified: None,
                text: None,
            };
            self.sources.push(source);
        }
    }

    fn add_text(&mut self, input: &Input, text: &Bytes) {
        self.sources.push(Source {
            path: input.name().to_owned(),
            kind: Kind::Text,
            compression: Compression::None,
            bytes: Some(text.as_ref().len() as u64),
            modified: None,
            text: Some(text.clone()),
        });
    }

    fn add_file(&mut self, path: &Path, metadata: &Metadata) -> Result<()> {
        if !metadata.is_file() {
            let problem = "it is a pipe, a socket or a device; name a regular file, or - for standard input";
            return Err(data(path, problem));
        }
        let (kind, compression) = kind_of(path).map_err(|problem| data(path, problem))?;
        let real = std::fs::canonicalize(path).map_err(Error::io("open", path))?;
        if self.seen.insert(real) {
            let modified = metadata.modified().ok();
            let bytes = Some(metadata.len());
            self.sources.push(Source {
                path: path.to_owned(),
                kind,
                compression,
                bytes,
                modified,
                text: None,
            });
        }
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let cannot_look = || Error::io("look into", &folder);
            for entry in std::fs::read_dir(&folder).map_err(cannot_look())? {
                let entry = entry.map_err(cannot_look())?;
                let path = entry.path();
                if is_hidden(&entry.file_name()) {
                    continue;
                }
                if entry.file_type().map_err(Error::io("look at", &path))?.is_dir() {
                    folders.push(path);
                } else if is_looked_for(&path) {
                    files.push(path);
                }
            }
        }
        if files.is_empty() {
            let problem = format!("there are no texts in this folder: {LOOKED_FOR} are looked for");
            return Err(data(folder, problem));
        }
        files.sort();
        for path in files {
            let metadata = std::fs::metadata(&path).map_err(Error::io("open", &path))?;
            // A link to a folder, with the name of a text.
            if !metadata.is_dir() {
                self.add_file(&path, &metadata)?;
            }
        }
        Ok(())
    }

    fn add_matching(&mut self, pattern: &str) -> Result<()> {
        let options = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matching = glob::glob_with(pattern, options).map_err(|error| {
            data(
                Path::new(pattern),
                format!("this is no pattern: {} (at character {})", error.msg, error.pos),
            )
        })?;
        let mut files = Vec::new();
        for path in matching {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                Error::io("look into", path)(error.into())
            })?;
            let metadata = std::fs::metadata(&path).map_err(Error::io("open", &path))?;
            if !metadata.is_dir() {
                files.push((path, metadata));
            }
        }
        if files.is_empty() {
            let problem = "there is no file of this name, and none that matches it as a pattern";
            return Err(data(Path::new(pattern), problem));
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        files.iter().try_for_each(|(path, metadata)| self.add_file(path, metadata))
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// The ending of a name, in small letters.
fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// The name without the ending of its packing, and that.
fn unpacked(path: &Path) -> (PathBuf, Compression) {
    match ending(path).as_deref() {
        Some("gz") => (path.with_extension(""), Compression::Gzip),
        Some("zst") => (path.with_extension(""), Compression::Zstd),
        _ => (path.to_owned(), Compression::None),
    }
}

fn is_looked_for(path: &Path) -> bool {
    let (name, compression) = unpacked(path);
    match ending(&name).as_deref() {
        Some("txt" | "text" | "md" | "jsonl" | "ndjson") => true,
        Some("parquet") => compression == Compression::None,
        _ => false,
    }
}

/// What is in a file of this name, or why it is not read.
fn kind_of(path: &Path) -> Result<(Kind, Compression), String> {
    let (name, compression) = unpacked(path);
    let kind = match ending(&name).as_deref() {
        Some("jsonl" | "ndjson") => Kind::JsonLines,
        Some("parquet") if compression == Compression::None => Kind::Parquet,
        Some("parquet") => return Err("Parquet is packed within; unpack the file around it".to_owned()),
        Some("json") => {
            return Err(
                "a .json file may be one document or a list of them; if each of its lines is an object, \
                        name it .jsonl, and if it is to be read as text, .txt"
                    .to_owned(),
            );
        }
        Some(other) if OTHER_ARCHIVES.contains(&other) => {
            return Err(format!(
                "a .{other} archive cannot be read; unpack it, or pack each text by gzip or zstd"
            ));
        }
        _ => Kind::Text,
    };
    Ok((kind, compression))
}

//! The zip archive around a `.pth`: where in the file each entry's bytes are.

use std::ops::Range;
use std::path::Path;

use rawzip::{CompressionMethod, ZipArchive};

use super::{GET_IT_AGAIN, SAVE_AGAIN};
use crate::error::{Fault, Result};
use crate::file::{fault, unsupported};

/// A model of 60 layers has some 2000 tensors.
const MOST_ENTRIES: usize = 1 << 17;

/// A folder's name and "data/" and a number, or a name that PyTorch gives.
const MOST_NAME: usize = 512;

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where in the file its header begins.
    pub(super) at: usize,
    /// Where in the file its bytes are.
    pub(super) data: Range<usize>,
}

/// All entries, none of which is there twice or lies over another.
#[derive(Debug)]
pub(super) struct Archive {
    /// In the order of their names.
    entries: Vec<Entry>,
    /// An entry whose bytes are not in the file as they are, and how they are.
    packed: Option<(String, &'static str)>,
}

impl Archive {
    /// Reads the archive's directory and the header of each entry.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let wrong = |at: usize, problem: String| fault(path, None, at, format!("{problem}; {GET_IT_AGAIN}"));
        let broken = |at: u64, what: &str, error: &rawzip::Error| {
            let at = usize::try_from(at).unwrap_or(bytes.len()).min(bytes.len());
            wrong(at, format!("{what} ({error})")).of_kind(Fault::Truncated)
        };
        let zip = ZipArchive::from_slice(bytes).map_err(|error| {
            broken(bytes.len() as u64, "the file does not end with the directory of a zip archive", &error)
        })?;
        let directory = zip.directory_offset();
        let (mut entries, mut packed) = (Vec::new(), None);
        let mut listed = zip.entries();
        while let Some(entry) = listed
            .next_entry()
            .map_err(|error| broken(directory, "the zip's directory is damaged", &error))?
        {
            if entries.len() == MOST_ENTRIES {
                return Err(wrong(
                    directory as usize,
                    format!("more than {MOST_ENTRIES} entries in the zip"),
                ));
            }
            let at = entry.local_header_offset();
            let name = std::str::from_utf8(entry.file_path().as_bytes())
                .map_err(|_| wrong(at as usize, "the name of an entry of the zip is not UTF-8".into()))?;
            if name.len() > MOST_NAME {
                let problem = format!(
                    "an entry of the zip has a name of {} bytes; expected {MOST_NAME} at most",
                    name.len()
                );
                return Err(wrong(at as usize, problem).of_kind(Fault::Name));
            }
            let (stored, size) = (entry.compressed_size_hint(), entry.uncompressed_size_hint());
            if let Some(how) = how_packed(&entry) {
                packed.get_or_insert((name.to_owned(), how));
            } else if stored != size {
                let problem = format!("{name:?} of the zip has {stored} bytes that stand for {size}");
                return Err(wrong(at as usize, problem));
            }
            let found = zip.get_entry(entry.wayfinder()).map_err(|error| {
                broken(at, &format!("{name:?} of the zip is not where its directory says"), &error)
            })?;
            let (from, to) = found.compressed_data_range();
            if to > directory {
                let problem = format!("{name:?} of the zip, bytes {at} to {to}, reaches into its directory");
                return Err(wrong(at as usize, problem).of_kind(Fault::Truncated));
            }
            let own = found.local_header();
            if own.file_path().as_bytes() != name.as_bytes() {
                let problem = format!("{name:?} in the zip's directory has another name at its own header");
                return Err(wrong(at as usize, problem).of_kind(Fault::Name));
            }
            // All of them are within the file, which is in memory.
            entries.push(Entry { name: name.to_owned(), at: at as usize, data: from as usize..to as usize });
        }
        let announced = zip.entries_hint();
        if announced != entries.len() as u64 {
            let problem = format!("the zip announces {announced} entries, and lists {}", entries.len());
            return Err(wrong(directory as usize, problem));
        }
        if zip.end_offset() != bytes.len() as u64 {
            let problem =
                format!("{} bytes follow the end of the zip", bytes.len() as u64 - zip.end_offset());
            return Err(wrong(zip.end_offset() as usize, problem));
        }
        Self::of(path, entries, packed)
    }

    fn of(path: &Path, mut entries: Vec<Entry>, packed: Option<(String, &'static str)>) -> Result<Self> {
        let wrong = |entry: &Entry, problem: String| {
            fault(path, None, entry.at, format!("{problem}; {GET_IT_AGAIN}"))
        };
        entries.sort_by_key(|entry| (entry.at, entry.data.end));
        for two in entries.windows(2) {
            if two[0].data.end > two[1].at {
                let problem = format!(
                    "{:?} of the zip begins within {:?}, which ends at byte {}",
                    two[1].name, two[0].name, two[0].data.end
                );
                return Err(wrong(&two[1], problem));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for two in entries.windows(2) {
            if two[0].name == two[1].name {
                let problem = format!("{:?} is in the zip twice, at byte {} too", two[1].name, two[0].at);
                return Err(wrong(&two[1], problem).of_kind(Fault::Name));
            }
        }
        Ok(Self { entries, packed })
    }

    /// The entry of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        self.entries.get(at)
    }

    /// All of them, in the order of their names.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Refuses entries whose bytes are not in the file as they are.
    pub(super) fn check_stored(&self, path: &Path) -> Result<()> {
        let Some((name, how)) = &self.packed else { return Ok(()) };
        let what =
            format!("{name:?} of the zip is {how}, and torch.save stores entries as they are; {SAVE_AGAIN}");
        Err(unsupported(path, what))
    }
}

fn how_packed(entry: &rawzip::ZipFileHeaderRecord<'_>) -> Option<&'static str> {
    if entry.flags().is_encrypted() {
        return Some("encrypted");
    }
    (entry.compression_method() != CompressionMethod::STORE).then_some("compressed")
}

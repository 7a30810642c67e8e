//! Pages of Parquet's columns, unpacked within a limit.
//!
//! The crate `parquet` unpacks pages too, but into as much memory as a page's header says. Here it is told
//! that they are not packed, and its reader of columns gets them from here. Format: the Apache Parquet
//! specification, <https://parquet.apache.org/docs/file-format/>.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;

use ::parquet::basic::{Compression, Encoding};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use ::parquet::file::serialized_reader::SerializedPageReader;
use bytes::Bytes;

use super::layout::PAGE_HEADER;
use super::stream::ZSTD_WINDOW_LOG;
use super::thrift;

/// The most values of a page whose lengths are stored by differences: they are unpacked all at once.
const MOST_DELTAS: u64 = 1 << 22;

/// Snappy's shortest command copies 64 bytes and takes two.
const SNAPPY_RATIO: usize = 64;

pub(super) fn error(problem: impl Into<String>) -> ParquetError {
    ParquetError::General(problem.into())
}

/// An open file, of which no more than a limit is read at once.
pub(super) struct Chunks {
    file: File,
    len: u64,
    most: u64,
}

impl Chunks {
    pub(super) fn new(file: File, len: u64, most: u64) -> Self {
        Self { file, len, most }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

/// The bytes of a file from some place on, for the header of a page.
///
/// It is looked at before it is given away. To read at the end of the file is an error: the crate `parquet`
/// skips parts of a header that it does not know without looking whether they are there, and a header can say
/// that it has billions of them.
pub(super) struct Rest {
    bytes: BufReader<File>,
    start: u64,
    len: u64,
    /// The crate asks for some readers that it does not read from, where there is no header.
    is_checked: bool,
}

impl Read for Rest {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if !self.is_checked {
            if !thrift::is_plausible(&PAGE_HEADER, &mut self.bytes, self.len) {
                let problem = format!("the header of the page at byte {} makes no sense", self.start);
                return Err(std::io::Error::new(ErrorKind::InvalidData, problem));
            }
            self.bytes.seek(SeekFrom::Start(self.start))?;
            self.is_checked = true;
        }
        match self.bytes.read(buf)? {
            0 if !buf.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

impl Chunks {
    fn from(&self, start: u64) -> Result<BufReader<File>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::with_capacity(1 << 10, file))
    }
}

impl ChunkReader for Chunks {
    type T = Rest;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let len = self.len.saturating_sub(start);
        Ok(Rest { bytes: self.from(start)?, start, len, is_checked: false })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(error(format!("{length} bytes at byte {start} are beyond its end")));
        }
        if length as u64 > self.most {
            let most = self.most;
            return Err(error(format!(
                "{length} bytes at byte {start} are more than {most}; allow more (max_line)"
            )));
        }
        let mut bytes = Vec::new();
        let read = self.from(start)?.take(length as u64).read_to_end(&mut bytes)?;
        if read < length {
            return Err(error(format!("it ends within {length} bytes at byte {start}")));
        }
        Ok(bytes.into())
    }
}

/// The pages of one column in one group of rows.
pub(super) struct Pages {
    packed: SerializedPageReader<Chunks>,
    compression: Compression,
    is_optional: bool,
    most: u64,
}

impl Pages {
    pub(super) fn new(chunks: &Arc<Chunks>, column: &ColumnChunkMetaData, rows: usize) -> Result<Self> {
        let (start, len) = column.byte_range();
        if start.checked_add(len).is_none_or(|end| end > chunks.len) {
            return Err(error(format!("its column at byte {start}, of {len} bytes, is not within the file")));
        }
        let is_optional = column.column_descr().max_def_level() > 0;
        let compression = column.compression();
        let plain = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let packed = SerializedPageReader::new(Arc::clone(chunks), &plain, rows, None)?;
        Ok(Self { packed, compression, is_optional, most: chunks.most })
    }

    /// The page with its contents unpacked, if they are plausible.
    fn unpack(&self, mut page: Page) -> Result<Page> {
        let values = u64::from(page.num_values());
        match &mut page {
            Page::DictionaryPage { buf, .. } => {
                *buf = self.unpack_bytes(buf, 0)?;
                // Each entry has its length before it.
                if values > buf.len() as u64 / 4 {
                    return Err(error(format!("a dictionary of {values} entries in {} bytes", buf.len())));
                }
            }
            Page::DataPage { buf, encoding, def_level_encoding, .. } => {
                *buf = self.unpack_bytes(buf, 0)?;
                let levels = if self.is_optional {
                    #[allow(deprecated)] // to be refused
                    if *def_level_encoding != Encoding::RLE {
                        return Err(error("levels are stored in a way that is not supported"));
                    }
                    let len = buf.first_chunk().map(|len| u32::from_le_bytes(*len));
                    len.ok_or_else(|| error("a page without levels"))? as usize + 4
                } else {
                    0
                };
                check_deltas(buf, levels, *encoding, values)?;
            }
            Page::DataPageV2 {
                buf,
                encoding,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                ..
            } => {
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                if levels > buf.len() {
                    return Err(error(format!("levels of {levels} bytes in a page of {}", buf.len())));
                }
                if *is_compressed && levels < buf.len() {
                    *buf = self.unpack_bytes(buf, levels)?;
                }
                *is_compressed = false;
                check_deltas(buf, levels, *encoding, values)?;
            }
        }
        Ok(page)
    }

    /// `bytes`, unpacked from `from` on.
    fn unpack_bytes(&self, bytes: &Bytes, from: usize) -> Result<Bytes> {
        let (plain, packed) = bytes.split_at(from);
        let mut unpacked = plain.to_vec();
        match self.compression {
            Compression::UNCOMPRESSED => return Ok(bytes.clone()),
            Compression::SNAPPY => {
                let len = snap::raw::decompress_len(packed).map_err(|e| error(e.to_string()))?;
                if len > packed.len().saturating_mul(SNAPPY_RATIO) {
                    return Err(error(format!("a page of {len} bytes of {} packed ones", packed.len())));
                }
                self.check_len(from + len)?;
                unpacked.resize(from + len, 0);
                let mut decoder = snap::raw::Decoder::new();
                decoder.decompress(packed, &mut unpacked[from..]).map_err(|e| error(e.to_string()))?;
            }
            Compression::GZIP(_) => self.read(flate2::read::MultiGzDecoder::new(packed), &mut unpacked)?,
            Compression::ZSTD(_) => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                self.read(decoder, &mut unpacked)?;
            }
            other => {
                let name = format!("{other:?}").to_lowercase();
                let problem = format!(
                    "its pages are packed by {}, which is not supported; pack them by zstd, snappy or gzip",
                    name.split('(').next().unwrap_or(&name)
                );
                return Err(ParquetError::NYI(problem));
            }
        }
        Ok(unpacked.into())
    }

    fn read(&self, decoder: impl Read, unpacked: &mut Vec<u8>) -> Result<()> {
        decoder.take(self.most.saturating_add(1)).read_to_end(unpacked)?;
        self.check_len(unpacked.len())
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len as u64 > self.most {
            return Err(error(format!("a page of more than {} bytes; allow more (max_line)", self.most)));
        }
        Ok(())
    }
}

/// Checks what would be unpacked all at once: lengths that are stored by differences.
fn check_deltas(buf: &[u8], levels: usize, encoding: Encoding, values: u64) -> Result<()> {
    let parts = match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let mut rest = buf.get(levels..).unwrap_or_default();
    for _ in 0..parts {
        let (count, len) = delta_len(rest).ok_or_else(|| error("lengths of texts that make no sense"))?;
        if count > values {
            return Err(error(format!("{count} lengths of texts in a page of {values} values")));
        }
        rest = &rest[len..];
    }
    Ok(())
}

/// How many numbers there are at the beginning of `bytes`, in the encoding DELTA_BINARY_PACKED, and how many
/// bytes they take.
fn delta_len(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut at = 0;
    let varint = |at: &mut usize| {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *bytes.get(*at)?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    };
    let [block, parts, count, _first] =
        [varint(&mut at)?, varint(&mut at)?, varint(&mut at)?, varint(&mut at)?];
    let per_part = block.checked_div(parts).filter(|&per_part| per_part >= 32)?;
    if count > MOST_DELTAS {
        return None;
    }
    let mut left = count.saturating_sub(1);
    while left > 0 {
        let _least = varint(&mut at)?;
        let widths = at..at.checked_add(usize::try_from(parts).ok()?)?;
        at = widths.end;
        for &width in bytes.get(widths)? {
            if left == 0 {
                break;
            }
            let len = per_part.checked_mul(u64::from(width))?.div_ceil(8);
            at = at.checked_add(usize::try_from(len).ok()?)?;
            left = left.saturating_sub(per_part);
        }
    }
    (at <= bytes.len()).then_some((count, at))
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.packed.get_next_page()?;
        page.map(|page| self.unpack(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

//! Parquet: one document a row, of which one column is read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::parquet::basic::{ConvertedType, Type as Physical};
use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::reader::{ChunkReader, Length};
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::json_lines::list;
use super::layout::FOOTER;
use super::pages::{Chunks, Pages, error};
use super::pieces::Part;
use super::stream::{check_unchanged, open};
use super::{Invalid, Result, Source, SourceOptions, data, thrift, utf8};

/// The most bytes that the description of a file may have: in memory it takes some times as much.
const MOST_FOOTER: usize = 32 << 20;

/// Bytes at the end of every file: the footer's length, and "PAR1".
const TAIL: usize = 8;

pub(super) struct Table {
    source: Source,
    invalid: Invalid,
    chunks: Arc<Chunks>,
    metadata: ParquetMetaData,
    column: usize,
    /// The group of rows that is read, and how many of its rows are still to come.
    group: usize,
    rows_left: u64,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    /// The next row.
    row: u64,
    n_rows: u64,
}

impl Table {
    pub(super) fn open(source: &Source, options: &SourceOptions, row: u64) -> Result<Self> {
        let file = open(source)?;
        let chunks = Arc::new(Chunks::new(file, source.bytes.unwrap_or(0), options.max_line));
        let metadata =
            guarded(|| read_metadata(&chunks)).map_err(|error| explain(source, &chunks, &error))?;
        let schema = metadata.file_metadata().schema_descr();
        let column =
            find_column(schema, &options.text_field).map_err(|problem| data(&source.path, problem))?;
        let rows: Option<Vec<u64>> =
            metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok()).collect();
        let n_rows = rows.as_ref().and_then(|rows| rows.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n)));
        let (Some(rows), Some(n_rows)) = (rows, n_rows) else {
            return Err(explain(source, &chunks, &error("a group of rows has an impossible number of them")));
        };
        if row > n_rows {
            let problem = format!(
                "reading is to go on at row {row} of a file of {n_rows}: it is not the file that was read before; \
                 begin anew"
            );
            return Err(data(&source.path, problem));
        }
        let mut table = Self {
            source: source.clone(),
            invalid: options.invalid,
            chunks,
            metadata,
            column,
            group: 0,
            rows_left: 0,
            reader: None,
            row,
            n_rows,
        };
        table.skip(&rows, row)?;
        Ok(table)
    }

    /// Goes to the row of this number.
    fn skip(&mut self, rows: &[u64], row: u64) -> Result<()> {
        let mut skipped = row;
        while let Some(n) = rows.get(self.group).filter(|&&n| skipped >= n) {
            skipped -= n;
            self.group += 1;
        }
        if skipped > 0 {
            self.begin_group()?;
            let Some(reader) = &mut self.reader else { return Ok(()) };
            let count = guarded(|| reader.skip_records(skipped as usize)).map_err(|e| self.explain(&e))?;
            if count as u64 != skipped {
                return Err(self.explain(&error("a group of rows ends before its last")));
            }
            self.rows_left -= skipped;
        }
        Ok(())
    }

    fn begin_group(&mut self) -> Result<()> {
        let group = self.metadata.row_group(self.group);
        let rows = group.num_rows() as u64; // not negative, as `open` has found
        let reader = guarded(|| {
            let column = group.column(self.column);
            let pages = Pages::new(&self.chunks, column, rows as usize)?;
            Ok(get_typed_column_reader(get_column_reader(column.column_descr_ptr(), Box::new(pages))))
        });
        self.reader = Some(reader.map_err(|error| self.explain(&error))?);
        self.rows_left = rows;
        self.group += 1;
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Part>> {
        while self.rows_left == 0 {
            if self.group == self.metadata.num_row_groups() {
                check_unchanged(&self.source, self.chunks.file())?;
                return Ok(None);
            }
            self.begin_group()?;
        }
        let row = self.row;
        let bytes = self.read_row()?;
        self.row += 1;
        self.rows_left -= 1;

        let text = utf8::settle(bytes, self.invalid).map_err(|byte| {
            let problem =
                format!("row {row} (from 0): byte {byte} of the text is not UTF-8; {}", utf8::advice(&[]));
            data(&self.source.path, problem)
        })?;
        let done =
            u128::from(self.source.bytes.unwrap_or(0)) * u128::from(self.row) / u128::from(self.n_rows);
        let next = Some((self.row, 0));
        Ok(Some(Part { text, is_last: true, at: (row, 0), next, bytes_read: done as u64 }))
    }

    /// One row at a time: values that share their beginnings can take many times the memory of their page.
    fn read_row(&mut self) -> Result<Vec<u8>> {
        let mut values: Vec<ByteArray> = Vec::with_capacity(1);
        let mut levels = Vec::with_capacity(1);
        let read = match &mut self.reader {
            Some(reader) => guarded(|| reader.read_records(1, Some(&mut levels), None, &mut values)),
            None => Ok((0, 0, 0)),
        };
        let (records, ..) = read.map_err(|error| self.explain(&error))?;
        match values.first() {
            Some(text) => guarded(|| Ok(text.data().to_vec())).map_err(|error| self.explain(&error)),
            None if records == 0 => Err(self.explain(&error("a group of rows ends before its last"))),
            None => {
                let problem =
                    format!("row {} (from 0) has no text; leave such rows out of the file", self.row);
                Err(data(&self.source.path, problem))
            }
        }
    }

    fn explain(&self, error: &ParquetError) -> rwkv_core::Error {
        explain(&self.source, &self.chunks, error)
    }
}

fn explain(source: &Source, chunks: &Chunks, error: &ParquetError) -> rwkv_core::Error {
    if let Err(changed) = check_unchanged(source, chunks.file()) {
        return changed;
    }
    match error {
        ParquetError::NYI(problem) => data(&source.path, problem.clone()),
        ParquetError::General(problem) | ParquetError::EOF(problem) => damaged(source, problem),
        other => damaged(source, &other.to_string()),
    }
}

fn damaged(source: &Source, problem: &str) -> rwkv_core::Error {
    data(&source.path, format!("this is no sound Parquet file: {problem}; make or fetch it again"))
}

/// The crate panics at some damaged files (a negative offset, a range beyond a page,
/// an overflow); that is an error like others.
/// What it worked on is not used afterwards.
fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(error("its contents contradict each other")))
}

fn read_metadata(chunks: &Chunks) -> ParquetResult<ParquetMetaData> {
    let too_small = || error(format!("it has {} bytes only", chunks.len()));
    let tail_at = chunks.len().checked_sub(TAIL as u64).ok_or_else(too_small)?;
    let tail = chunks.get_bytes(tail_at, TAIL)?;
    let tail = FooterTail::try_new(tail.first_chunk().ok_or_else(too_small)?)?;
    let len = tail.metadata_length();
    if len > MOST_FOOTER {
        return Err(error(format!("its footer is said to have {len} bytes; at most {MOST_FOOTER} are read")));
    }
    let at = tail_at.checked_sub(len as u64).ok_or_else(|| error("its footer is larger than the file"))?;
    let footer = chunks.get_bytes(at, len)?;
    if !thrift::is_plausible(&FOOTER, &footer[..], len as u64) {
        return Err(error("its footer makes no sense"));
    }
    ParquetMetaDataReader::decode_metadata(&footer)
}

/// The number of the column `name`, or what is wrong with it.
fn find_column(schema: &SchemaDescriptor, name: &str) -> Result<usize, String> {
    let columns = schema.columns();
    let path = |column: &ColumnDescriptor| column.path().string();
    let Some(at) = columns.iter().position(|column| path(column) == name) else {
        let names: Vec<String> = columns.iter().map(|column| path(column)).collect();
        let names = list(names.iter().map(String::as_str));
        return Err(format!("no column {name:?}: it has {names}; name the one with the text (text_field)"));
    };
    let column = &columns[at];
    let is_text = column.physical_type() == Physical::BYTE_ARRAY
        && matches!(
            column.converted_type(),
            ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM
        );
    if column.max_rep_level() > 0 || !is_text {
        let kind =
            if column.max_rep_level() > 0 { "lists".to_owned() } else { column.physical_type().to_string() };
        return Err(format!("the column {name:?} has {kind}; the text must be a string (text_field)"));
    }
    Ok(at)
}

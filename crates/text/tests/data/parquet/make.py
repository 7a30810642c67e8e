"""Makes the Parquet files that tests/source.rs reads: python3 make.py, with pyarrow (26.0.1 at the time).

All have the same 40 rows, in two groups: text() of the row's number, beside columns that are not read."""

import os

import pyarrow
import pyarrow.parquet

HERE = os.path.dirname(os.path.abspath(__file__))
N_ROWS = 40


def text(row):
    return ("" if row == 5 else f"Row {row}: " + "naïve “words” 𝄞 \n" * (row % 7)) + "the same end" * (row % 2)


def table(texts, nullable=True):
    fields = [
        pyarrow.field("id", pyarrow.int64()),
        pyarrow.field("text", pyarrow.string(), nullable),
        pyarrow.field("meta", pyarrow.struct([("lang", pyarrow.string())])),
        pyarrow.field("tags", pyarrow.list_(pyarrow.string())),
    ]
    n = len(texts)
    columns = [list(range(n)), texts, [{"lang": "en"}] * n, [["a", "b"]] * n]
    return pyarrow.table([pyarrow.array(c, f.type) for c, f in zip(columns, fields)], pyarrow.schema(fields))


def write(name, texts, nullable=True, **options):
    options = {"row_group_size": 25, "use_dictionary": False, "write_statistics": False, "store_schema": False, **options}
    pyarrow.parquet.write_table(table(texts, nullable), os.path.join(HERE, name + ".parquet"), **options)


rows = [text(row) for row in range(N_ROWS)]
for compression in ["none", "snappy", "gzip", "zstd"]:
    write(f"{compression}_plain", rows, compression=compression)
    write(f"{compression}_dictionary", rows, compression=compression, use_dictionary=True)
    write(f"{compression}_v2", rows, compression=compression, data_page_version="2.0")
write("required", rows, nullable=False, data_page_size=64)
for encoding in ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
    write(encoding.lower(), rows, compression="zstd", column_encoding={"text": encoding})
write("brotli", rows, compression="brotli")
write("null", ["one", None, "three"])

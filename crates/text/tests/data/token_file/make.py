"""Writes the files beside it, by NumPy and Python's pickle, and prints what tests/token_file.rs compares with.

    python3 make.py

Run with CPython 3.8 to 3.13 it writes the same bytes.
"""

import hashlib
import io
import os
import pickle
import struct

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def put(name, data):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(data)


def meta_of(characters):
    itos = dict(enumerate(characters))
    stoi = {character: token for token, character in itos.items()}
    return {"vocab_size": len(characters), "itos": itos, "stoi": stoi}


def dumped(meta, **options):
    file = io.BytesIO()
    pickle.dump(meta, file, **options)
    return file.getvalue()


# A data set of characters: nine tenths to learn, one to be tested on.
text = "To be, or not to be: that is the question.\nĂ€ 😀 ü\n" * 4
characters = sorted(set(text))
meta = meta_of(characters)
tokens = np.array([meta["stoi"][character] for character in text], dtype="<u2")
split = int(len(text) * 0.9)
put("train.bin", tokens[:split].tobytes())
put("val.bin", tokens[split:].tobytes())
put("meta.pkl", dumped(meta, protocol=4))
for protocol in (2, 3, 5):
    put(f"meta-protocol-{protocol}.pkl", dumped(meta, protocol=protocol))
print("text", len(text), "characters", len(characters), "split", split, "first", tokens[:8], "last", tokens[-3:])

# llm.c: 256 i32, then the tokens.
for name, magic, version, kind, values in (
    ("gpt2", 20240520, 1, "<u2", [50256, 464, 0, 65535, 7]),
    ("llama3", 20240801, 7, "<u4", [128000, 1, 70000]),
):
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(values)
    put(f"llmc-{name}.bin", header.tobytes() + np.array(values, dtype=kind).tobytes())

# An index over documents, of which the third has two sequences and the fourth none, and one sequence is empty.
for name, code, kind, base in (("u16", 8, "<u2", 60000), ("i32", 4, "<i4", 100000)):
    sequences = [[1, 2, 3], [4], [5, 6], [], [7, 8]]
    boundaries = [0, 1, 2, 4, 4, 5]
    sizes = np.array([len(sequence) for sequence in sequences], dtype="<i4")
    width = np.dtype(kind).itemsize
    pointers = (np.cumsum(sizes, dtype="<i8") - sizes) * width
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sequences), len(boundaries))
    index += sizes.tobytes() + pointers.astype("<i8").tobytes() + np.array(boundaries, dtype="<i8").tobytes()
    put(f"binidx-{name}.idx", index)
    put(f"binidx-{name}.bin", (np.concatenate(sequences).astype(kind) + np.array(base, dtype=kind)).astype(kind).tobytes())

# Batches of 1000 items, numbers of one, two and four bytes, frames of 64 KiB.
for count in (1, 2, 128, 255, 256, 257, 999, 1000, 1001, 2000, 20000, 70000):
    data = dumped(meta_of([chr(0x1F00 + i if i < 1000 else 0x10000 + i) for i in range(count)]), protocol=4)
    print(f'({count}, {len(data)}, "{hashlib.sha256(data).hexdigest()}"),')

#!/usr/bin/env python3
"""Writes an RWKV-7 model of random weights in rwkv.cpp's file format (magic ggmf, version 101).

    python3 benches/make_synthetic_v7.py OUT.bin {FP32,FP16} N_LAYER N_EMBD N_VOCAB [SEED]

N_EMBD must be a multiple of 64, the size of a head. The ranks are those of released models of the width: 2.5 √D
for the decay and the rate, 1.7 √D for the value and 5 √D for the gate, in whole 32s. Published sizes are 12 768
65536 (0.19 billion parameters, called 0.1B) and 24 2048 65536 (1.5B).

The values are random and scaled so that activations stay finite: such a file is for measuring speed and memory,
and how far two programs agree. It is written tensor by tensor, and a large one in stretches of rows, so that
little memory is needed. Needs numpy.
"""
import math
import struct
import sys

import numpy as np

HEAD = 64
# So many values are made at once, 64 MiB of them.
STRETCH = 1 << 24


class Writer:
    def __init__(self, file, half, seed):
        self.file = file
        self.half = half
        self.random = np.random.default_rng(seed)

    def header(self, name, shape, half):
        """A tensor's header; `shape` is row by row, and the file has its dimensions the other way round."""
        self.file.write(struct.pack("<3i", len(shape), len(name), 1 if half else 0))
        self.file.write(struct.pack(f"<{len(shape)}i", *reversed(shape)))
        self.file.write(name.encode())

    def vector(self, name, values, shape=None):
        """Values that stay FP32 in every file."""
        values = np.asarray(values, dtype="<f4")
        self.header(name, shape or values.shape, False)
        self.file.write(values.tobytes())

    def matrix(self, name, rows, columns, gain=1.0):
        """Normal values, such that a product with unit inputs has outputs of about `gain`."""
        self.header(name, (rows, columns), self.half)
        scale = np.float32(gain / math.sqrt(columns))
        at_once = max(1, STRETCH // columns)
        for begin in range(0, rows, at_once):
            shape = (min(at_once, rows - begin), columns)
            values = self.random.standard_normal(shape, dtype=np.float32) * scale
            self.file.write(values.astype("<f2" if self.half else "<f4").tobytes())

    def layer_norm(self, name, d):
        self.vector(f"{name}.weight", np.ones(d))
        self.vector(f"{name}.bias", np.zeros(d))


def rank(factor, d):
    return min(d, 32 * max(1, round(factor * math.sqrt(d) / 32)))


def write(file, half, n_layer, d, n_vocab, seed):
    out = Writer(file, half, seed)
    file.write(struct.pack("<6i", 0x67676D66, 101, n_vocab, d, n_layer, 1 if half else 0))
    # An embedding's row goes through ln0, so its scale does not matter.
    out.matrix("emb.weight", n_vocab, d, math.sqrt(d))
    for layer in range(n_layer):
        block(out, layer, d)
    out.layer_norm("ln_out", d)
    out.matrix("head.weight", n_vocab, d)


def block(out, layer, d):
    normal = out.random.standard_normal
    name = f"blocks.{layer}."
    out.layer_norm(name + "ln1", d)
    out.layer_norm(name + "ln2", d)
    if layer == 0:
        out.layer_norm(name + "ln0", d)

    att = name + "att."
    out.vector(att + "x_rwkvag", out.random.uniform(0, 1, (6, 1, d)))
    # w0: sigmoid(-3) makes a decay of 0.97 a token. The first block has no v.
    biases = {"w": -3.0, "a": 0.0, "v": 0.7}
    ranks = {"w": rank(2.5, d), "a": rank(2.5, d), "v": rank(1.7, d), "g": rank(5.0, d)}
    for of, size in ranks.items():
        if of == "v" and layer == 0:
            continue
        out.matrix(f"{att}{of}1", size, d, 0.5)
        out.matrix(f"{att}{of}2", d, size, 1.0 if of == "g" else 0.3)
        if of in biases:
            out.vector(f"{att}{of}0", biases[of] + 0.3 * normal(d), (1, 1, d))
    out.vector(att + "k_k", 0.7 + 0.05 * normal(d), (1, 1, d))
    out.vector(att + "k_a", 1.0 + 0.05 * normal(d), (1, 1, d))
    out.vector(att + "r_k", 0.1 * normal((d // HEAD, HEAD)))
    for of, gain in (("receptance", 0.5), ("key", 0.5), ("value", 0.5), ("output", 0.5)):
        out.matrix(f"{att}{of}.weight", d, d, gain)
    out.layer_norm(att + "ln_x", d)

    ffn = name + "ffn."
    out.vector(ffn + "x_k", out.random.uniform(0, 1, d), (1, 1, d))
    out.matrix(ffn + "key.weight", 4 * d, d, 0.5)
    out.matrix(ffn + "value.weight", d, 4 * d, 0.5)


def main(arguments):
    if len(arguments) not in (5, 6) or arguments[1] not in ("FP32", "FP16"):
        sys.exit(__doc__)
    path, format_name, *numbers = arguments
    try:
        n_layer, d, n_vocab, *seed = map(int, numbers)
    except ValueError as error:
        sys.exit(f"{error}\n{__doc__}")
    if d < HEAD or d % HEAD or n_layer < 1 or n_vocab < 1:
        sys.exit(f"N_EMBD must be a multiple of {HEAD}, and N_LAYER and N_VOCAB from 1 up")
    with open(path, "wb") as file:
        write(file, format_name == "FP16", n_layer, d, n_vocab, seed[0] if seed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])

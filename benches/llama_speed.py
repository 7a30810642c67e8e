#!/usr/bin/env python3
"""Times llama.cpp on one GGUF file, as side_by_side.c times a library, and prints the same line of JSON.

    LLAMA_CPP_LIB_PATH=DIRECTORY python3 benches/llama_speed.py MODEL.gguf THREADS DECODE PREFILL CHUNK LOGITS

Needs the package llama-cpp-python, whose ctypes declarations it uses; LLAMA_CPP_LIB_PATH chooses another build of
the same llama.cpp than the package's own. side_by_side.mjs runs it.

DECODE tokens are read one by one, PREFILL tokens in chunks of CHUNK (llama.cpp's `n_ubatch`); each is done again
until half a second has passed, each time from an empty state. The logits after the PREFILL tokens go to the file
LOGITS. `peakMiB` leaves out what Python itself had taken before the model was loaded.
"""
import ctypes
import json
import resource
import sys
import time

from llama_cpp import llama_cpp as llama

# Each of the two measurements goes on for so many seconds.
LEAST_SECONDS = 0.5
# The log tells of errors, which the caller shows.
ERROR = 4


@llama.llama_log_callback
def log(level, text, _):
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def fail(problem):
    sys.exit(f"llama_speed: {problem}")


def peak():
    """The most memory so far, in MiB; Linux counts in KiB, macOS in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1048576 if sys.platform == "darwin" else 1024)


class Context:
    """A model with one state, and the tokens that are fed to it."""

    def __init__(self, path, threads, longest, chunk):
        params = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            fail(f"cannot load {path}")
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = longest
        params.n_ubatch = chunk
        params.n_threads = params.n_threads_batch = threads
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            fail(f"cannot make a context for {path}")
        self.n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def clear(self):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def read(self, tokens):
        """Reads an array of tokens in one batch; logits are made for the last alone."""
        batch = llama.llama_batch_get_one(tokens, len(tokens))
        if llama.llama_decode(self.context, batch) != 0:
            fail("an evaluation failed")
        return llama.llama_get_logits_ith(self.context, -1)


def rate(count, work):
    """Tokens a second of `work`, which reads `count` of them."""
    done = 0
    start = time.perf_counter()
    while True:
        work()
        done += count
        seconds = time.perf_counter() - start
        if seconds >= LEAST_SECONDS:
            return done / seconds


def main(path, threads, decode, prefill, chunk, logits_path):
    llama.llama_log_set(log, ctypes.c_void_p())
    llama.llama_backend_init()
    before = peak()
    start = time.perf_counter()
    context = Context(path, threads, max(decode, prefill), min(chunk, prefill))
    load = time.perf_counter() - start
    token = ctypes.c_int32 * 1
    context.read(token(1))
    first_token = time.perf_counter() - start

    # The tokens of side_by_side.c.
    some = min(context.n_vocab, 1000)
    sequence = (ctypes.c_int32 * prefill)(*((i * 7919 + 13) % some for i in range(prefill)))
    singles = [token(i * 31 % some) for i in range(decode)]

    def decode_all():
        context.clear()
        for single in singles:
            context.read(single)

    def prefill_all():
        context.clear()
        return context.read(sequence)

    for _ in range(4):
        context.read(token(sequence[0]))
    decode_rate = rate(decode, decode_all)
    # As in side_by_side.c, a chunk warms up what a whole one needs.
    context.clear()
    context.read((ctypes.c_int32 * min(chunk, prefill))(*sequence[:chunk]))
    prefill_rate = rate(prefill, prefill_all)

    logits = llama.llama_get_logits_ith(context.context, -1)
    with open(logits_path, "wb") as file:
        file.write(ctypes.string_at(logits, 4 * context.n_vocab))
    print(json.dumps({
        "decode": decode_rate,
        "prefill": prefill_rate,
        "load": load,
        "firstToken": first_token,
        "peakMiB": peak() - before,
        "system": llama.llama_print_system_info().decode().strip(),
    }))


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    model_path, *numbers, output = sys.argv[1:]
    try:
        counts = [int(number) for number in numbers]
    except ValueError as error:
        fail(error)
    if min(counts) < 1:
        fail("THREADS, DECODE, PREFILL and CHUNK must be from 1 up")
    main(model_path, *counts, output)

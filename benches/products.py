#!/usr/bin/env python3
"""Training's products in f32 beside NumPy (OpenBLAS) and PyTorch (MKL), in turn, and the most that multiply-adds give.

    cargo build --release -p rwkv-benches --example products
    python3 benches/products.py [--isa avx2] [--rounds 5] [--seconds 0.2] [T,K,N ...]

A line for each shape and product: billions of operations (2·T·K·N) a second, the best of each round's calls and of those
the median; what of it the packed operands give with which training multiplies; the ratio to the faster peer; the share of
the peak. With --isa avx2, both libraries are held to AVX2 too.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument('--isa', choices=['avx2', 'avx512'])
parser.add_argument('--rounds', type=int, default=5)
parser.add_argument('--seconds', type=float, default=0.2)
parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument('--ours', default='target/release/examples/products')
parser.add_argument('shapes', nargs='*', default=['768,128,512', '1536,384,1536', '4096,1024,1024', '1000,390,770'])
options = parser.parse_args()

environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), OPENBLAS_NUM_THREADS=str(options.threads))
if options.isa:
    environment['RWKV_ISA'] = options.isa
if options.isa == 'avx2':
    environment |= {
        'ATEN_CPU_CAPABILITY': 'avx2',
        'ONEDNN_MAX_CPU_ISA': 'AVX2',
        'MKL_ENABLE_INSTRUCTIONS': 'AVX2',
        'OPENBLAS_CORETYPE': 'Haswell',
    }
if os.environ.get('RWKV_PRODUCTS') is None:
    # The libraries read these when they are loaded.
    os.execve(sys.executable, [sys.executable, *sys.argv], environment | {'RWKV_PRODUCTS': '1'})

import numpy
import torch

torch.set_num_threads(options.threads)
ours = subprocess.Popen([options.ours], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(shape, product):
    print(*shape, product, options.seconds, file=ours.stdin, flush=True)
    return float(ours.stdout.readline())


def rate(operations, call):
    call()
    start, best = time.perf_counter(), float('inf')
    while time.perf_counter() - start < options.seconds:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return operations / best / 1e9


def peers(shape, product):
    """NumPy's and PyTorch's calls of a product, each with its result allocated before."""
    t, k, n = shape
    x, w, dy = (numpy.random.rand(*size).astype('f') for size in [(t, k), (n, k), (t, n)])
    a, b = {'forward': (x, w.T), 'dx': (dy, w), 'dw': (dy.T, x)}[product]
    out = numpy.empty((a.shape[0], b.shape[1]), 'f')
    ta, tb, tout = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(out.copy())
    operations = 2 * t * k * n
    return {
        'NumPy': lambda: rate(operations, lambda: numpy.matmul(a, b, out=out)),
        'PyTorch': lambda: rate(operations, lambda: torch.mm(ta, tb, out=tout)),
    }


print(f'{"T K N":>16} {"product":8} {"ours":>6} {"packed":>6} {"NumPy":>6} {"PyTorch":>7} {"ratio":>6} {"peak":>6} {"share":>6}')
for text in options.shapes:
    shape = tuple(int(number) for number in text.split(','))
    for product in ['forward', 'dx', 'dw']:
        calls = {
            'ours': lambda: ask(shape, product),
            'packed': lambda: ask(shape, f'packed-{product}'),
            'peak': lambda: ask(shape, 'peak'),
            **peers(shape, product),
        }
        rounds = [{name: call() for name, call in calls.items()} for _ in range(options.rounds)]
        median = {name: statistics.median(r[name] for r in rounds) for name in calls}
        ratio = statistics.median(r['ours'] / max(r['NumPy'], r['PyTorch']) for r in rounds)
        share = statistics.median(r['ours'] / r['peak'] for r in rounds)
        print(
            f'{" ".join(map(str, shape)):>16} {product:8} {median["ours"]:6.1f} {median["packed"]:6.1f} '
            f'{median["NumPy"]:6.1f} {median["PyTorch"]:7.1f} {ratio:6.2f} {median["peak"]:6.1f} {share:6.2f}',
            flush=True,
        )

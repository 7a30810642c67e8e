#!/usr/bin/env python3
"""What one would train with instead on the same CPU: PyTorch, as fast as it goes. Prints a line of JSON.

usage: train.py {gpt,rwkv4} [--n-layer 4] [--n-embd 128] [--ctx-len 64] [--batch-size 12] [--n-vocab 65]
                [--steps 50] [--threads 2] [--precision f32|bf16] [--isa avx2]

gpt:   a GPT of nanoGPT's shape: fused attention, GELU, no bias, no dropout, the head tied to the embedding.
rwkv4: RWKV-4, its WKV and the gradient of that in C++ (OpenMP, vectors over channels).

Both learn random tokens with AdamW (fused) and gradients clipped; only their speed means something. Steps are timed one by
one after five that are not counted, and the median is told. bf16 is autocast, with parameters in f32. `--isa avx2` holds
PyTorch and its libraries to AVX2. `--check` compares the gradient of WKV with that of a loop over time instead.
"""
import argparse
import json
import math
import os
import resource
import statistics
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("model", choices=["gpt", "rwkv4"])
SHAPE = [("n-layer", 4), ("n-embd", 128), ("ctx-len", 64), ("batch-size", 12), ("n-vocab", 65), ("steps", 50), ("threads", 2)]
for name, value in SHAPE:
    parser.add_argument(f"--{name}", type=int, default=value)
parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
parser.add_argument("--isa", choices=["avx2"])
parser.add_argument("--check", action="store_true")
args = parser.parse_args()
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
if args.isa and os.environ.get("ATEN_CPU_CAPABILITY") != "avx2":
    # Libraries read these when they are loaded.
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | AVX2)

import torch
import torch.nn.functional as F
from torch import nn

SOURCE = r"""
#include <torch/extension.h>
#include <algorithm>
#include <cmath>
#include <vector>

// One thread takes so many channels of one sequence through time: their state stays in its first cache.
constexpr int64_t LANES = 32;

struct Lanes { float v[LANES]; };

template <class Body> void each(const at::Tensor& k, Body body) {
  const int64_t batch = k.size(0), channels = k.size(2), groups = (channels + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < batch * groups; i++) {
    const int64_t first = i % groups * LANES;
    body(i / groups, first, std::min(LANES, channels - first));
  }
}

at::Tensor wkv(at::Tensor decay, at::Tensor bonus, at::Tensor key, at::Tensor value) {
  auto out = torch::empty_like(key);
  const int64_t T = key.size(1), C = key.size(2);
  const float *w = decay.data_ptr<float>(), *u = bonus.data_ptr<float>();
  const float *k = key.data_ptr<float>(), *v = value.data_ptr<float>();
  float* y = out.data_ptr<float>();
  each(key, [=](int64_t b, int64_t c, int64_t n) {
    Lanes num{}, den{}, top;
    std::fill_n(top.v, LANES, -1e30f);
    for (int64_t t = 0; t < T; t++) {
      const int64_t at = (b * T + t) * C + c;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        const float kt = k[at + i], vt = v[at + i], now = u[c + i] + kt;
        const float p = std::max(top.v[i], now), old = std::exp(top.v[i] - p), add = std::exp(now - p);
        y[at + i] = (old * num.v[i] + add * vt) / (old * den.v[i] + add);
        const float next = std::max(top.v[i] + w[c + i], kt);
        const float keep = std::exp(top.v[i] + w[c + i] - next), with = std::exp(kt - next);
        num.v[i] = keep * num.v[i] + with * vt;
        den.v[i] = keep * den.v[i] + with;
        top.v[i] = next;
      }
    }
  });
  return out;
}

// dL/d(decay), dL/d(bonus) of each sequence, dL/dk, dL/dv.
std::vector<at::Tensor> wkv_backward(at::Tensor decay, at::Tensor bonus, at::Tensor key, at::Tensor value,
                                     at::Tensor out, at::Tensor grad) {
  const int64_t B = key.size(0), T = key.size(1), C = key.size(2);
  auto gw_of = torch::empty({B, C}), gu_of = torch::empty({B, C});
  auto gk_of = torch::empty_like(key), gv_of = torch::empty_like(key);
  const float *w = decay.data_ptr<float>(), *u = bonus.data_ptr<float>();
  const float *k = key.data_ptr<float>(), *v = value.data_ptr<float>();
  const float *y = out.data_ptr<float>(), *gy = grad.data_ptr<float>();
  float *gw = gw_of.data_ptr<float>(), *gu = gu_of.data_ptr<float>();
  float *gk = gk_of.data_ptr<float>(), *gv = gv_of.data_ptr<float>();
  each(key, [=](int64_t b, int64_t c, int64_t n) {
    // Forward in time: each step's gy over its denominator, and by how much its own term is below the top.
    std::vector<Lanes> share(T), below(T);
    Lanes num{}, den{}, dnum{}, dden{}, sw{}, su{}, top;
    std::fill_n(top.v, LANES, -1e30f);
    for (int64_t t = 0; t < T; t++) {
      const int64_t at = (b * T + t) * C + c;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        const float kt = k[at + i], vt = v[at + i], yt = y[at + i], now = u[c + i] + kt;
        const float p = std::max(top.v[i], now), old = std::exp(top.v[i] - p), own = std::exp(now - p);
        const float q = gy[at + i] / (old * den.v[i] + own);
        share[t].v[i] = q;
        below[t].v[i] = now - p;
        sw.v[i] += (dnum.v[i] - dden.v[i] * yt) * old * q;
        su.v[i] += (vt - yt) * own * q;
        const float next = std::max(top.v[i] + w[c + i], kt);
        const float keep = std::exp(top.v[i] + w[c + i] - next), with = std::exp(kt - next);
        dnum.v[i] = keep * (num.v[i] + dnum.v[i]);
        dden.v[i] = keep * (den.v[i] + dden.v[i]);
        num.v[i] = keep * num.v[i] + with * vt;
        den.v[i] = keep * den.v[i] + with;
        top.v[i] = next;
      }
    }
    // Backward: what later steps ask of the numerator and the denominator.
    Lanes a{}, d{};
    std::fill_n(top.v, LANES, -1e30f);
    for (int64_t t = T; t-- > 0;) {
      const int64_t at = (b * T + t) * C + c;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        const float kt = k[at + i], vt = v[at + i], yt = y[at + i], q = share[t].v[i], r = below[t].v[i];
        const float own = q * std::exp(r), later = std::exp(kt + top.v[i]);
        gk[at + i] = own * (vt - yt) + later * (a.v[i] * vt + d.v[i]);
        gv[at + i] = own + later * a.v[i];
        const float mine = r - u[c + i] - kt, next = std::max(w[c + i] + top.v[i], mine);
        const float keep = std::exp(w[c + i] + top.v[i] - next), with = q * std::exp(mine - next);
        a.v[i] = keep * a.v[i] + with;
        d.v[i] = keep * d.v[i] - with * yt;
        top.v[i] = next;
      }
    }
    std::copy_n(sw.v, n, gw + b * C + c);
    std::copy_n(su.v, n, gu + b * C + c);
  });
  return {gw_of.sum(0), gu_of.sum(0), gk_of, gv_of};
}
"""


def extension():
    from torch.utils.cpp_extension import load_inline

    # Ninja may be where this interpreter is.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    arch = "-march=haswell" if args.isa else "-march=native"
    flags = ["-O3", arch, "-ffast-math", "-fopenmp"]
    functions = ["wkv", "wkv_backward"]
    return load_inline("rwkv_wkv_" + (args.isa or "native"), SOURCE, functions=functions, extra_cflags=flags, extra_ldflags=["-fopenmp"])


class Wkv(torch.autograd.Function):
    """RWKV-4's attention; w < 0 and u: (C); k, v: (B, T, C)."""

    @staticmethod
    def forward(ctx, w, u, k, v):
        w, u, k, v = (x.float().contiguous() for x in (w, u, k, v))
        y = native.wkv(w, u, k, v)
        ctx.save_for_backward(w, u, k, v, y)
        return y

    @staticmethod
    def backward(ctx, gy):
        return tuple(native.wkv_backward(*ctx.saved_tensors, gy.float().contiguous()))


def wkv_by_time(w, u, k, v):
    """The definition, for --check: each step a weighted mean of the values so far."""
    out = []
    for t in range(k.shape[1]):
        ages = torch.arange(t - 1, -1, -1, dtype=k.dtype)
        logits = torch.cat([k[:, :t] + ages[None, :, None] * w, (u + k[:, t])[:, None]], 1)
        out.append((torch.softmax(logits, 1) * v[:, : t + 1]).sum(1))
    return torch.stack(out, 1)


class Mixes(nn.Module):
    """Each channel's own mix with the token before, several of them."""

    def __init__(self, n, d):
        super().__init__()
        self.mu = nn.Parameter(torch.rand(n, d))

    def forward(self, x):
        before = F.pad(x, (0, 0, 1, -1))
        return [torch.lerp(before, x, mu) for mu in self.mu]


def linear(n, m):
    return nn.Linear(n, m, bias=False)


class TimeMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.decay, self.first = nn.Parameter(torch.linspace(-5, 3, d)), nn.Parameter(torch.full((d,), -1.2))
        self.mixes = Mixes(3, d)
        self.key, self.value, self.receptance, self.output = (linear(d, d) for _ in range(4))

    def forward(self, x):
        k, v, r = self.mixes(x)
        y = Wkv.apply(-torch.exp(self.decay), self.first, self.key(k), self.value(v))
        return self.output(torch.sigmoid(self.receptance(r)) * y)


class ChannelMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mixes = Mixes(2, d)
        self.key, self.value, self.receptance = linear(d, 4 * d), linear(4 * d, d), linear(d, d)

    def forward(self, x):
        k, r = self.mixes(x)
        return torch.sigmoid(self.receptance(r)) * self.value(torch.relu(self.key(k)).square())


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.heads = max(d // 64, 1) if d > 128 else 4
        self.qkv, self.output = linear(d, 3 * d), linear(d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).split(d, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(b, t, d))


class Model(nn.Module):
    """Blocks of two parts, each behind a layer norm and added to the residual stream."""

    def __init__(self, kind, n_layer, d, n_vocab, ctx_len):
        super().__init__()
        self.emb, self.out = nn.Embedding(n_vocab, d), nn.LayerNorm(d, bias=kind == "rwkv4")
        self.head = linear(d, n_vocab)
        self.pos = nn.Parameter(torch.randn(ctx_len, d) * 0.02) if kind == "gpt" else None
        self.ln0 = nn.LayerNorm(d) if kind == "rwkv4" else nn.Identity()
        if kind == "gpt":
            self.head.weight = self.emb.weight
        parts = []
        for _ in range(n_layer):
            if kind == "gpt":
                pair = [Attention(d), nn.Sequential(linear(d, 4 * d), nn.GELU(), linear(4 * d, d))]
            else:
                pair = [TimeMix(d), ChannelMix(d)]
            parts += [nn.ModuleList([nn.LayerNorm(d, bias=kind == "rwkv4"), part]) for part in pair]
        self.parts = nn.ModuleList(parts)
        for p in self.parameters():
            if p.dim() == 2 and p.shape[0] > 3:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, tokens, targets):
        x = self.emb(tokens)
        x = self.ln0(x if self.pos is None else x + self.pos)
        for norm, part in self.parts:
            x = x + part(norm(x))
        return F.cross_entropy(self.head(self.out(x)).flatten(0, 1).float(), targets.flatten())


def check():
    torch.manual_seed(1)
    w, u = -torch.rand(70) * 2, torch.randn(70)
    k, v, gy = (torch.randn(3, 20, 70) for _ in range(3))
    sides = []
    for function, kind in [(Wkv.apply, torch.float32), (wkv_by_time, torch.float64)]:
        inputs = [x.to(kind).requires_grad_() for x in (w, u, k, v)]
        y = function(*inputs)
        sides.append([y, *torch.autograd.grad(y, inputs, gy.to(kind))])
    far = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*sides)]
    print(json.dumps({"largestRelativeDifferences": far}))
    sys.exit(0 if max(far) < 1e-5 else 1)


torch.set_num_threads(args.threads)
native = extension() if args.model == "rwkv4" else None
if args.check:
    check()
torch.manual_seed(1)
model = Model(args.model, args.n_layer, args.n_embd, args.n_vocab, args.ctx_len)
optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True)
seconds = []
for step in range(5 + args.steps):
    tokens = torch.randint(args.n_vocab, (args.batch_size, args.ctx_len + 1))
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    seconds.append(time.perf_counter() - start)
assert math.isfinite(loss.item())
print(json.dumps({
    "model": args.model,
    "torch": torch.__version__,
    "parameters": sum(p.numel() for p in model.parameters()),
    "tokensPerSecond": round(args.batch_size * args.ctx_len / statistics.median(seconds[5:])),
    "peakMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))

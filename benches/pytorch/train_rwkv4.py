#!/usr/bin/env python3
"""Train the same RWKV-4 on the same text with PyTorch, to compare speeds on one CPU.

usage: train_rwkv4.py TEXT [--n-layer 4] [--n-embd 128] [--ctx-len 64] [--batch-size 12] [--steps 100] [--threads 2]
                      [--compile]

The model, the recipe (AdamW, clipping, batches of random windows) and the way the time is taken (optimizer steps only,
after ten that are not counted) are those of `rwkv train`. PyTorch has no operator for WKV; the loop over time below is
vectorised over batch and channels, and its gradient is written by hand, because autograd through the loop is slower
still. `--compile` lets TorchInductor fuse it all. Prints one line of JSON.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn


class Wkv(torch.autograd.Function):
    """RWKV-4's attention with its analytic gradient; k, v: (B, T, C); w < 0 and u: (C)."""

    @staticmethod
    def forward(ctx, w, u, k, v):
        aa = bb = torch.zeros_like(k[:, 0])
        pp = torch.full_like(aa, -1e30)
        ys = []
        for t in range(k.shape[1]):
            kt, vt = k[:, t], v[:, t]
            p = torch.maximum(pp, u + kt)
            e1, e2 = torch.exp(pp - p), torch.exp(u + kt - p)
            ys.append((e1 * aa + e2 * vt) / (e1 * bb + e2))
            p = torch.maximum(pp + w, kt)
            e1, e2 = torch.exp(pp + w - p), torch.exp(kt - p)
            aa, bb, pp = e1 * aa + e2 * vt, e1 * bb + e2, p
        y = torch.stack(ys, 1)
        ctx.save_for_backward(w, u, k, v, y)
        return y

    @staticmethod
    def backward(ctx, gy):
        w, u, k, v, y = ctx.saved_tensors
        steps = k.shape[1]
        aa = bb = ga = gb = torch.zeros_like(k[:, 0])
        gw, gu = torch.zeros_like(aa), torch.zeros_like(aa)
        pp = torch.full_like(aa, -1e30)
        qs, rs = [], []
        for t in range(steps):
            kt, vt, yt = k[:, t], v[:, t], y[:, t]
            p = torch.maximum(pp, u + kt)
            e1, e2 = torch.exp(pp - p), torch.exp(u + kt - p)
            q = gy[:, t] / (e1 * bb + e2)
            qs.append(q)
            rs.append(u + kt - p)
            gw = gw + (ga - gb * yt) * e1 * q
            gu = gu + (vt - yt) * e2 * q
            p = torch.maximum(pp + w, kt)
            e1, e2 = torch.exp(pp + w - p), torch.exp(kt - p)
            ga, gb = e1 * (aa + ga), e1 * (bb + gb)
            aa, bb, pp = e1 * aa + e2 * vt, e1 * bb + e2, p
        a = b = torch.zeros_like(aa)
        p = torch.full_like(aa, -1e30)
        gks, gvs = [None] * steps, [None] * steps
        for t in reversed(range(steps)):
            kt, vt, yt, q, r = k[:, t], v[:, t], y[:, t], qs[t], rs[t]
            e, f = q * torch.exp(r), torch.exp(kt + p)
            gks[t] = e * (vt - yt) + f * (a * vt + b)
            gvs[t] = e + f * a
            top = torch.maximum(w + p, r - u - kt)
            e1, e2 = torch.exp(w + p - top), q * torch.exp(r - u - kt - top)
            a, b, p = e1 * a + e2, e1 * b - e2 * yt, top
        return gw.sum(0), gu.sum(0), torch.stack(gks, 1), torch.stack(gvs, 1)


def shift(x):
    return F.pad(x, (0, 0, 1, -1))


def mix(x, xx, mu):
    return xx + mu * (x - xx)


class TimeMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.decay, self.first = nn.Parameter(torch.linspace(-5, 3, d)), nn.Parameter(torch.full((d,), -1.2))
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.linspace(0, 1, d)) for _ in range(3))
        self.key, self.value, self.receptance, self.output = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x):
        xx = shift(x)
        k, v = self.key(mix(x, xx, self.mix_k)), self.value(mix(x, xx, self.mix_v))
        r = torch.sigmoid(self.receptance(mix(x, xx, self.mix_r)))
        return self.output(r * Wkv.apply(-torch.exp(self.decay), self.first, k, v))


class ChannelMix(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mix_k, self.mix_r = (nn.Parameter(torch.linspace(0, 1, d)) for _ in range(2))
        self.key, self.value = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)
        self.receptance = nn.Linear(d, d, bias=False)

    def forward(self, x):
        xx = shift(x)
        k = torch.relu(self.key(mix(x, xx, self.mix_k))) ** 2
        return torch.sigmoid(self.receptance(mix(x, xx, self.mix_r))) * self.value(k)


class Rwkv4(nn.Module):
    def __init__(self, n_vocab, n_layer, d):
        super().__init__()
        self.emb, self.head = nn.Embedding(n_vocab, d), nn.Linear(d, n_vocab, bias=False)
        self.ln0, self.ln_out = nn.LayerNorm(d), nn.LayerNorm(d)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(d), TimeMix(d), nn.LayerNorm(d), ChannelMix(d)]) for _ in range(n_layer)
        )

    def forward(self, tokens, targets):
        x = self.ln0(self.emb(tokens))
        for ln1, att, ln2, ffn in self.blocks:
            x = x + att(ln1(x))
            x = x + ffn(ln2(x))
        logits = self.head(self.ln_out(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("text")
    for name, value in [("n-layer", 4), ("n-embd", 128), ("ctx-len", 64), ("batch-size", 12), ("steps", 100), ("threads", 2)]:
        args.add_argument(f"--{name}", type=int, default=value)
    args.add_argument("--compile", action="store_true")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    text = open(args.text, encoding="utf-8").read()
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[c] for c in text[: len(text) * 9 // 10]])
    model = Rwkv4(len(ids), args.n_layer, args.n_embd)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if args.compile else model
    warm_up, seconds = 10, 0.0
    for step in range(warm_up + args.steps):
        starts = torch.randint(len(data) - args.ctx_len - 1, (args.batch_size,))
        x = torch.stack([data[i : i + args.ctx_len] for i in starts])
        y = torch.stack([data[i + 1 : i + args.ctx_len + 1] for i in starts])
        start = time.perf_counter()
        loss = forward(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - start if step >= warm_up else 0.0
    tokens = args.steps * args.batch_size * args.ctx_len
    print(json.dumps({"torch": torch.__version__, "threads": args.threads, "compile": args.compile,
                      "tokensPerSecond": round(tokens / seconds), "loss": round(loss.item(), 3)}))


main()

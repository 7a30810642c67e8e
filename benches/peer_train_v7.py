#!/usr/bin/env python3
"""What a user would train RWKV-7 with on the same CPU without us: PyTorch. Prints one JSON line with tokens per second.

usage: peer_train_v7.py [--n-layer 6] [--n-embd 384] [--ctx-len 256] [--batch-size 16] [--n-vocab 65] [--head-size 64]
                        [--chunk 32] [--steps 20] [--warm-up 5] [--threads 2] [--precision f32|bf16] [--no-compile]
       peer_train_v7.py --check      compares it with the recurrence, and with the model recorded in crates/train/tests

The recurrence runs in chunks, by matrix products (`wkv7`); of 16, 32 and 64 tokens, 32 took least CPU time. Random
tokens: speed alone is read off it. The time counted is that of optimizer steps (forward, backward, clipping, fused AdamW)
after warm-up: each is timed and the median taken. bf16 is autocast with f32 master weights; the recurrence stays f32.
Blocks are compiled by TorchInductor, which needs g++.
"""
import argparse
import json
import math
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Scan(torch.autograd.Function):
    """What is sequential: U = U0 + W Z and Z' = diag(d) Z + X + Bᵀ U, chunk after chunk, Z being 0 before the first.

    w, u0, b: (chunks, n, chunk, N), x: (chunks, n, N, N), d: (chunks, n, N), n = batch_size · heads.
    Returns U and each chunk's Z, which is Sᵀ: (chunks, n, key N, value N).
    """

    @staticmethod
    def forward(ctx, w, u0, b, x, d):
        u, z = [u0[0]], [torch.zeros_like(x[0])]
        for c in range(1, len(w)):
            z.append(torch.baddbmm(torch.addcmul(x[c - 1], z[-1], d[c - 1].unsqueeze(-1)), b[c - 1].mT, u[-1]))
            u.append(torch.baddbmm(u0[c], w[c], z[-1]))
        u, z = torch.stack(u), torch.stack(z)
        ctx.save_for_backward(w, b, d, u, z)
        return u, z

    @staticmethod
    def backward(ctx, gu0, gz):
        w, b, d, u, z = ctx.saved_tensors
        after, gu = [torch.zeros_like(z[0])], [gu0[-1]]  # after: the gradient of the Z that a chunk leaves
        for c in reversed(range(len(w) - 1)):
            kept = gz[c + 1] if c + 2 == len(w) else torch.addcmul(gz[c + 1], after[-1], d[c + 1].unsqueeze(-1))
            after.append(torch.baddbmm(kept, w[c + 1].mT, gu[-1]))
            gu.append(torch.baddbmm(gu0[c], b[c], after[-1]))
        after, gu = torch.stack(after[::-1]), torch.stack(gu[::-1])
        return gu @ z.mT, gu, u @ after.mT, after, (after * z).sum(-1)


class Solve(torch.autograd.Function):
    """(I − A)⁻¹ X for strictly lower triangular A;  a: (n, chunk, chunk), x: (n, chunk, any).

    The inverse is put together from those of the diagonal's blocks, of 1, 2, 4, … rows: small products, which are much
    faster here than torch.linalg.solve_triangular, and as exact.
    """

    @staticmethod
    def forward(ctx, a, x):
        size = a.shape[-1]
        row = torch.arange(size).unsqueeze(1)
        inverse = torch.eye(size, dtype=a.dtype) + torch.where((row ^ row.T) == 1, a, 0)
        block = 2
        while block < size:
            below = torch.where((row // block) ^ (row.T // block) == 1, a, 0)
            inverse = inverse + inverse @ below @ inverse
            block *= 2
        u = inverse @ x
        ctx.save_for_backward(inverse, u)
        return u

    @staticmethod
    def backward(ctx, gu):
        inverse, u = ctx.saved_tensors
        gx = inverse.mT @ gu
        return gx @ u.mT, gx


def wkv7(r, log_w, k, v, a, b, chunk):
    """y (B, T, H, N) of S ← S diag(w) + (S a) bᵀ + v kᵀ, y = S r;  all (B, T, H, N), S 0 at first, T a multiple of chunk.

    With c the product of the decays since a chunk's start, S = P diag(c) turns the decays into factors of r, k, a and b;
    what S a is within a chunk then follows from one unit-lower-triangular solve.
    """
    batch, t, heads, size = r.shape
    chunks, n = t // chunk, batch * heads
    split = lambda x: x.view(batch, chunks, chunk, heads, size).permute(1, 0, 3, 2, 4).reshape(chunks * n, chunk, size)
    grouped = lambda x: x.view(chunks, n, *x.shape[1:])
    log_w, v = split(log_w), split(v)
    row = torch.arange(chunk).unsqueeze(1)
    total = (row >= row.T).to(r.dtype).expand(len(v), -1, -1) @ log_w  # cumulative sums
    decayed, inverse, d = total.exp(), (-total).exp(), total[:, -1:].exp()
    k, b, a, r = split(k) * inverse, split(b) * inverse, split(a) * (total - log_w).exp(), split(r) * decayed
    ak, ab = (torch.where(row > row.T, a @ x.mT, 0) for x in (k, b))
    rk, rb = (torch.where(row >= row.T, r @ x.mT, 0) for x in (k, b))
    u0, w = Solve.apply(ab, torch.cat([ak @ v, a], -1)).chunk(2, -1)
    u, z = Scan.apply(grouped(w), grouped(u0), grouped(b * d), grouped((k * d).mT @ v), d.view(chunks, n, size))
    y = rk @ v + rb @ u.flatten(0, 1) + r @ z.flatten(0, 1)
    return y.view(chunks, batch, heads, chunk, size).permute(1, 0, 3, 2, 4).reshape(batch, t, heads, size)


def wkv7_sequential(r, log_w, k, v, a, b):
    """The same by its definition."""
    s, outputs = r.new_zeros(r.shape[0], r.shape[2], r.shape[3], r.shape[3]), []
    for t in range(r.shape[1]):
        row, column = (lambda x, axis=axis: x[:, t].unsqueeze(axis) for axis in [-2, -1])
        s = s * row(log_w).exp() + (s * row(a)).sum(-1, keepdim=True) * row(b) + column(v) * row(k)
        outputs.append((s * row(r)).sum(-1))
    return torch.stack(outputs, 1)


def shifted(x):
    return F.pad(x, (0, 0, 1, -1))


class TimeMix(nn.Module):
    """Names are BlinkDL's; every matrix is (outputs, inputs)."""

    def __init__(self, layer, c):
        super().__init__()
        d, self.head_size, self.chunk = c.n_embd, c.head_size, c.chunk
        vector = lambda mean=0.5: nn.Parameter(mean + 0.1 * torch.randn(d))
        for name in "rwkvag":
            setattr(self, "x_" + name, vector())
        for name in "wag" if layer == 0 else "wavg":
            setattr(self, name + "1", nn.Parameter(torch.randn(c.ranks[name], d) / d**0.5))
            setattr(self, name + "2", nn.Parameter(torch.randn(d, c.ranks[name]) * 0.1))
        self.w0, self.a0 = nn.Parameter(torch.linspace(-6, 1, d)), vector(0.0)
        if layer > 0:
            self.v0 = vector()
        self.k_k, self.k_a, self.r_k = vector(0.7), vector(1.0), vector(0.0)
        self.receptance, self.key, self.value, self.output = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.ln_x = nn.GroupNorm(d // c.head_size, d, eps=64e-5)

    def forward(self, x, v_first):
        sx = shifted(x) - x
        x_r, x_w, x_k, x_v, x_a, x_g = (torch.addcmul(x, sx, getattr(self, "x_" + name)) for name in "rwkvag")
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        log_w = -math.exp(-0.5) * torch.sigmoid(self.w0 + F.linear(torch.tanh(F.linear(x_w, self.w1)), self.w2).float())
        a = torch.sigmoid(self.a0 + F.linear(F.linear(x_a, self.a1), self.a2))
        g = F.linear(torch.sigmoid(F.linear(x_g, self.g1)), self.g2)
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(self.v0 + F.linear(F.linear(x_v, self.v1), self.v2)).to(v.dtype))
        heads = lambda z: z.unflatten(-1, (-1, self.head_size))
        kk = F.normalize(heads(k * self.k_k).float(), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        r, log_w, k, v, a = (heads(z).float() for z in (r, log_w, k, v, a))
        with torch.autocast("cpu", enabled=False):
            y = wkv7(r, log_w, k, v, -kk, kk * a, self.chunk)
        y = F.layer_norm(y, (self.head_size,), eps=self.ln_x.eps) * heads(self.ln_x.weight) + heads(self.ln_x.bias)
        y = y + (r * k * heads(self.r_k)).sum(-1, keepdim=True) * v
        return self.output(y.flatten(2) * g), v_first


class ChannelMix(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.x_k = nn.Parameter(0.5 + 0.1 * torch.randn(c.n_embd))
        self.key, self.value = nn.Linear(c.n_embd, 4 * c.n_embd, bias=False), nn.Linear(4 * c.n_embd, c.n_embd, bias=False)

    def forward(self, x):
        return self.value(F.relu(self.key(torch.addcmul(x, shifted(x) - x, self.x_k))).square())


class Block(nn.Module):
    def __init__(self, layer, c):
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(c.n_embd)
        self.ln1, self.ln2 = nn.LayerNorm(c.n_embd), nn.LayerNorm(c.n_embd)
        self.att, self.ffn = TimeMix(layer, c), ChannelMix(c)

    def forward(self, x, v_first):
        if v_first is None:
            x = self.ln0(x)
        y, v_first = self.att(self.ln1(x), v_first)
        x = x + y
        return x + self.ffn(self.ln2(x)), v_first


class Rwkv7(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.emb, self.head = nn.Embedding(c.n_vocab, c.n_embd), nn.Linear(c.n_embd, c.n_vocab, bias=False)
        self.blocks = nn.ModuleList(Block(layer, c) for layer in range(c.n_layer))
        self.ln_out = nn.LayerNorm(c.n_embd)

    def forward(self, tokens, targets):
        x, v_first = self.emb(tokens), None
        for block in self.blocks:
            x, v_first = block(x, v_first)
        logits = self.head(self.ln_out(x)).float()
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def error(a, b):
    """The largest |a − b|, relative to the largest |b|."""
    return ((a - b).abs().max() / b.abs().max()).item()


def check(chunk):
    """wkv7 in f32 beside the recurrence in f64; and the model beside the recorded one."""
    from safetensors.torch import load_file

    shape = (2, 4 * chunk, 3, 64)
    r, k, v, gy = (torch.randn(shape) for _ in range(4))
    kk = F.normalize(torch.randn(shape), dim=-1)
    inputs = [r, -0.6065 * torch.sigmoid(4 * torch.randn(shape)), k, v, -kk, kk * torch.rand(shape)]

    def run(function, inputs, gy):
        inputs = [x.detach().requires_grad_() for x in inputs]
        y = function(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, gy)]

    found = run(lambda *inputs: wkv7(*inputs, chunk), inputs, gy)
    wanted = run(wkv7_sequential, [x.double() for x in inputs], gy.double())
    for name, x, y in zip(["y", "dr", "d log w", "dk", "dv", "da", "db"], found, wanted):
        print(f"wkv7 {name}: relative error {error(x, y):.1e}")
        assert error(x, y) < 1e-5, name

    here = os.path.dirname(os.path.abspath(__file__))
    record = load_file(os.path.join(here, "../crates/train/tests/fixtures/gradients-v7.safetensors"))
    ranks = {name: len(record[f"param.blocks.1.att.{name}1"]) for name in "wavg"}
    model = Rwkv7(argparse.Namespace(n_vocab=11, n_layer=3, n_embd=16, head_size=8, chunk=19, ranks=ranks))
    model.load_state_dict({name[6:]: x for name, x in record.items() if name.startswith("param.")})
    logits, loss = model(record["tokens"], record["targets"].long())
    loss.backward()
    worst = max((error(x.grad, record["grad." + name]), name) for name, x in model.named_parameters())
    print(f"model: logits {error(logits, record['logits']):.1e}, worst gradient {worst[0]:.1e} of {worst[1]}")
    assert error(logits, record["logits"]) < 1e-5 and worst[0] < 1e-4


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = dict(n_layer=6, n_embd=384, ctx_len=256, batch_size=16, n_vocab=65, head_size=64, chunk=32, steps=20, warm_up=5, threads=2)
    for name, value in defaults.items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--profile", action="store_true", help="print what one step's time goes into")
    p.add_argument("--check", action="store_true")
    c = p.parse_args()
    torch.set_num_threads(c.threads)
    torch.manual_seed(1)
    if c.check:
        return check(c.chunk)
    if c.ctx_len % c.chunk or c.n_embd % c.head_size:
        p.error("--ctx-len must be a multiple of --chunk, and --n-embd of --head-size")

    rank = lambda scale: max(32, 32 * round(scale * c.n_embd**0.5 / 32))  # as RWKV-LM chooses them
    c.ranks = {"w": rank(2.5), "a": rank(2.5), "v": rank(1.7), "g": rank(5)}
    model = Rwkv7(c)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True)
    if not c.no_compile:
        for block in model.blocks:
            block.compile()

    def step():
        data = torch.randint(c.n_vocab, (c.batch_size, c.ctx_len + 1))
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=c.precision == "bf16"):
            _, loss = model(data[:, :-1].contiguous(), data[:, 1:].contiguous())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.perf_counter() - start, loss.item()

    times = [step() for _ in range(c.warm_up + c.steps)][c.warm_up :]
    if c.profile:
        with torch.profiler.profile() as profile:
            step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60))
    rss = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
    print(json.dumps({
        "kind": "rwkv7", "params": sum(q.numel() for q in model.parameters()), "precision": c.precision, "compile": not c.no_compile,
        "chunk": c.chunk, "tokensPerSecond": round(c.batch_size * c.ctx_len / statistics.median(t for t, _ in times)),
        "loss": round(times[-1][1], 4), "peakMiB": rss, "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()

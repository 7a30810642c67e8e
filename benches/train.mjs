// Tokens a second of `rwkv train` beside PyTorch's on one machine: a GPT of nanoGPT's shape, and RWKV-4 with its WKV in C++.
//
//   node benches/train.mjs TEXT [--shape L4|L6|L12] [--pairs 5] [--threads 2] [--precision f32|bf16] [--isa avx2]
//                          [--optimizer adamw] [--python python3]
//
// In turn: ours, GPT, RWKV-4, and again; medians, and the median of ours over the faster of the two in each round. Only
// the time of optimizer steps counts. Needs a build (`npm run build`), and a Python with torch, setuptools, ninja and a
// C++ compiler. `--isa avx2` holds both sides to AVX2. Both learn with AdamW unless it says muon for ours.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

/** So many steps that the first ones, which are slower, hardly count. */
const SHAPES = {
  L4: { nLayer: 4, nEmbd: 128, ctxLen: 64, batchSize: 12, vocab: 65, steps: 300 },
  L6: { nLayer: 6, nEmbd: 384, ctxLen: 256, batchSize: 16, vocab: 65, steps: 12 },
  L12: { nLayer: 12, nEmbd: 768, ctxLen: 512, batchSize: 4, vocab: 50277, steps: 6 },
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    shape: { type: 'string', multiple: true, default: Object.keys(SHAPES) },
    pairs: { type: 'string', default: '5' },
    threads: { type: 'string', default: '2' },
    precision: { type: 'string', default: 'f32' },
    isa: { type: 'string' },
    optimizer: { type: 'string', default: 'adamw' },
    python: { type: 'string', default: 'python3' },
  },
})
const [text] = positionals
const unknown = values.shape.find(name => !(name in SHAPES))
if (!text || unknown !== undefined) {
  console.error(`usage: node benches/train.mjs TEXT [--shape ${Object.keys(SHAPES).join('|')}] [--pairs 5] …`)
  process.exit(2)
}
const here = fileURLToPath(new URL('.', import.meta.url))

/** Runs a program and returns the object on the last line that it prints. */
function measure(command, args, env = {}) {
  const options = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } }
  return JSON.parse(execFileSync(command, args, options).trim().split('\n').at(-1)).tokensPerSecond
}

function ours(shape) {
  const directory = mkdtempSync(join(tmpdir(), 'rwkv-bench-'))
  const options = {
    data: text,
    out: join(directory, 'run'),
    'n-layer': shape.nLayer,
    'n-embd': shape.nEmbd,
    'ctx-len': shape.ctxLen,
    'batch-size': shape.batchSize,
    'max-steps': shape.steps,
    tokenizer: shape.vocab > 1000 ? '20b' : 'character',
    optimizer: values.optimizer,
    precision: values.precision,
    threads: values.threads,
    'eval-interval': 0,
    'eval-tokens': 512,
  }
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  try {
    const main = join(here, '../dist/cli/main.js')
    return measure(process.execPath, [main, 'train', ...flags, '--json'], values.isa ? { RWKV_ISA: values.isa } : {})
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function pytorch(model, shape) {
  const options = {
    'n-layer': shape.nLayer,
    'n-embd': shape.nEmbd,
    'ctx-len': shape.ctxLen,
    'batch-size': shape.batchSize,
    'n-vocab': shape.vocab,
    steps: Math.min(shape.steps, 50),
    precision: values.precision,
    threads: values.threads,
  }
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  if (values.isa === 'avx2') flags.push('--isa', 'avx2')
  return measure(values.python, [join(here, 'pytorch/train.py'), model, ...flags])
}

const median = numbers => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]

for (const name of values.shape) {
  const { steps: _, ...shape } = SHAPES[name]
  console.log(`${name}: ${Object.entries(shape).map(([key, value]) => `${key} ${value}`).join(', ')}, ${values.precision}`)
  const rounds = []
  for (let round = 0; round < Number(values.pairs); round++) {
    const [own, gpt, rwkv4] = [ours(SHAPES[name]), pytorch('gpt', SHAPES[name]), pytorch('rwkv4', SHAPES[name])]
    rounds.push({ own, gpt, rwkv4, ratio: own / Math.max(gpt, rwkv4) })
    console.log(`  rwkv ${own.toFixed(0)}, GPT ${gpt}, RWKV-4 ${rwkv4} tokens/s: ${rounds.at(-1).ratio.toFixed(2)}`)
  }
  const of = key => median(rounds.map(round => round[key]))
  console.log(`  medians: ${of('own').toFixed(0)}, ${of('gpt')}, ${of('rwkv4')}; ratio ${of('ratio').toFixed(2)}`)
}

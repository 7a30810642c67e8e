// Tokens a second of `rwkv train` and of the same training in PyTorch, run in turn on one machine.
//
//   node benches/train.mjs TEXT [--pairs 5] [--steps 200] [--threads 2] [--precision f32|bf16] [--compile]
//
// Both count the time of optimizer steps alone. Needs a build (`npm test` or `npm run build`), and a python3
// with torch.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pairs: { type: 'string', default: '5' },
    steps: { type: 'string', default: '200' },
    threads: { type: 'string', default: '2' },
    precision: { type: 'string' },
    compile: { type: 'boolean', default: false },
  },
})
const [text] = positionals
if (!text) {
  console.error('usage: node benches/train.mjs TEXT [--pairs 5] [--steps 200] [--threads 2] [--precision f32|bf16] [--compile]')
  process.exit(2)
}
const here = fileURLToPath(new URL('.', import.meta.url))

/** Runs a program and returns the object on the last line that it prints. */
function measure(command, args) {
  const lines = execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim().split('\n')
  return JSON.parse(lines.at(-1)).tokensPerSecond
}

function ours() {
  const directory = mkdtempSync(join(tmpdir(), 'rwkv-bench-'))
  const precision = values.precision ? ['--precision', values.precision] : []
  const options = ['--max-steps', values.steps, '--threads', values.threads, '--eval-interval', '0', '--json', ...precision]
  try {
    return measure(process.execPath, [join(here, '../dist/cli/main.js'), 'train', '--data', text, '--out', join(directory, 'run'), ...options])
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function pytorch() {
  const options = ['--steps', values.steps, '--threads', values.threads, ...(values.compile ? ['--compile'] : [])]
  return measure('python3', [join(here, 'pytorch/train_rwkv4.py'), text, ...options])
}

const ratios = []
for (let pair = 1; pair <= Number(values.pairs); pair++) {
  const [a, b] = [ours(), pytorch()]
  ratios.push(a / b)
  console.log(`pair ${pair}: rwkv ${a.toFixed(0)} tokens/s, PyTorch ${b.toFixed(0)} tokens/s, ratio ${(a / b).toFixed(1)}`)
}
ratios.sort((a, b) => a - b)
console.log(`median ratio ${ratios[Math.floor(ratios.length / 2)].toFixed(1)}`)

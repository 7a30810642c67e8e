// What each format costs in quality and gains in speed: one trained model in all seven, as a Markdown table.
//
//   node benches/quality.mjs RUN [--data TEXT] [--rounds 3] [--seconds 1] [--threads 2]
//
// RUN is the directory of a training run whose model is FP32. The loss is that of the last tenth of the run's
// text, which it validated with, in windows of its context: what `rwkv eval` gives for that part. Speeds are
// `bench`'s, in FP32's turn, then FP16's and so on, round after round; the table has the medians of the
// rounds. Needs a build (`npm test` or `npm run build`), and cargo.

import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Model, quantize } from '../dist/index.js'

const quantized = ['Q8_0', 'Q5_1', 'Q5_0', 'Q4_1', 'Q4_0']
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    threads: { type: 'string' },
  },
})
const [run] = positionals
if (!run) {
  console.error('usage: node benches/quality.mjs RUN [--data TEXT] [--rounds 3] [--seconds 1] [--threads 2]')
  process.exit(2)
}
const { options } = JSON.parse(readFileSync(join(run, 'config.json'), 'utf8'))
const threads = values.threads === undefined ? undefined : Number(values.threads)

const directory = mkdtempSync(join(tmpdir(), 'rwkv-quality-'))
try {
  const data = writeValidation()
  const formats = await writeFormats()
  const losses = []
  for (const { name, path } of formats) {
    losses.push(await withModel(path, model => model.evaluate(data, { ctxLen: options.ctxLen })))
    say(`${name}: loss ${losses.at(-1).loss.toFixed(5)}`)
  }
  const speeds = await measureInTurn(formats)
  print(await withModel(formats[0].path, describe), formats, losses, speeds)
} finally {
  rmSync(directory, { recursive: true })
}

/** The part of the text that the run did not learn: what is behind the first ⌊0.9 n⌋ tokens. */
function writeValidation() {
  const bytes = readFileSync(values.data ?? options.data)
  const path = join(directory, 'validation.txt')
  if (options.tokenizer === 'byte') {
    writeFileSync(path, bytes.subarray(learned(bytes.length)))
  } else {
    const characters = Array.from(bytes.toString('utf8'))
    writeFileSync(path, characters.slice(learned(characters.length)).join(''))
  }
  return path
}

function learned(tokens) {
  return Number((BigInt(tokens) * 9n) / 10n)
}

/**
 * The model's files in all formats, each beside the tokenizer. The quantized ones are made of the FP32 one.
 */
async function writeFormats() {
  copyFileSync(join(run, 'tokenizer.json'), join(directory, 'tokenizer.json'))
  const path = name => join(directory, `${name}.bin`)
  copyFileSync(join(run, 'model.bin'), path('FP32'))
  const example = ['run', '--quiet', '--release', '-p', 'rwkv', '--example', 'half_precision', '--']
  const root = resolve(fileURLToPath(new URL('..', import.meta.url)))
  execFileSync('cargo', [...example, path('FP32'), path('FP16')], { cwd: root, stdio: 'inherit' })
  for (const name of quantized) await quantize(path('FP32'), path(name), name, { threads })
  return ['FP32', 'FP16', ...quantized].map(name => ({ name, path: path(name) }))
}

/** What `work` finds with a loaded model. */
async function withModel(path, work) {
  const model = await Model.load(path, { threads })
  try {
    return await work(model)
  } finally {
    model.close()
  }
}

/** For each format, its medians over the rounds. */
async function measureInTurn(formats) {
  const found = formats.map(() => ({ decode: [], prefill: [] }))
  for (let round = 1; round <= Number(values.rounds); round++) {
    for (const [i, { name, path }] of formats.entries()) {
      const bench = await withModel(path, model => model.bench({ seconds: Number(values.seconds) }))
      found[i].decode.push(bench.decodeTokensPerSecond)
      found[i].prefill.push(bench.prefillTokensPerSecond)
      say(`round ${round}, ${name}: ${bench.decodeTokensPerSecond.toFixed(0)} tokens/s`)
    }
  }
  return found.map(({ decode, prefill }) => ({ decode: median(decode), prefill: median(prefill) }))
}

function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b)
  const half = sorted.length / 2
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2
}

/** What was measured, and on what. */
function describe({ config, parameters, isa, threads }) {
  const { nLayer, nEmbd, nVocab } = config
  return `n_layer ${nLayer}, n_embd ${nEmbd}, n_vocab ${nVocab}, ${count(parameters)} parameters; ${isa}, ${threads} threads`
}

function print(what, formats, losses, speeds) {
  const { tokens } = losses[0]
  console.log(`${what}; loss over ${count(tokens)} tokens in windows of ${options.ctxLen}; median speeds, rounds: ${values.rounds}\n`)
  const head = ['format', 'file size', 'validation loss', 'from FP32', 'decode, tokens/s', 'prefill of 256, tokens/s']
  const rows = formats.map(({ name, path }, i) => [
    name,
    `${(statSync(path).size / 1e6).toFixed(2)} MB`,
    losses[i].loss.toFixed(4),
    i === 0 ? '–' : signed(losses[i].loss - losses[0].loss),
    count(speeds[i].decode),
    count(speeds[i].prefill),
  ])
  const widths = head.map((name, column) => Math.max(name.length, ...rows.map(row => row[column].length)))
  const line = cells => `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(' | ')} |`
  const rule = widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`))
  for (const cells of [head, rule, ...rows]) console.log(line(cells))
}

function count(value) {
  return Math.round(value).toLocaleString('en-US')
}

/** `+0.0012`; a difference that four digits do not show has no sign. */
function signed(difference) {
  const digits = Math.abs(difference).toFixed(4)
  if (Number(digits) === 0) return digits
  return `${difference < 0 ? '−' : '+'}${digits}`
}

/** A line for whoever waits; the table alone goes to the standard output. */
function say(line) {
  process.stderr.write(`${line}\n`)
}

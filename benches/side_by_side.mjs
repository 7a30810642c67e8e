// Times two libraries with the functions of rwkv.h on one model file, in turn.
//
//   node benches/side_by_side.mjs LIB_A LIB_B MODEL [options]
//   node benches/side_by_side.mjs LIB_A LLAMA_DIR MODEL --gguf MODEL.gguf [options]
//
// The second form has llama.cpp for B, through llama_speed.py, with a file of the same weights.
//
// Each measurement is a process of its own: threads that one library leaves spinning must not disturb the
// other. A pair is one measurement of each, and pairs begin with A and B in turn. Ratios say how many times
// faster A is than B, pair by pair; what is printed is their median, the least and the greatest.
//
// Between the two, a third process only reads the weights of a token, again and again, with as many threads:
// decoding reads them too, so this is the most that any library could do at that moment.

import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { tokenBytes } from './token_bytes.mjs'

/** Fewer bytes a token than this may stay in a processor's last cache. */
const MAY_BE_CACHED = 64e6

/** What B reads at once, if --chunk-b does not say: much longer, and rwkv.cpp aborts; llama.cpp's default. */
const CHUNK = { library: '64', llama: '512' }

const usage = `node benches/side_by_side.mjs LIB_A LIB_B MODEL
node benches/side_by_side.mjs LIB_A LLAMA_DIR MODEL --gguf MODEL.gguf
  --threads N     threads of each library (2)
  --pairs N       number of pairs (5)
  --decode N      tokens read one by one (64)
  --prefill N     tokens read as a sequence (256)
  --chunk-a N     size of A's chunks (256)
  --chunk-b N     size of B's chunks (64, with --gguf 512; rwkv.cpp aborts when a chunk is too long for its graph)
  --env-a K=V     an environment variable for A, such as RWKV_ISA=avx2; may be given again
  --env-b K=V     the same for B
  --gguf FILE     B is llama.cpp, whose libraries are in LLAMA_DIR, and reads this file
  --python PATH   with --gguf: a Python that has the package llama-cpp-python of the same version (python3)
  --json          print an object with every measurement instead of a table

The weights are also only read, by as many threads, between the two libraries of each pair: the bound on decoding.`

const { values: options, positionals } = parse()
const [libraryA, libraryB, model] = positionals.map(path => resolve(path))
const gguf = options.gguf === undefined ? undefined : resolve(options.gguf)
for (const path of [libraryA, libraryB, model, gguf ?? model]) {
  if (!existsSync(path)) fail(`there is no ${path}`)
}
if (statSync(libraryB).isDirectory() !== (gguf !== undefined)) {
  fail('--gguf goes with a directory of llama.cpp for B, and such a directory with --gguf')
}
options['chunk-b'] ??= gguf ? CHUNK.llama : CHUNK.library
const counts = Object.fromEntries(
  ['threads', 'pairs', 'decode', 'prefill', 'chunk-a', 'chunk-b'].map(name => [name, count(name)]),
)
for (const chunk of ['chunk-a', 'chunk-b']) {
  // A shorter last chunk would be measured with what some libraries prepare for each new length.
  if (counts[chunk] < counts.prefill && counts.prefill % counts[chunk] !== 0) {
    fail(`--prefill must be a multiple of --${chunk}`)
  }
}

const { perToken, embedding } = weights()
const directory = mkdtempSync(join(tmpdir(), 'side-by-side-'))
process.on('exit', () => rmSync(directory, { recursive: true }))
measureAll()

function measureAll() {
  const worker = compile('side_by_side.c', ['-O2', '-ldl'])
  // For this very processor: the widest loads that it has.
  const native = process.arch === 'arm64' ? '-mcpu=native' : '-march=native'
  const reader = compile('side_by_side_memory.c', ['-O3', native, '-pthread'])
  const sides = {
    a: { library: libraryA, chunk: counts['chunk-a'], env: environment(options['env-a']) },
    b: { library: libraryB, chunk: counts['chunk-b'], env: environment(options['env-b']) },
  }
  warm(model)
  if (gguf) warm(gguf)
  const pairs = []
  for (let pair = 0; pair < counts.pairs; pair++) {
    const [first, second] = pair % 2 === 0 ? ['a', 'b'] : ['b', 'a']
    const one = side => (side === 'b' && gguf ? measureLlama(sides.b) : measure(worker, side, sides[side]))
    const found = { [first]: one(first) }
    const memory = read(reader)
    found[second] = one(second)
    pairs.push({ a: found.a, b: found.b, memory })
    if (!options.json) process.stderr.write(`\rpair ${pair + 1} of ${counts.pairs}`)
  }
  if (!options.json) process.stderr.write('\r\x1b[K')
  report(pairs, largestDifference(logits('a'), logits('b')))
}

/** Reads the file once, so that no run has to wait for the disk. */
function warm(path) {
  const file = openSync(path)
  const buffer = Buffer.alloc(1 << 20)
  while (readSync(file, buffer) > 0);
  closeSync(file)
}

/** One run of one library. */
function measure(worker, side, { library, chunk, env }) {
  const args = [library, model, counts.threads, counts.decode, counts.prefill, chunk, join(directory, side)]
  return run(library, worker, args, env)
}

/** One run of llama.cpp. */
function measureLlama({ library, chunk, env }) {
  const program = fileURLToPath(new URL('llama_speed.py', import.meta.url))
  const args = [program, gguf, counts.threads, counts.decode, counts.prefill, chunk, join(directory, 'b')]
  return run(library, options.python, args, { LLAMA_CPP_LIB_PATH: library, ...env })
}

/**
 * One run of the threads that only read what decoding has to read; `decode` is how many tokens a second that
 * would be.
 */
function read(reader) {
  const args = [model, counts.threads, counts.decode, embedding.begin, embedding.end]
  const { bytesPerSecond } = run('reading the weights', reader, args)
  return { decode: bytesPerSecond / perToken, bytesPerSecond }
}

/** What a program found. */
function run(name, program, args, env) {
  const { status, signal, stdout, stderr, error } = spawnSync(program, args.map(String), {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  if (error) fail(error.message)
  if (status !== 0) fail(`${name} ended with ${signal ?? status}\n${stderr}`)
  // A library may have printed something of its own before.
  return JSON.parse(stdout.trim().split('\n').at(-1))
}

function report(pairs, difference) {
  const megabytes = statSync(model).size / 1e6
  // What llama.cpp says of the instruction sets that it was built for.
  const system = pairs[0].b.system
  const quantities = [
    { name: 'decode', unit: 'tokens/s', faster: 1 },
    { name: 'prefill', unit: 'tokens/s', faster: 1 },
    { name: 'load', unit: 's', faster: -1 },
    { name: 'firstToken', unit: 's', faster: -1 },
    { name: 'peakMiB', unit: 'MiB', faster: -1 },
  ].map(({ name, unit, faster }) => {
    return {
      name,
      unit,
      a: median(pairs.map(({ a }) => a[name])),
      b: median(pairs.map(({ b }) => b[name])),
      ...spread(pairs.map(({ a, b }) => (a[name] / b[name]) ** faster)),
    }
  })
  const memory = {
    bytesPerToken: perToken,
    mayBeCached: perToken < MAY_BE_CACHED,
    decode: median(pairs.map(({ memory }) => memory.decode)),
    gigabytesPerSecond: median(pairs.map(({ memory }) => memory.bytesPerSecond / 1e9)),
    shareA: spread(pairs.map(({ a, memory }) => a.decode / memory.decode)),
    shareB: spread(pairs.map(({ b, memory }) => b.decode / memory.decode)),
    overB: spread(pairs.map(({ b, memory }) => memory.decode / b.decode)),
  }
  if (options.json) {
    const variables = { 'env-a': options['env-a'], 'env-b': options['env-b'] }
    const settings = { a: libraryA, b: libraryB, model, gguf, megabytes, ...counts, ...variables }
    console.log(JSON.stringify({ ...settings, difference, quantities, memory, pairs }))
    return
  }
  console.log([`A ${libraryA}`, ...options['env-a']].join(' '))
  console.log([`B ${libraryB}`, ...options['env-b']].join(' '))
  if (system) console.log(system)
  console.log(`${model}, ${megabytes.toFixed(0)} MB; ${counts.threads} threads, ${counts.pairs} pairs`)
  console.log(`${'median'.padEnd(22)}${'A'.padStart(10)}${'B'.padStart(10)}   A over B`)
  for (const { name, unit, a, b, ...ratio } of quantities) {
    const label = `${name === 'peakMiB' ? 'peak memory' : name === 'firstToken' ? 'to first token' : name}, ${unit}`
    console.log(`${label.padEnd(22)}${digits(a).padStart(10)}${digits(b).padStart(10)}   ${times(ratio)}`)
  }
  reportMemory(memory)
  console.log(`largest difference of the logits after ${counts.prefill} tokens: ${difference.toExponential(1)}`)
}

/** How near decoding came to the bound. */
function reportMemory({ bytesPerToken, mayBeCached, decode, gigabytesPerSecond, shareA, shareB, overB }) {
  const percent = ({ ratio }) => `${(100 * ratio).toFixed(0)} %`
  const label = 'memory, tokens/s'.padEnd(22)
  const speed = `${digits(bytesPerToken / 1e6)} MB a token at ${digits(gigabytesPerSecond)} GB/s, only read`
  console.log(`${label}${digits(decode).padStart(10)}${' '.repeat(10)}   ${speed}`)
  console.log(`${'decode, share of it'.padEnd(22)}${percent(shareA).padStart(10)}${percent(shareB).padStart(10)}`)
  console.log(`the most that any program could decode, over B: ${times(overB)}`)
  if (mayBeCached) {
    console.log('so few bytes may stay in the last cache: then the bound is one of the caches, not of memory')
  }
}

/** A program in C of this directory, compiled. */
function compile(name, flags) {
  const program = join(directory, name.replace('.c', ''))
  const source = fileURLToPath(new URL(name, import.meta.url))
  const compiler = process.env.CC ?? 'cc'
  const args = ['-Wall', source, '-o', program, ...flags]
  const { status, stderr, error } = spawnSync(compiler, args, { encoding: 'utf8' })
  if (error) fail(`cannot run the C compiler ${compiler}: ${error.message}; install one, or set CC`)
  if (status !== 0) fail(stderr)
  return program
}

function logits(side) {
  const bytes = readFileSync(join(directory, side))
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
}

function largestDifference(x, y) {
  if (x.length !== y.length) fail(`A has ${x.length} logits, B ${y.length}`)
  return x.reduce((largest, value, i) => Math.max(largest, Math.abs(value - y[i])), 0)
}

/** The median of what the pairs found, the least and the greatest. */
function spread(ratios) {
  return { ratio: median(ratios), least: Math.min(...ratios), greatest: Math.max(...ratios) }
}

function times({ ratio, least, greatest }) {
  return `${ratio.toFixed(2)}× (${least.toFixed(2)}–${greatest.toFixed(2)})`
}

function median(values) {
  const sorted = values.toSorted((x, y) => x - y)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Three digits, and all those before the point. */
function digits(value) {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

function weights() {
  try {
    return tokenBytes(model)
  } catch (error) {
    return fail(error.message)
  }
}

function environment(settings) {
  return Object.fromEntries(
    settings.map(setting => {
      const at = setting.indexOf('=')
      if (at < 1) fail(`${setting} is not NAME=VALUE`)
      return [setting.slice(0, at), setting.slice(at + 1)]
    }),
  )
}

function count(name) {
  const value = Number(options[name])
  if (!Number.isInteger(value) || value < 1) fail(`--${name} must be a number from 1 up`)
  return value
}

function parse() {
  const string = value => ({ type: 'string', default: value })
  const list = { type: 'string', multiple: true, default: [] }
  const options = {
    threads: string('2'),
    pairs: string('5'),
    decode: string('64'),
    prefill: string('256'),
    'chunk-a': string('256'),
    'chunk-b': { type: 'string' },
    'env-a': list,
    'env-b': list,
    gguf: { type: 'string' },
    python: string('python3'),
    json: { type: 'boolean', default: false },
  }
  try {
    const parsed = parseArgs({ options, allowPositionals: true })
    if (parsed.positionals.length === 3) return parsed
  } catch (error) {
    console.error(error.message)
  }
  fail(usage)
}

function fail(message) {
  console.error(message)
  process.exit(1)
}

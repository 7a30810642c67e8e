// What kills.mjs and its full disks share: the runs, one life of one of them, and what has to be true of a
// run's directory after each life and at the end.

import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, watch } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { crc32 } from 'node:zlib'

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

/** Every so many tokens the validation text is cut, as training does it. */
const ctxLen = '32'
const shape = ['--n-layer', '2', '--n-embd', '96']
// Some validations are at the step of a checkpoint (12, 24, …), and some are not; nor are all checkpoints.
const intervals = ['--eval-interval', '4', '--checkpoint-interval', '6']

/** Kinds of run: how one begins, and the file that it leaves. `base` is the directory of a whole plain run. */
export const kinds = {
  plain: { begin: () => shape, file: 'model.bin' },
  muon: { begin: () => [...shape, '--optimizer', 'muon'], file: 'model.bin' },
  lora: { begin: base => ['--from', base, '--lora-rank', '4'], file: 'lora.safetensors' },
}

/** What is the same for all lives of a run: its kind, its text, its steps, and the model that it starts from. */
export class Proof {
  constructor({ kind, book, validation, steps, base }) {
    Object.assign(this, { kind, book, validation, steps, base })
    this.file = kinds[kind].file
  }

  /**
   * Begins the run or goes on with it. `kill`, given, is called with what can be seen of the process, and the
   * process is killed when it comes back. Returns whether the run came to its end, and the error if it ended
   * with one.
   */
  async life(run, kill) {
    const args = existsSync(join(run, 'config.json'))
      ? ['--resume', run]
      : ['--data', this.book, '--out', run, '--ctx-len', ctxLen, '--batch-size', '4'].concat(
          kinds[this.kind].begin(this.base),
        )
    const all = ['train', ...args, ...intervals, '--max-steps', `${this.steps}`, '--threads', '2', '--json']
    const child = spawn(process.execPath, [cli, ...all])
    let [error, told] = ['', '']
    child.stderr.on('data', data => {
      error += data
    })
    child.stdout.on('data', data => {
      told += data
    })
    const first = new Promise(resolve => child.stdout.once('data', resolve))
    const end = new Promise(resolve => child.on('close', (code, signal) => resolve({ code, signal })))
    if (kill) {
      const ended = new AbortController()
      end.then(() => ended.abort())
      await Promise.race([kill({ first, run, ended: ended.signal }), end])
      if (!ended.signal.aborted) child.kill('SIGKILL')
    }
    const { code, signal } = await end
    // With --json an error is the last object.
    if (code) error += told.trim().split('\n').at(-1)
    return { isKilled: signal === 'SIGKILL', isDone: code === 0, code: code ?? signal, error }
  }

  /**
   * What is wrong with the file that the run has left by now; undefined if nothing is, or if there is none: of
   * that very file something is said, and if that is a validation loss, then the file has it.
   */
  async fault(run) {
    const path = join(run, this.file)
    if (!existsSync(path)) return undefined
    const bytes = readFileSync(path)
    let results
    try {
      ;({ results } = JSON.parse(readFileSync(join(run, 'result.json'), 'utf8')))
    } catch (error) {
      return `there is ${this.file}, and result.json cannot be read: ${error.message}`
    }
    const entry = results.find(
      it => it.bytes === bytes.length && it.crc32 === crc32(bytes) && it.file === this.file,
    )
    if (entry === undefined) return `no entry of result.json is of ${this.file}: ${JSON.stringify(results)}`
    if (entry.valLoss === null) return undefined
    const model = this.kind === 'lora' ? [this.base, '--lora', run] : [run]
    const { code, out, error } = await command(
      'eval',
      ...[...model, '--data', this.validation, '--ctx-len', ctxLen, '--threads', '2', '--json'],
    )
    if (code !== 0) return `rwkv eval ended with ${code}: ${error}`
    const { loss } = JSON.parse(out)
    if (Math.abs(loss - entry.valLoss) <= 1e-6 * entry.valLoss) return undefined
    return `result.json says of step ${entry.step} ${entry.valLoss}, and rwkv eval ${loss}`
  }

  /** What has to be the same at the end: not times, nor checksums over times. */
  result(run) {
    const checkpoint = join(run, `checkpoint-${this.steps}`)
    const floats = readdirSync(checkpoint).filter(name => name.endsWith('.f32'))
    if (floats.length !== 3) throw new Error(`${checkpoint} has ${floats.join(', ')}`)
    const paths = [this.file, 'result.json', 'config.json', 'tokenizer.json']
    const files = [...paths, ...floats.map(name => join(`checkpoint-${this.steps}`, name))]
    const read = Object.fromEntries(
      files.map(name => [name, readFileSync(join(run, name)).toString('base64')]),
    )
    const {
      seconds: _,
      crc32: __,
      ...manifest
    } = JSON.parse(readFileSync(join(checkpoint, 'checkpoint.json'), 'utf8'))
    const log = lines(run, 'log.jsonl').map(({ seconds: _, clock: __, ...line }) => line)
    return { ...read, 'checkpoint.json': manifest, 'log.jsonl': log, 'report.html': figures(run) }
  }
}

/**
 * The names of what differs between what a run has left and one without a break. A sample that was not written
 * when the process was killed is none that it has to have; but it has no other.
 */
export function differing(proof, run, whole) {
  const [a, b] = [proof.result(run), proof.result(whole)]
  const names = Object.keys({ ...a, ...b }).filter(name => !isDeepStrictEqual(a[name], b[name]))
  const samples = lines(whole, 'samples.jsonl')
  const isKnown = sample => samples.some(other => isDeepStrictEqual(sample, other))
  return lines(run, 'samples.jsonl').every(isKnown) ? names : [...names, 'samples.jsonl']
}

/** What the report says of the run in words and figures, but for times. */
function figures(run) {
  const page = readFileSync(join(run, 'report.html'), 'utf8')
  const [lead] = /<p class="lead">.*/.exec(page) ?? ['no lead']
  const all = page.match(/<div><span>.*<\/div>/g) ?? []
  return [lead, ...all.filter(figure => !/<span>(Tokens a second|Time)</.test(figure))]
}

function lines(run, name) {
  const file = join(run, name)
  if (!existsSync(file)) return []
  return readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
}

function command(...args) {
  const child = spawn(process.execPath, [cli, ...args])
  let [out, error] = ['', '']
  child.stdout.on('data', data => {
    out += data
  })
  child.stderr.on('data', data => {
    error += data
  })
  return new Promise(resolve => child.on('close', code => resolve({ code, out, error })))
}

/**
 * When to kill, by the name of the way: counted from the start of the process, from its first step, from a name
 * that appears or changes in the run's directory, or from the line of a validation in its log. Of the last two
 * there are some in every life, and what follows them within milliseconds is a save.
 */
export const moments = {
  start: random => () => wait(random() * 1200),
  step:
    random =>
    async ({ first }) => {
      await first
      await wait(random() * 800)
    },
  name: random => seen => {
    // Model, record (twice), checkpoint, samples and report make some ten names a save.
    let left = 1 + Math.floor(random() * 40)
    const later = random() < 0.5 ? 0 : random() * 12
    return when(seen, name => name !== 'log.jsonl' && --left <= 0, later)
  },
  validation: random => seen => {
    let left = 1 + Math.floor(random() * 4)
    const later = random() * 15
    const isThere = name => {
      if (name !== 'log.jsonl') return false
      const [last] = readFileSync(join(seen.run, name), 'utf8').trimEnd().split('\n').slice(-1)
      return last.includes('"valLoss"') && --left <= 0
    }
    return when(seen, isThere, later)
  },
}

/** `later` milliseconds after the first change in the run's directory of which `is` is true. */
async function when({ run, ended }, is, later) {
  const watcher = watch(run, { signal: ended })
  await new Promise(resolve => {
    watcher.on('change', (_, name) => {
      try {
        if (is(name)) resolve()
      } catch {
        // What was there is not there any more.
      }
    })
    // Without it the end of the process would be an error of the watcher.
    watcher.on('error', () => {})
  })
  if (later > 0) await wait(later)
  watcher.close()
}

/**
 * Sentences of words in a pattern that does not repeat soon. `isOther`: half of the words are others of the
 * same letters, which a model that knows the first ones has to learn.
 */
export function text(isOther) {
  const known = 'whale ship sea captain harpoon storm sail night the and under'.split(' ')
  const words = isOther
    ? known.map((word, index) => (index % 2 ? word : [...word].reverse().join('')))
    : known
  const random = numbers(7)
  const sentence = () => Array.from({ length: 9 }, () => words[Math.floor(random() * words.length)]).join(' ')
  return Array.from({ length: 400 }, sentence).join('.\n')
}

/** Numbers from 0 to 1 that follow from a seed (mulberry32). */
export function numbers(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { RwkvError } from '../src/index.js'

// What tests with random programs share. RWKV_RUNS multiplies the number of runs, RWKV_SEED repeats those of
// a failure.

const times = Number(process.env.RWKV_RUNS ?? 1)

/** The start of the random numbers; in the names of the tests, so that a failure tells it. */
export const seed = Number(process.env.RWKV_SEED ?? Math.trunc(Math.random() * 2 ** 31))

/** Parameters of `fc.assert`. */
export function runs(count: number) {
  return { seed, numRuns: Math.ceil(count * times) }
}

/** How long a test may take, in milliseconds. */
export const timeout = 1_800_000 * Math.max(1, times)

/** How long a single call may take, in milliseconds: far longer than any should, however busy the machine. */
const LIMIT = 600_000

const codes = [
  ...['INVALID_OPTION', 'TOKEN_OUT_OF_RANGE', 'STATE', 'TOKENIZER', 'UNKNOWN_CHARACTER', 'INVALID_UTF8'],
  ...['MODEL_FILE', 'UNSUPPORTED', 'DATA', 'RUN', 'IO', 'CLOSED', 'BUSY', 'ADAPTER'],
]

/** Fails unless `error` is one that the documentation knows, and says something of its own. */
export function expectDocumented(error: unknown): asserts error is RwkvError {
  if (!(error instanceof RwkvError)) throw error
  expect(codes, error.message).toContain(error.code)
  expect(error.message).not.toMatch(/napi|a fault in rwkv|^$/)
}

/** Waits for something, but not for ever. */
export async function within<T>(promise: Promise<T>): Promise<T> {
  const timer = new AbortController()
  const late = sleep(LIMIT, undefined, { signal: timer.signal }).then(() => {
    throw new Error('it hangs')
  })
  late.catch(() => {})
  try {
    return await Promise.race([promise, late])
  } finally {
    timer.abort()
  }
}

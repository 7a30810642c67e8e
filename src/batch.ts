import { onAbort } from './cancel.js'
import { RwkvError } from './errors.js'
import type { Model } from './model.js'
import type { GenerateBatchOptions, GenerateResult } from './options.js'

/** Writes on after each prompt, in some sessions at a time. */
export async function generateBatch(
  model: Model,
  prompts: readonly string[],
  { sessions = 32, signal, onProgress, seed, ...how }: GenerateBatchOptions,
): Promise<GenerateResult[]> {
  signal?.throwIfAborted()
  const last = (seed ?? 0) + prompts.length - 1
  if (!Number.isSafeInteger(last)) {
    const wanted = `at most 2^53 − ${prompts.length}: it counts up with each text`
    throw new RwkvError('INVALID_OPTION', `seed is ${seed}; it must be ${wanted}`)
  }
  const results: GenerateResult[] = []
  const stop = new AbortController()
  const forget = signal && onAbort(signal, () => stop.abort(signal.reason))
  let done = 0
  // One report at a time; one that fails stops the work.
  let told: Promise<unknown> = Promise.resolve()
  const write = async (i: number) => {
    using session = model.createSession()
    const own = seed === undefined ? {} : { seed: seed + i }
    results[i] = await session.generate(prompts[i] ?? '', { ...how, ...own, signal: stop.signal }).result()
    done++
    const progress = { done, total: prompts.length }
    told = told.then(() => onProgress?.(progress))
    await told
  }
  try {
    await someAtATime(prompts.length, sessions, write)
    return results
  } catch (error) {
    // Nobody waits for the others now.
    stop.abort(error)
    throw error
  } finally {
    forget?.()
  }
}

/** Does `work` for each index below `count`, in their order, `most` of them at a time. */
export async function someAtATime(
  count: number,
  most: number,
  work: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0
  const some = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: Math.min(count, most) }, some))
}

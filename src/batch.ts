import type { Model } from './model.js'
import type { GenerateBatchOptions, GenerateResult } from './options.js'

/** Writes on after each prompt, in some sessions at a time. */
export async function generateBatch(
  model: Model,
  prompts: readonly string[],
  { sessions = 32, signal, onProgress, seed, ...how }: GenerateBatchOptions,
): Promise<GenerateResult[]> {
  signal?.throwIfAborted()
  const results: GenerateResult[] = []
  const next = prompts.entries()
  const stop = new AbortController()
  const giveUp = () => stop.abort(signal?.reason)
  signal?.addEventListener('abort', giveUp, { once: true })
  let done = 0
  const write = async () => {
    for (const [i, prompt] of next) {
      using session = model.createSession()
      const own = seed === undefined ? {} : { seed: seed + i }
      results[i] = await session.generate(prompt, { ...how, ...own, signal: stop.signal }).result()
      done++
      onProgress?.({ done, total: prompts.length })
    }
  }
  try {
    await Promise.all(Array.from({ length: Math.min(sessions, prompts.length) }, write))
    return results
  } catch (error) {
    // Nobody waits for the others now.
    stop.abort(error)
    throw error
  } finally {
    signal?.removeEventListener('abort', giveUp)
  }
}

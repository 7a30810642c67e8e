import { Cancel } from '#native'
import { isAborted, RwkvError, toRwkvError } from './errors.js'
import type { Progress } from './options.js'

/** How long a job runs between two reports of its progress, in milliseconds. */
const REPORT_EVERY = 100

/** Work under way: a process that ends waits for its threads, so at its end they are told to stop. */
const underWay = new Set<Cancel>()
process.once('exit', () => {
  for (const cancel of underWay) cancel.raise()
})

/** What can be said to native work while it runs. */
export interface Controls {
  signal?: AbortSignal | undefined
  onProgress?: ((progress: Progress) => void) | undefined
}

/**
 * Runs native work that an `AbortSignal` can stop.
 *
 * The signal raises a flag that the work looks at between two pieces of itself. If it stopped for that, the promise
 * rejects with the signal's reason, as `fetch` does; a work that had finished by then still counts as done.
 */
export async function cancellable<T>(controls: Controls, work: (cancel: Cancel) => Promise<T>): Promise<T> {
  const { signal, onProgress } = controls
  signal?.throwIfAborted()
  const cancel = new Cancel()
  const raise = () => cancel.raise()
  const report = () => cancel.total > 0 && onProgress?.({ done: cancel.done, total: cancel.total })
  signal?.addEventListener('abort', raise, { once: true })
  const timer = onProgress && setInterval(report, REPORT_EVERY)
  underWay.add(cancel)
  try {
    const result = await work(cancel)
    report()
    return result
  } catch (error) {
    if (!isAborted(error)) throw toRwkvError(error)
    if (signal?.aborted) throw signal.reason
    // Nobody else raises the flag but `close()`.
    throw new RwkvError('CLOSED', 'it was closed while at work')
  } finally {
    underWay.delete(cancel)
    clearInterval(timer)
    signal?.removeEventListener('abort', raise)
  }
}

import { Cancel } from '#native'
import { isAborted, RwkvError, toRwkvError } from './errors.js'
import type { Progress, Signal } from './options.js'

/** How long a job runs between two reports of its progress, in milliseconds. */
const REPORT_EVERY = 100

/** Work under way: a process that ends waits for its threads, so at its end they are told to stop. */
const underWay = new Set<Cancel>()
process.once('exit', () => {
  for (const cancel of underWay) cancel.raise()
})

/** What can be said to native work while it runs. */
export interface Controls {
  signal?: Signal | undefined
  onProgress?: ((progress: Progress) => void) | undefined
  /** Aborted when what the work is done with is closed. */
  closing?: Signal | undefined
}

/** The callbacks of a signal, and the one listener that calls them. */
interface Listener {
  readonly callbacks: Set<() => void>
  readonly tell: () => void
}

const listeners = new WeakMap<Signal, Listener>()

/**
 * Has `callback` called when `signal` is aborted, until the function that is returned is called.
 *
 * A signal gets one listener, however many calls it is given to: of more than ten Node warns that they leak.
 */
export function onAbort(signal: Signal, callback: () => void): () => void {
  const { callbacks, tell } = listeners.get(signal) ?? listen(signal)
  callbacks.add(callback)
  return () => {
    callbacks.delete(callback)
    if (callbacks.size > 0) return
    signal.removeEventListener('abort', tell)
    listeners.delete(signal)
  }
}

function listen(signal: Signal): Listener {
  const callbacks = new Set<() => void>()
  const tell = () => {
    for (const callback of callbacks) callback()
  }
  const listener = { callbacks, tell }
  signal.addEventListener('abort', tell, { once: true })
  listeners.set(signal, listener)
  return listener
}

/**
 * Runs native work that an `AbortSignal` can stop.
 *
 * The signal raises a flag that the work looks at between two pieces of itself. If it stopped for that, the
 * promise rejects with the signal's reason, as `fetch` does; a work that had finished by then still counts as
 * done. A callback that throws stops the work too, and the promise rejects with what it threw. Work that is
 * done waits for the callback's promises, until the signal is aborted or what it worked with is closed.
 */
export async function cancellable<T>(controls: Controls, work: (cancel: Cancel) => Promise<T>): Promise<T> {
  const { signal, onProgress, closing } = controls
  signal?.throwIfAborted()
  const cancel = new Cancel()
  const raise = () => cancel.raise()
  const reports = onProgress && new Reports(onProgress, cancel)
  const forget = signal && onAbort(signal, raise)
  const timer = reports && setInterval(() => reports.tell(), REPORT_EVERY)
  underWay.add(cancel)
  try {
    const result = await work(cancel)
    await reports?.finish(signal, closing)
    return result
  } catch (error) {
    if (reports?.failure) throw reports.failure.error
    if (!isAborted(error)) throw toRwkvError(error)
    if (signal?.aborted) throw signal.reason
    // The flag was raised by `close()`: by nothing else, except where a process ends and nobody hears of it.
    throw new RwkvError('CLOSED', 'it was closed while at work')
  } finally {
    underWay.delete(cancel)
    clearInterval(timer)
    forget?.()
  }
}

/** Waits for a promise that does not reject, but no longer than until one of the signals is aborted. */
async function orAborted(
  wait: Promise<void> | undefined,
  signals: readonly (Signal | undefined)[],
): Promise<void> {
  if (!wait || signals.some(signal => signal?.aborted)) return
  let stop = () => {}
  const stopped = new Promise<void>(resolve => {
    stop = resolve
  })
  const forget = signals.map(signal => signal && onAbort(signal, stop))
  await Promise.race([wait, stopped])
  for (const each of forget) each?.()
}

/**
 * Tells a callback how far work is. If the callback fails, at once or in a promise that it returns, the work
 * is stopped.
 */
class Reports {
  readonly #callback: (progress: Progress) => unknown
  readonly #cancel: Cancel
  /** What the callback does with an earlier report, if it does that asynchronously. */
  #earlier: Promise<void> | undefined
  /** What the callback threw. */
  failure: { error: unknown } | undefined

  constructor(callback: (progress: Progress) => unknown, cancel: Cancel) {
    this.#callback = callback
    this.#cancel = cancel
  }

  /** Reports, unless nothing is known yet or the callback is still busy. */
  tell(): void {
    const { done, total } = this.#cancel
    if (total === 0 || this.failure || this.#earlier) return
    try {
      const result = this.#callback({ done, total })
      if (!isThenable(result)) return
      this.#earlier = Promise.resolve(result).then(
        () => {
          this.#earlier = undefined
        },
        error => this.#fail(error),
      )
    } catch (error) {
      this.#fail(error)
    }
  }

  /**
   * Reports the end, once the callback is done with the earlier report, and throws if any of the reports
   * failed. It waits for the callback until one of the signals is aborted.
   */
  async finish(...signals: (Signal | undefined)[]): Promise<void> {
    await orAborted(this.#earlier, signals)
    this.tell()
    await orAborted(this.#earlier, signals)
    if (this.failure) throw this.failure.error
  }

  #fail(error: unknown): void {
    this.#earlier = undefined
    this.failure ??= { error }
    this.#cancel.raise()
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | undefined)?.then === 'function'
}

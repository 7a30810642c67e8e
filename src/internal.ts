import { RwkvError } from './errors.js'

/** The key under which a class hands its native side to its neighbours, and to nobody else. @internal */
export const native: unique symbol = Symbol('rwkv.native')

/** Calls that are under way, for a disposal to wait for. */
export class Pending {
  readonly #calls = new Set<Promise<unknown>>()
  readonly #closing = new AbortController()

  /** Aborted once what the calls work with is closed. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  /** Tells the calls that what they work with is closed. */
  close(): void {
    this.#closing.abort()
  }

  /** Remembers a call until it ends. */
  async track<T>(call: Promise<T>): Promise<T> {
    this.#calls.add(call)
    try {
      return await call
    } finally {
      this.#calls.delete(call)
    }
  }

  /** Waits until all of them have ended, well or badly. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#calls)
  }
}

/** Sees to it that something does one thing at a time, from a call until its promise is settled. */
export class Turn {
  readonly #what: string
  readonly #isClosed: () => boolean
  #isTaken = false

  /** @param what What it is, for messages: `session`, `trainer`. */
  constructor(what: string, isClosed: () => boolean) {
    this.#what = what
    this.#isClosed = isClosed
  }

  /** @throws {RwkvError} `CLOSED` or `BUSY`. */
  check(): void {
    const what = this.#what
    if (this.#isClosed()) throw new RwkvError('CLOSED', `this ${what} is closed`)
    if (this.#isTaken) {
      throw new RwkvError(
        'BUSY',
        `this ${what} is still at work: wait for the earlier call, or use another ${what}`,
      )
    }
  }

  /** Does `work` unless something else is being done. */
  async take<T>(work: () => Promise<T>): Promise<T> {
    this.check()
    this.#isTaken = true
    try {
      return await work()
    } finally {
      this.#isTaken = false
    }
  }
}

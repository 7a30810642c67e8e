/** The key under which a class hands its native side to its neighbours, and to nobody else. @internal */
export const native: unique symbol = Symbol('rwkv.native')

/** Calls that are under way, for a disposal to wait for. */
export class Pending {
  readonly #calls = new Set<Promise<unknown>>()

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

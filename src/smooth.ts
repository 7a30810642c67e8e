/** How much of the mean stays when a value is taken in, once there are many. */
const DECAY = 0.98

/**
 * A running mean that forgets: over some fifty values in the long run, over fewer at the start.
 *
 * Losses fall fast at first, where a mean over fifty would lag behind them; so its reach grows with what it
 * has seen.
 */
export class Smooth {
  #mean = 0
  #count = 0

  /** Takes in a value, and returns the mean with it. The first mean is the first value. */
  add(value: number): number {
    const decay = Math.min(DECAY, this.#count / (this.#count + 4))
    this.#count += 1
    this.#mean = decay * this.#mean + (1 - decay) * value
    return this.#mean
  }
}

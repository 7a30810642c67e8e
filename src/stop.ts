/** Ends a stream of text before the first of some strings, wherever the stream is cut into pieces. */
export class StopText {
  readonly #stops: readonly string[]
  /** Text that may turn out to be the beginning of a stop, so it is not given out yet. */
  #held = ''
  #isReached = false

  /** @param stop None of them is empty: every text would end before it began. */
  constructor(stop: string | readonly string[] | undefined) {
    this.#stops = stop === undefined ? [] : typeof stop === 'string' ? [stop] : [...stop]
  }

  /** Whether there is anything to look for. */
  get isWanted(): boolean {
    return this.#stops.length > 0
  }

  /** Whether one of them has come. */
  get isReached(): boolean {
    return this.#isReached
  }

  /** Takes the next piece, and returns what of the text so far can be given out. */
  take(piece: string): string {
    const text = this.#held + piece
    const found = this.#stops.map(stop => text.indexOf(stop)).filter(at => at >= 0)
    if (found.length > 0) {
      this.#isReached = true
      this.#held = ''
      return text.slice(0, Math.min(...found))
    }
    const held = Math.max(0, ...this.#stops.map(stop => overlap(text, stop)))
    this.#held = text.slice(text.length - held)
    return text.slice(0, text.length - held)
  }

  /** What is still held back, at the end of the text. */
  rest(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }
}

/** How many characters at the end of `text` are the beginning of `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length
  }
  return 0
}

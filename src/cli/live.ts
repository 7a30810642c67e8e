import { stripVTControlCharacters } from 'node:util'

/** The line at the foot of a terminal that is rewritten in place, while finished lines scroll above it. */
export class LiveLine {
  readonly #write: (text: string) => void
  readonly #columns: () => number
  #shown = false
  #nextAt = 0

  /**
   * @param write Writes to a terminal.
   * @param columns How wide the terminal is now.
   */
  constructor(write: (text: string) => void, columns: () => number) {
    this.#write = write
    this.#columns = columns
  }

  /** Shows `text`, cut to the terminal's width; ten times a second at most, for a terminal can be slow. */
  show(text: string): void {
    const now = performance.now()
    if (now < this.#nextAt) return
    this.#nextAt = now + 100
    this.#write(`\r\x1b[2K${cut(text, this.#columns())}`)
    this.#shown = true
  }

  /** Takes the line away, so that other text can be written. */
  clear(): void {
    if (this.#shown) this.#write('\r\x1b[2K')
    this.#shown = false
    this.#nextAt = 0
  }
}

/** A bar of `width` characters, `share` of it full. */
export function bar(share: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * width)
  return '━'.repeat(full) + '─'.repeat(width - full)
}

/** A line that wraps could not be rewritten: what does not fit goes, and its colours with it. */
function cut(text: string, columns: number): string {
  const plain = stripVTControlCharacters(text)
  return plain.length < columns ? text : plain.slice(0, columns - 1)
}

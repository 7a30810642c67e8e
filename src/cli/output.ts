import { WriteStream } from 'node:tty'
import { LiveLine } from './live.js'
import { type OutputError, stdout } from './stdout.js'
import { rendered, visible, visibleJson } from './visible.js'
import { Wrapping, wrap } from './wrap.js'

export { style } from './visible.js'

/** Where a verb's words go: lines for people, or with `--json` one object a line for programs. */
export class Output {
  /** Whether programs read it. */
  readonly json: boolean
  /** Whether colours may be used: on a terminal that has them, and not if `NO_COLOR` is set. */
  readonly colour: boolean
  /** Columns of the terminal; 100 where there is none. */
  readonly columns: number
  readonly #live: LiveLine | undefined
  readonly #wrapping: Wrapping | undefined
  /** The end of a piece of text, if it is that: it is not known yet what follows. */
  #carriageReturn = ''

  constructor(json: boolean) {
    const terminal =
      process.stdout instanceof WriteStream && process.stdout.isTTY ? process.stdout : undefined
    this.json = json
    // hasColors looks at NO_COLOR, FORCE_COLOR and TERM.
    this.colour = !json && (terminal?.hasColors() ?? false)
    this.columns = terminal?.columns || 100
    this.#wrapping = terminal && new Wrapping(this.columns)
    this.#live =
      json || !terminal
        ? undefined
        : new LiveLine(
            text => stdout.write(text),
            () => terminal.columns || 80,
          )
  }

  /** Whether there is a line that can be rewritten in place. */
  get isLive(): boolean {
    return this.#live !== undefined
  }

  /** A line for people; `--json` leaves it out. */
  line(text = ''): void {
    if (this.json) return
    this.#live?.clear()
    stdout.write(`${rendered(text, this.colour)}\n`)
  }

  /** Prose for people: on a terminal lines break between words, and `margin` stands before each. */
  prose(text: string, margin = ''): void {
    if (this.json) return
    const [shown, before] = [rendered(text, this.colour), rendered(margin, this.colour)]
    const lines = this.#wrapping ? wrap(shown, this.columns, before) : shown.replace(/^/gm, () => before)
    this.#live?.clear()
    stdout.write(`${lines}\n`)
  }

  /**
   * A piece of text for people: on a terminal lines break between words and control characters are written
   * out, elsewhere it stays as it is.
   */
  text(text: string): void {
    if (this.json) return
    if (!this.#wrapping) {
      stdout.write(text)
      return
    }
    const whole = this.#carriageReturn + text
    // It may be the first half of a line's end.
    this.#carriageReturn = whole.endsWith('\r') ? '\r' : ''
    const known = whole.slice(0, whole.length - this.#carriageReturn.length)
    stdout.write(this.#wrapping.push(visible(known)))
  }

  /** Shows what {@link text} writes from now on dim, or as usual again, where there are colours. */
  dim(on: boolean): void {
    if (this.json) return
    // What waits for the end of a word was written before.
    stdout.write(`${this.#wrapping?.end() ?? ''}${this.colour ? (on ? '\x1b[2m' : '\x1b[22m') : ''}`)
  }

  /** Ends a text that came in pieces. */
  endText(): void {
    if (this.json) return
    const last = this.#wrapping?.push(visible(this.#carriageReturn)) ?? ''
    this.#carriageReturn = ''
    stdout.write(`${last}${this.#wrapping?.end() ?? ''}\n`)
  }

  /** An object for programs; left out without `--json`. */
  object(value: object): void {
    if (this.json) stdout.write(`${visibleJson(value)}\n`)
  }

  /** Rewrites the live line, where there is one. */
  live(text: string): void {
    this.#live?.show(rendered(text, this.colour))
  }

  /** Takes the live line away. */
  done(): void {
    this.#live?.clear()
  }

  /** Waits until everything is written; the first write that failed, if there was one. */
  async failure(): Promise<OutputError | undefined> {
    await stdout.flush()
    return stdout.failure
  }
}

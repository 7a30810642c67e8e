import { WriteStream } from 'node:tty'
import { stripVTControlCharacters } from 'node:util'
import { LiveLine } from './live.js'
import { type OutputError, stdout } from './stdout.js'
import { Wrapping, wrap } from './wrap.js'

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
    stdout.write(`${this.colour ? text : stripVTControlCharacters(text)}\n`)
  }

  /** Prose for people: on a terminal lines break between words, and `margin` stands before each. */
  prose(text: string, margin = ''): void {
    const lines = this.#wrapping ? wrap(text, this.columns, margin) : text.replace(/^/gm, margin)
    this.line(lines)
  }

  /** A piece of text for people: on a terminal lines break between words, elsewhere it stays as it is. */
  text(text: string): void {
    if (!this.json) stdout.write(this.#wrapping?.push(text) ?? text)
  }

  /** Ends a text that came in pieces. */
  endText(): void {
    if (!this.json) stdout.write(`${this.#wrapping?.end() ?? ''}\n`)
  }

  /** An object for programs; left out without `--json`. */
  object(value: object): void {
    if (this.json) stdout.write(`${JSON.stringify(value)}\n`)
  }

  /** Rewrites the live line, where there is one. */
  live(text: string): void {
    this.#live?.show(this.colour ? text : stripVTControlCharacters(text))
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

/** `text` between two escape sequences; {@link Output} takes them out where there are no colours. */
export const style = {
  bold: (text: string) => `\x1b[1m${text}\x1b[22m`,
  dim: (text: string) => `\x1b[2m${text}\x1b[22m`,
  cyan: (text: string) => `\x1b[36m${text}\x1b[39m`,
  yellow: (text: string) => `\x1b[33m${text}\x1b[39m`,
  red: (text: string) => `\x1b[31m${text}\x1b[39m`,
}

import { stripVTControlCharacters } from 'node:util'

/**
 * Text in lines of at most `columns` characters, `margin` before each of them; it breaks at spaces, and within a
 * word only where that is longer than a line.
 */
export function wrap(text: string, columns: number, margin = ''): string {
  const wrapping = new Wrapping(columns - stripVTControlCharacters(margin).length)
  return (wrapping.push(text) + wrapping.end()).replace(/^/gm, margin)
}

/** Wraps a text that comes in pieces. */
export class Wrapping {
  readonly #columns: number
  /** Characters on the line that is written. */
  #column = 0
  /** Spaces and letters of which it is not known yet whether they fit. */
  #spaces = ''
  #word = ''

  constructor(columns: number) {
    this.#columns = Math.max(1, columns)
  }

  /** What can be written now that `text` has come. */
  push(text: string): string {
    let written = ''
    for (const character of text) {
      if (character === '\n') {
        written += `${this.end()}\n`
        this.#column = 0
      } else if (/\s/.test(character)) {
        if (this.#word !== '') written += this.#flush()
        this.#spaces += character
      } else {
        this.#word += character
        // It is longer than a line: there is nothing to wait for.
        if (this.#word.length >= this.#columns) written += this.#flush()
      }
    }
    return written
  }

  /** What is left at the end of the text, or of a line. */
  end(): string {
    return this.#flush()
  }

  #flush(): string {
    let text = this.#spaces + this.#word
    let written = ''
    // Spaces at which a line breaks are not written; those at its start are its indentation.
    if (this.#column > 0 && this.#column + text.length > this.#columns) {
      text = this.#word
      if (text !== '') {
        written = '\n'
        this.#column = 0
      }
    }
    while (text.length > this.#columns) {
      written += `${text.slice(0, this.#columns)}\n`
      text = text.slice(this.#columns)
    }
    this.#column += text.length
    this.#spaces = ''
    this.#word = ''
    return written + text
  }
}

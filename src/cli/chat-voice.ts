import { RwkvError } from '../errors.js'
import { kebab } from './format.js'
import { Output } from './output.js'
import { complain } from './stdout.js'
import { UsageError } from './usage.js'
import { inOneLine, style } from './visible.js'
import { wrap } from './wrap.js'

/**
 * What a chat says of itself. On a terminal that stands between questions and answers; elsewhere standard output has
 * the answers and nothing else, so it goes to standard error, and with `--json` only failures are told, as objects.
 */
export class Voice {
  /** Whether somebody types. */
  readonly isTerminal: boolean
  readonly #json: boolean

  constructor(json: boolean, isTerminal: boolean) {
    this.#json = json
    this.isTerminal = isTerminal
  }

  /** Standard output as it is now: a terminal may have become wider. */
  page(): Output {
    return new Output(this.#json)
  }

  /** Something by the way. */
  note(text: string): void {
    if (this.isTerminal) this.page().prose(style.dim(inOneLine(text)))
    else if (!this.#json) complain(`${inOneLine(text)}\n`)
  }

  /** Something that was asked for. */
  say(text: string): void {
    if (this.isTerminal) this.page().prose(text)
    else if (!this.#json) complain(`${text}\n`)
  }

  /** Names and what they mean, in two columns. */
  table(rows: readonly (readonly [name: string, meaning: string])[]): void {
    const width = 4 + Math.max(...rows.map(([name]) => name.length))
    const room = Math.max(20, this.page().columns - width)
    const lines = rows.map(([name, meaning]) => {
      const [first, ...others] = wrap(meaning, room).split('\n')
      const rest = others.map(line => `\n${' '.repeat(width)}${line}`).join('')
      return `  ${style.cyan(name)}${' '.repeat(width - 2 - name.length)}${first}${rest}`
    })
    // Wrapped already: colours would count as characters.
    if (this.isTerminal) this.page().line(lines.join('\n'))
    else this.say(lines.join('\n'))
  }

  /**
   * Something that failed, and what to do.
   *
   * @throws An error that is none of the user's or of the library's.
   */
  fail(error: unknown, line: string): void {
    if (!(error instanceof RwkvError || error instanceof UsageError)) throw error
    const hint = error instanceof UsageError ? error.hint : undefined
    const message = inOneLine(hint ? `${inKebab(error.message)}: ${hint}` : inKebab(error.message))
    if (this.#json) this.page().object({ event: 'error', code: error.code, message, line })
    else if (this.isTerminal) this.page().prose(`${style.red('rwkv:')} ${message}`)
    else complain(`${style.red('rwkv:')} ${message}\n`)
  }
}

/** Messages name settings as TypeScript does. */
function inKebab(message: string): string {
  return message.replace(/^(topP|topK|maxTokens)\b/, kebab)
}

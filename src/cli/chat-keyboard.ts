import { createInterface, type Interface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { complete } from './chat-commands.js'
import { stdout } from './stdout.js'
import { rendered, style } from './visible.js'

/** Has the terminal say where a text that is pasted begins and ends. */
const bracketed = { on: '\x1b[?2004h', off: '\x1b[?2004l' }

/**
 * Questions that somebody types on a terminal. What is typed while nobody asks is not shown, and is there when the
 * next question is asked for.
 */
export class Keyboard {
  /** What Ctrl-C does while nobody asks. */
  onCtrlC: () => void = () => {}
  readonly #lines: Interface
  readonly #echo: Echo
  readonly #prompts: readonly [first: string, next: string]
  /** Whether the keys come one by one, and the line is edited here: a dumb terminal does it itself. */
  readonly #isOurs = process.env.TERM !== 'dumb'
  /** Lines of a question that goes on. */
  #parts: string[] = []
  /** Questions that nobody has asked for yet. */
  #ahead: string[] = []
  #asked: ((question: string | undefined) => void) | undefined
  #isPasting = false
  #isClosed = false

  constructor(colour: boolean) {
    this.#prompts = [rendered(style.cyan('> '), colour), rendered(style.cyan('… '), colour)]
    this.#echo = new Echo(process.stdout)
    this.#lines = createInterface({
      input: process.stdin,
      output: this.#echo,
      terminal: this.#isOurs,
      completer: complete,
      removeHistoryDuplicates: true,
      historySize: 1000,
    })
    this.#lines.on('line', line => this.#take(line))
    this.#lines.on('SIGINT', () => this.ctrlC())
    this.#lines.on('close', () => this.#end())
    // After Ctrl-Z and `fg` the line editor reads on when it is told to.
    this.#lines.on('SIGCONT', () => {
      if (this.#isOurs) stdout.write(bracketed.on)
      this.#lines.resume()
    })
    // A terminal that is gone.
    process.stdin.on('error', () => this.close())
    if (!this.#isOurs) return
    process.stdin.on('keypress', (_, key?: { name?: string }) => {
      if (key?.name === 'paste-start') this.#isPasting = true
      if (key?.name === 'paste-end') this.#isPasting = false
    })
    stdout.write(bracketed.on)
  }

  /** The next question, of one line or several; undefined when somebody wants to leave. */
  read(): Promise<string | undefined> {
    const ahead = this.#ahead.shift()
    if (ahead !== undefined) {
      stdout.write(`${this.#prompts[0]}${rendered(ahead, false)}\n`)
      return Promise.resolve(ahead)
    }
    if (this.#isClosed) return Promise.resolve(undefined)
    return new Promise(resolve => {
      this.#asked = resolve
      this.#show()
    })
  }

  /** Ctrl-C: stops what is under way, or takes back what is typed, or leaves if that is nothing. */
  ctrlC(): void {
    if (!this.#asked) {
      this.onCtrlC()
      return
    }
    if (this.#lines.line === '' && this.#parts.length === 0) {
      this.close()
      return
    }
    this.#parts = []
    this.#typed()
    stdout.write('^C\n')
    this.#show()
  }

  /** Gives the terminal back. */
  close(): void {
    if (!this.#isClosed) this.#lines.close()
  }

  #take(line: string): void {
    const goesOn = !this.#isPasting && line.endsWith('\\')
    this.#parts.push(goesOn ? line.slice(0, -1) : line)
    if (goesOn || this.#isPasting) {
      if (this.#asked) this.#show()
      return
    }
    const question = this.#parts.join('\n')
    this.#parts = []
    const asked = this.#asked
    if (asked) this.#answer(asked, question)
    else this.#ahead.push(question)
  }

  #answer(asked: (question: string | undefined) => void, question: string | undefined): void {
    this.#asked = undefined
    this.#echo.isMuted = true
    asked(question)
  }

  /** The prompt, and what is typed already. */
  #show(): void {
    const typed = this.#typed()
    this.#echo.isMuted = false
    this.#lines.setPrompt(this.#prompts[this.#parts.length > 0 ? 1 : 0])
    this.#lines.prompt()
    if (typed !== '') this.#lines.write(typed)
  }

  /** Takes what is typed out of the line. */
  #typed(): string {
    const { line } = this.#lines
    this.#echo.isMuted = true
    if (line !== '') {
      // To the end, and all before that: the line is forgotten, and in which row of the terminal it ended.
      this.#lines.write('', { ctrl: true, name: 'e' })
      this.#lines.write('', { ctrl: true, name: 'u' })
    }
    return line
  }

  #end(): void {
    this.#isClosed = true
    if (this.#isOurs) stdout.write(bracketed.off)
    const asked = this.#asked
    if (!asked) return
    // The shell's prompt is to begin a line of its own.
    stdout.write('\n')
    this.#answer(asked, undefined)
  }
}

/** The terminal as the line editor sees it: it can be kept from writing. */
class Echo extends Writable {
  isMuted = true
  readonly #terminal: NodeJS.WriteStream

  constructor(terminal: NodeJS.WriteStream) {
    super({ decodeStrings: false })
    this.#terminal = terminal
    terminal.on('resize', () => this.emit('resize'))
  }

  get columns(): number {
    return this.#terminal.columns
  }

  override _write(text: string, _: string, done: () => void): void {
    if (!this.isMuted) stdout.write(text)
    done()
  }
}

import { writeSync } from 'node:fs'
import { Socket } from 'node:net'
import { getSystemErrorMap } from 'node:util'
import { rendered } from './visible.js'

/** A write to standard output that failed: a full disk, a terminal that is gone, a pipe whose reader is. */
export class OutputError extends Error {
  override readonly name = 'OutputError'
  override readonly cause: NodeJS.ErrnoException
  readonly exitCode: number

  /**
   * @param outcome What became of the work, to be said after what happened.
   * @param exitCode Another than that of a failure, if the verb had ended early for another reason before.
   */
  constructor(cause: NodeJS.ErrnoException, outcome?: string, exitCode = 1) {
    const [, reason] = getSystemErrorMap().get(cause.errno ?? 0) ?? []
    const what = `cannot write to standard output (${reason ?? cause.message})`
    super(outcome ? `${what}: ${outcome}` : what)
    this.cause = cause
    this.exitCode = exitCode
  }

  /** Whether the reader has seen enough, as in `rwkv generate … | head`. */
  get isClosedPipe(): boolean {
    return this.cause.code === 'EPIPE'
  }
}

/** Standard output. When a write fails, it says so once and leaves out all that comes after. */
class Stdout {
  readonly #stream = process.stdout
  readonly #pending = new Set<Promise<void>>()
  #failure: OutputError | undefined
  #onFailure: (failure: OutputError) => void = () => {}

  constructor() {
    this.#stream.on('error', error => this.#fail(error))
  }

  /** The first write that failed. */
  get failure(): OutputError | undefined {
    return this.#failure
  }

  /** Whom to tell when a write fails; at once if one has. */
  set onFailure(callback: (failure: OutputError) => void) {
    this.#onFailure = callback
    if (this.#failure) callback(this.#failure)
  }

  write(text: string): void {
    if (this.#failure || text === '') return
    try {
      // Node's stream for files takes a write that a full disk cut short for a whole one.
      if (!(this.#stream instanceof Socket)) writeWhole(Buffer.from(text))
      else this.#pend(this.#stream, text)
    } catch (error) {
      this.#fail(error as NodeJS.ErrnoException)
    }
  }

  /** Waits until everything is written, or a write has failed. */
  async flush(): Promise<void> {
    await Promise.all(this.#pending)
  }

  /** Pipes and terminals tell later what became of a write. */
  #pend(stream: Socket, text: string): void {
    const written = new Promise<void>(resolve => {
      stream.write(text, error => {
        if (error) this.#fail(error)
        resolve()
      })
    }).finally(() => this.#pending.delete(written))
    this.#pending.add(written)
  }

  #fail(error: NodeJS.ErrnoException): void {
    if (this.#failure) return
    this.#failure = new OutputError(error)
    this.#onFailure(this.#failure)
  }
}

function writeWhole(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(process.stdout.fd, bytes, at)
}

/** Standard output, the same for all that write to it. */
export const stdout = new Stdout()

// Where standard error is gone too, there is nobody left to tell; the exit code says it.
process.stderr.on('error', () => {})

/** Writes to standard error, with control characters written out. */
export function complain(text: string): void {
  const { stderr } = process
  try {
    stderr.write(rendered(text, stderr.isTTY && stderr.hasColors()))
  } catch {
    // As above: streams to files throw at once.
  }
}

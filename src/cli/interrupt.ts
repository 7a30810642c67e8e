import { constants } from 'node:os'
import { OutputError } from './stdout.js'

/** Why a verb is to end: the process was told to, with Ctrl-C or by another program. */
export class Interrupt extends Error {
  override readonly name = 'Interrupt'
  /** What a shell reports of a program that the signal has ended. */
  readonly exitCode: number

  constructor(signal: NodeJS.Signals) {
    super(`stopped by ${signal}`)
    this.exitCode = 128 + constants.signals[signal]
  }
}

/** Ctrl-C, a polite `kill`, a terminal that was closed; Windows has no SIGTERM, but Ctrl-Break. */
const signals: readonly NodeJS.Signals[] =
  process.platform === 'win32' ? ['SIGINT', 'SIGBREAK', 'SIGHUP'] : ['SIGINT', 'SIGTERM', 'SIGHUP']

/** Who is told of Ctrl-C instead, if anybody. */
let onCtrlC: (() => void) | undefined

/** Has Ctrl-C do something else than to end the verb; undefined has it end the verb again. */
export function takeCtrlC(handler: (() => void) | undefined): void {
  onCtrlC = handler
}

/**
 * The first signal aborts `controller` with an {@link Interrupt}, so that a verb can end well; one more ends
 * the process at once. Only signals count: Ctrl-C in `rwkv train | tee` also closes the pipe, and may do so
 * first.
 *
 * A SIGHUP never counts as the one more: of a terminal that was closed, both the shell and the kernel tell.
 */
export function heedSignals(controller: AbortController): void {
  let isFirst = true
  for (const signal of signals) {
    process.on(signal, () => {
      if (signal === 'SIGINT' && onCtrlC) {
        onCtrlC()
        return
      }
      const interrupt = new Interrupt(signal)
      if (isFirst) controller.abort(interrupt)
      else if (signal !== 'SIGHUP') process.exit(interrupt.exitCode)
      isFirst = false
    })
  }
}

/**
 * Lets the process end with an exit code when nothing is left to do.
 *
 * What SIGHUP has stopped ends by SIGHUP, which shells report as the same code: Node 20 and 22 abort in an
 * ordinary exit whose terminal is gone, because they cannot reset it (nodejs/node#58200).
 */
export function leave(code: number): void {
  process.exitCode = code
  if (process.platform === 'win32' || code !== 128 + constants.signals.SIGHUP) return
  process.removeAllListeners('SIGHUP')
  process.kill(process.pid, 'SIGHUP')
}

/** The exit code of a verb that has ended early if the signal is aborted. */
export function exitCode({ aborted, reason }: AbortSignal): number {
  if (!aborted) return 0
  if (reason instanceof Interrupt) return reason.exitCode
  // A reader that has seen enough is no error.
  return reason instanceof OutputError && reason.isClosedPipe ? 0 : 1
}

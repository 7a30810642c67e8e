import type { RwkvError } from '../errors.js'

/** What the person at the keyboard got wrong: one line, a hint, exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  readonly code = 'USAGE'
  readonly hint: string | undefined

  constructor(message: string, hint?: string) {
    super(message)
    this.hint = hint
  }
}

/** An error of the library, with what to type now. */
export class Hinted extends Error {
  override readonly name = 'Hinted'
  readonly error: RwkvError
  readonly hint: string

  constructor(error: RwkvError, hint: string) {
    super(error.message)
    this.error = error
    this.hint = hint
  }
}

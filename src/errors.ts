/** What an {@link RwkvError} can be about. Codes are stable across releases; messages are for people. */
export type ErrorCode =
  /** The operating system refused: a file, a directory, a full disk. */
  | 'IO'
  /**
   * A model file is damaged, incomplete or not a model file; the message has file, tensor and byte offset.
   */
  | 'MODEL_FILE'
  /** The file is sound but holds something that this version cannot run. */
  | 'UNSUPPORTED'
  /** A model's file was written to while it was in use: load it again. */
  | 'FILE_CHANGED'
  /** A weight or a result is infinite or not a number. */
  | 'NOT_FINITE'
  /** An option has a value that makes no sense; the message starts with the option's name. */
  | 'INVALID_OPTION'
  /** A token that the model does not have. */
  | 'TOKEN_OUT_OF_RANGE'
  /** A state that is damaged or belongs to another model. */
  | 'STATE'
  /** A LoRA adapter that is damaged, was trained on another model, or is loaded as if it were a model. */
  | 'ADAPTER'
  /** A tokenizer.json that is damaged, missing or of an unknown kind. */
  | 'TOKENIZER'
  /** A character that the model's vocabulary does not have. */
  | 'UNKNOWN_CHARACTER'
  /** A text that is not UTF-8. */
  | 'INVALID_UTF8'
  /** Data that cannot be trained on or evaluated, such as a text shorter than the context. */
  | 'DATA'
  /** A training run's directory or checkpoint that cannot be used. */
  | 'RUN'
  /** The loss became infinite or not a number. */
  | 'DIVERGED'
  /** Processes that train one model together do not fit, or cannot reach each other. */
  | 'RANKS'
  /** `RWKV_ISA` names an instruction set that this machine does not have. */
  | 'ISA'
  /** The model, session or trainer was used after `close()`. */
  | 'CLOSED'
  /** The session or trainer is still at work on an earlier call. */
  | 'BUSY'
  /** The binary for this machine is missing, or cannot be used: the message says what to do. */
  | 'INSTALL'
  /** A fault in this library: please report it. */
  | 'INTERNAL'

/**
 * Everything that goes wrong in this library, but an abort: that throws the signal's own reason.
 *
 * @example
 * ```ts
 * import { Model, RwkvError } from 'rwkv'
 *
 * try {
 *   await Model.load('no/such/model.bin')
 * } catch (error) {
 *   if (error instanceof RwkvError && error.code === 'IO') console.error(error.message)
 * }
 * ```
 */
export class RwkvError extends Error {
  /** The name of the class. */
  override readonly name = 'RwkvError'
  /** What it is about: stable, to be compared with. */
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

/** The code that the native side answers with when its cancel flag was raised; see `cancellable`. */
const ABORTED = 'ABORTED'

/** Whether the native side stopped because it was asked to. */
export function isAborted(error: unknown): boolean {
  return codeOf(error) === ABORTED
}

/**
 * The native side's errors are plain objects with a code: here they become ours. Others pass.
 *
 * Arguments are checked before they get there, so that a value which napi itself refuses, with a code in
 * mixed case, is a fault of ours.
 */
export function toRwkvError(error: unknown): unknown {
  const code = codeOf(error)
  if (code === undefined || error instanceof RwkvError) return error
  const { message } = error as Error
  if (!/[a-z]/.test(code)) return new RwkvError(code as ErrorCode, message)
  return new RwkvError('INTERNAL', `a fault in rwkv, please report it: ${message}`)
}

/** Calls into the native side; its errors come out as {@link RwkvError}. */
export function call<T>(native: () => T): T {
  try {
    return native()
  } catch (error) {
    throw toRwkvError(error)
  }
}

function codeOf(error: unknown): string | undefined {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  return typeof code === 'string' ? code : undefined
}

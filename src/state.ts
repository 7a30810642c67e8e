import { NativeModel, NativeState } from '#native'
import { call } from './errors.js'
import { native } from './internal.js'
import { argument, bytes, instance } from './kinds.js'
import type { Model } from './model.js'

/**
 * All that a model remembers of a text, at one point of it. It never changes: a session takes it up and goes on.
 *
 * It is a few KB for a small model and a few MB for a large one, and no more after a million tokens than after one.
 *
 * @example
 * ```ts
 * import { writeFile } from 'node:fs/promises'
 * import { Model } from 'rwkv'
 *
 * await using model = await Model.load('runs/book')
 * const session = model.createSession()
 * await session.prompt('It was a dark and stormy night')
 * await writeFile('night.state', session.state.toBuffer())
 * ```
 */
export class State {
  readonly #native: NativeState

  /** @internal */
  constructor(native: NativeState) {
    this.#native = native
  }

  /**
   * Reads what {@link toBuffer} wrote.
   *
   * @throws {RwkvError} `STATE` if the bytes are damaged, were made by another model, or hold what is infinite or not a
   *   number; `CLOSED`; `INVALID_OPTION` for what is no model or no bytes.
   */
  static from(model: Model, buffer: Uint8Array): State {
    argument('model', modelKind, model)
    argument('buffer', bytes, buffer)
    return new State(call(() => NativeState.from(model[native], buffer)))
  }

  /** A state of its own that holds the same. */
  clone(): State {
    return new State(this.#native)
  }

  /** Whether both are of the same model and hold the same, number by number. */
  equals(other: State): boolean {
    argument('other', stateKind, other)
    return this.#native.equals(other.#native)
  }

  /** The bytes to keep: checksummed, and refused by any other model. */
  toBuffer(): Buffer {
    return this.#native.toBuffer()
  }

  /** @internal */
  get [native](): NativeState {
    return this.#native
  }
}

const modelKind = instance<Model>('Model', NativeModel)

/** A {@link State}, as an argument. @internal */
export const stateKind = instance<State>('State', NativeState)

import { NativeModel, NativeState, placeOf } from '#native'
import { call, RwkvError } from './errors.js'
import { readRegular } from './files.js'
import type { Path } from './inputs.js'
import { native } from './internal.js'
import {
  argument,
  bytes,
  options as check,
  instance,
  kindsOf,
  path as pathKind,
  type Schema,
} from './kinds.js'
import type { Model } from './model.js'
import { stateTable } from './option-tables.js'
import type { StateOptions } from './options.js'

/**
 * A model's memory of a text, at one point of it: the recurrent state. It is immutable: a session starts from
 * a copy.
 *
 * It is a few KB for a small model and a few MB for a large one, and no more after a million tokens than
 * after one.
 *
 * @example
 * ```ts
 * import { writeFile } from 'node:fs/promises'
 * import { Model, State } from 'rwkv'
 *
 * await using model = await Model.load('runs/book')
 * const session = model.createSession()
 * await session.prompt('It was a dark and stormy night')
 * await writeFile('night.state', session.state.toBuffer())
 *
 * const later = model.createSession({ state: await State.load(model, 'night.state') })
 * await later.prompt('. ')
 * ```
 */
export class State {
  readonly #native: NativeState

  /** @internal */
  constructor(native: NativeState) {
    this.#native = native
  }

  /**
   * Reads what {@link toBuffer} wrote; with `allowOtherBase` also a `.pth` or `.safetensors` of `time_state`, as RWKV-PEFT
   * tunes it for RWKV-7, which does not say for which weights.
   *
   * @throws {RwkvError} `STATE` if the bytes are damaged, were made by another model (see
   *   {@link StateOptions.allowOtherBase}), or hold what is infinite or not a number; `CLOSED`; `INVALID_OPTION` for what is no model or no bytes.
   */
  static from(model: Model, buffer: Uint8Array, options: StateOptions = {}): State {
    argument('model', modelKind, model)
    argument('buffer', bytes, buffer)
    const { allowOtherBase } = check('State.from()', stateOptions, options)
    return new State(call(() => NativeState.from(model[native], buffer, allowOtherBase)))
  }

  /**
   * Reads a file of what {@link from} takes.
   *
   * @param path The file, or the directory of a run that tuned a state, for the `tuned.state` in it.
   * @throws {RwkvError} `IO`; what {@link from} throws, with the file's name.
   */
  static async load(model: Model, path: Path, options: StateOptions = {}): Promise<State> {
    argument('model', modelKind, model)
    const [file, buffer] = await read(argument('path', pathKind, path))
    try {
      return State.from(model, buffer, options)
    } catch (error) {
      if (!(error instanceof RwkvError) || error.code !== 'STATE') throw error
      throw new RwkvError('STATE', `${file}: ${error.message}`, { cause: error })
    }
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

  /**
   * The bytes to keep: checksummed, and refused by any other model. They name the model by a checksum of all its
   * weights, so the first state of a model that is saved, or read, takes a read of the model's file.
   */
  toBuffer(): Uint8Array {
    return this.#native.toBuffer()
  }

  /** @internal */
  get [native](): NativeState {
    return this.#native
  }
}

/** Far more than a state of any model has. */
const MOST_BYTES = 2 ** 30

/** A state's file, which is that of a run if `path` is a directory, and its bytes. */
async function read(path: string): Promise<[file: string, bytes: Uint8Array]> {
  let file = path
  try {
    file = (await placeOf(path)).state
    return [file, await readRegular(file, MOST_BYTES)]
  } catch (error) {
    throw new RwkvError('IO', `cannot read ${file}: ${(error as Error).message}`, { cause: error })
  }
}

const stateOptions: Schema<StateOptions> = kindsOf(stateTable)

const modelKind = instance<Model>('Model', () => NativeModel)

/** A {@link State}, as an argument. @internal */
export const stateKind = instance<State>('State', () => NativeState)

import { loadTable } from '../option-tables.js'
import type { Option, Options, Values } from './arguments.js'
import type { Output } from './output.js'

/** A job of the command line, and what it can be told. */
export interface Verb<O extends Options = Options> {
  readonly name: string
  /** One line for the list of verbs. */
  readonly summary: string
  /** Names of the words that are no options; dots after the last say that there can be more of it. */
  readonly positionals: readonly string[]
  readonly options: O
  /** More for its own help: what it prints, what it writes. */
  readonly details: string
  /**
   * Does the job, and returns the exit code.
   *
   * @param signal Aborted when the process is told to end, with an `Interrupt`, and when what is written does
   *   not arrive, with an `OutputError`.
   * @throws The signal's reason, if there is nothing of its own to say about it.
   */
  run(words: readonly string[], values: Values<O>, output: Output, signal: AbortSignal): Promise<number>
}

/** Keeps the names and kinds of a verb's options known to the compiler. */
export function verb<O extends Options>(definition: Verb<O>): Verb<O> {
  return definition
}

/** Options that more than one verb has. */
export const common = {
  threads: loadTable.threads,
  json: { kind: 'boolean', help: 'print JSON for programs' },
} as const satisfies Record<string, Option>

/** What a model was fine-tuned with. */
export const tuned = {
  lora: loadTable.lora,
  allowOtherBase: loadTable.allowOtherBase,
  loraAlpha: loadTable.loraAlpha,
  state: { kind: 'path', help: "state to start from: its file, or its run's directory" },
} as const satisfies Record<string, Option>

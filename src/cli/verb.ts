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
  threads: { kind: 'count', help: 'threads to compute on', auto: 'all' },
  json: { kind: 'boolean', help: 'print JSON for programs' },
} as const satisfies Record<string, Option>

/** What a model was fine-tuned with. */
export const tuned = {
  lora: { kind: 'path', value: 'PATH', help: "LoRA adapter of the model: its file, or its run's directory" },
  state: { kind: 'path', value: 'PATH', help: "state to start from: its file, or its run's directory" },
} as const satisfies Record<string, Option>

/** How the next token is chosen. */
export const sampling = {
  temperature: {
    kind: 'number',
    value: 'T',
    help: 'below 1 sharpens, above 1 flattens, 0 takes the likeliest',
    default: 1,
  },
  topK: { kind: 'count', help: 'choose among the N likeliest', auto: 'all' },
  topP: {
    kind: 'number',
    value: 'P',
    help: 'choose among the likeliest of probability P together',
    default: 1,
  },
  seed: { kind: 'count', help: 'the same seed writes the same text', auto: 'random' },
} as const satisfies Record<string, Option>

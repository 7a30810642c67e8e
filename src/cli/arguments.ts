import { parseArgs } from 'node:util'
import type { Described } from '../kinds.js'
import { suggestion } from '../suggest.js'
import { kebab } from './format.js'
import { UsageError } from './usage.js'

/** One option of a verb. Its name is the TypeScript one; on the command line it is written in kebab case. */
export interface Option extends Described {
  /** What stands for the value in the help, such as `FILE`, if not what stands for all of its kind. */
  readonly value?: string
  /** A path that may be left out: `--resume` alone is an empty one. */
  readonly optional?: true
}

/** The options that a verb knows, by their TypeScript names. */
export type Options = Readonly<Record<string, Option>>

/** The values that were given, by the same names; what was not given is absent. */
export type Values<O extends Options> = { [K in keyof O]?: ValueOf<O[K]> }

type ValueOf<O extends Option> = O extends { words: readonly (infer W)[] }
  ? W
  : {
      path: string
      text: string
      texts: string[]
      boolean: boolean
      choice: string
      count: number
      number: number
    }[O['kind']]

/**
 * Reads what follows the verb.
 *
 * @param args The words after the verb.
 * @param verb Its name, for hints.
 * @param positionals Names of the words that are no options, such as `['MODEL']`; each must be there.
 * @throws {UsageError} naming the option that is unknown, has no value or is not a number.
 */
export function readArguments<O extends Options>(
  args: readonly string[],
  verb: string,
  positionals: readonly string[],
  options: O,
): { words: string[]; values: Values<O> } {
  const byFlag = new Map(Object.entries(options).map(([name, option]) => [kebab(name), { name, option }]))
  const config = Object.fromEntries(
    [...byFlag].map(([flag, { option }]) => [
      flag,
      { type: option.kind === 'boolean' ? 'boolean' : 'string' } as const,
    ]),
  )
  const optional = [...byFlag].flatMap(([flag, { option }]) => (option.optional ? [`--${flag}`] : []))
  const prepared = attachEmpty(attachNegatives(args), optional)
  const { tokens } = parseArgs({ args: prepared, options: config, strict: false, tokens: true })
  const words: string[] = []
  const values: Record<string, unknown> = {}
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value)
    if (token.kind !== 'option') continue
    const known = token.rawName.startsWith('--') ? byFlag.get(token.name) : undefined
    if (!known)
      throw new UsageError(
        `unknown option ${token.rawName}`,
        suggestion(token.name, [...byFlag.keys()], '--'),
      )
    const value = readValue(token.rawName, known.option, token.value)
    values[known.name] = known.option.kind === 'texts' ? [values[known.name] ?? [], value].flat() : value
  }
  checkWords(words, verb, positionals)
  return { words, values: values as Values<O> }
}

function readValue(flag: string, option: Option, value: string | undefined): string | number | boolean {
  if (option.kind === 'boolean') {
    if (value !== undefined) throw new UsageError(`${flag} takes no value, but got "${value}"`)
    return true
  }
  if (value === undefined) throw new UsageError(`${flag} needs a value: ${flag} ${valueName(option)}`)
  if (option.kind === 'path' || option.kind === 'text' || option.kind === 'texts') return value
  if (option.kind === 'choice') {
    const { words = [] } = option
    if (words.includes(value)) return value
    throw new UsageError(`${flag} is "${value}"; it must be ${words.join(' or ')}`)
  }
  const number = value.trim() === '' ? Number.NaN : Number(value)
  if (!Number.isFinite(number)) throw new UsageError(`${flag} is "${value}"; it must be a number`)
  if (option.kind === 'count' && !Number.isSafeInteger(number)) {
    throw new UsageError(`${flag} is ${value}; it must be a whole number`)
  }
  return number
}

/** What stands for an option's value in messages and in the help. */
export function valueName({ kind, words = [], value }: Option): string {
  const names = {
    path: 'PATH',
    text: 'TEXT',
    texts: 'TEXT',
    choice: words.join('|'),
    count: 'N',
    number: 'X',
  }
  return value ?? (kind === 'boolean' ? '' : names[kind])
}

function checkWords(words: readonly string[], verb: string, positionals: readonly string[]): void {
  const missing = positionals[words.length]
  if (missing)
    throw new UsageError(
      `${missing} is missing`,
      `rwkv ${verb} ${positionals.join(' ')}; rwkv help ${verb} says more`,
    )
  const extra = words[positionals.length]
  if (extra !== undefined)
    throw new UsageError(`unexpected argument "${extra}"`, 'quote a value that has spaces')
}

/** `--seed -1` → `--seed=-1`: `parseArgs` would take `-1` for an option. */
function attachNegatives(args: readonly string[]): string[] {
  const attached: string[] = []
  for (const arg of args) {
    const last = attached.at(-1)
    if (/^-[.\d]/.test(arg) && last?.startsWith('--') && !last.includes('='))
      attached.splice(-1, 1, `${last}=${arg}`)
    else attached.push(arg)
  }
  return attached
}

/** `--resume --json` → `--resume= --json`: an option whose value may be left out does not take the next one for it. */
function attachEmpty(args: readonly string[], optional: readonly string[]): string[] {
  return args.map((arg, index) =>
    optional.includes(arg) && (args[index + 1] ?? '--').startsWith('--') ? `${arg}=` : arg,
  )
}

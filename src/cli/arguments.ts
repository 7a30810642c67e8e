import { type Command, type CommanderError, Option as Flag } from 'commander'
import { type Described, type ValueOf, whyNotExact } from '../kinds.js'
import { suggestion } from '../suggest.js'
import { kebab } from './format.js'
import { UsageError } from './usage.js'
import type { Verb } from './verb.js'

/** One option of a verb. Its name is the TypeScript one; on the command line it is written in kebab case. */
export interface Option extends Described {
  /** The value may be left out: the option is then true. */
  readonly optional?: true
  /** Its name in one letter. */
  readonly short?: string
}

/** The options that a verb knows, by their TypeScript names. */
export type Options = Readonly<Record<string, Option>>

/** The values that were given, by the same names; what was not given is absent. */
export type Values<O extends Options> = {
  [K in keyof O]?: ValueOf<O[K]> | (O[K] extends { optional: true } ? true : never)
}

/**
 * Adds a verb to the program, with its help.
 *
 * @param run Does the verb's job. It is given the words that are no options, as many as the verb has, and the
 *   values of those options that were given.
 */
export function addVerb(
  program: Command,
  { name, summary, positionals, options, details }: Verb,
  run: (words: string[], values: Values<Options>) => Promise<void>,
): void {
  const command = program
    .command(name)
    .summary(summary)
    .description(`${summary[0]?.toUpperCase()}${summary.slice(1)}.`)
    .helpOption('-h, --help', 'show this help')
    // They are refused below, with the word that is too many.
    .allowExcessArguments()
    .addHelpText('after', ({ command }) => wrapped(command, details))
    .action(() => {
      const isOpen = positionals.at(-1)?.endsWith('...')
      const extra = isOpen ? undefined : command.args[positionals.length]
      if (extra !== undefined)
        throw new UsageError(`unexpected argument "${extra}"`, 'quote a value that has spaces')
      return run(command.args, command.opts())
    })
  for (const word of positionals) command.argument(`<${word}>`)
  for (const [name, option] of Object.entries(options)) command.addOption(flag(name, option, options))
}

/** An option as the parser knows it. */
function flag(name: string, option: Option, all: Options): Flag {
  const { kind, value, optional, words = [] } = option
  const names = {
    path: 'PATH',
    paths: 'PATH',
    text: 'TEXT',
    texts: 'TEXT',
    choice: words.join('|'),
    count: 'N',
    number: 'X',
    biases: 'TOKEN=X',
  }
  const shown = kind === 'boolean' ? '' : optional ? ` [${value}]` : ` <${value ?? names[kind]}>`
  const short = option.short ? `-${option.short}, ` : ''
  const flag = new Flag(`${short}--${kebab(name)}${shown}`, meaning(option, all))
  if (kind === 'boolean') return flag
  const read = (given: string) => readValue(flag.long ?? name, option, given)
  if (kind === 'texts' || kind === 'paths')
    return flag.argParser((given, before: string[] = []) => [...before, given])
  if (kind === 'biases')
    return flag.argParser((given, before: Record<number, number> = {}) => ({
      ...before,
      ...readBias(flag.long ?? name, given),
    }))
  return flag.argParser(read)
}

/** What an option means, and its default; other options are named as on the command line. */
function meaning({ kind, help, auto, default: fallback = auto }: Option, all: Options): string {
  const repeated =
    kind === 'texts' || kind === 'paths' || kind === 'biases' ? '; can be given several times' : ''
  const known = fallback === undefined || fallback === false ? '' : ` (default: ${fallback})`
  const text = help + repeated + known
  return text.replace(/\b[a-z]+[A-Z]\w*/g, word => (word in all ? `--${kebab(word)}` : word))
}

/** The value of an option as it was typed; `flag` is what the option is called in messages. */
export function readValue(flag: string, { kind, words = [] }: Option, value: string): string | number {
  if (kind === 'path' && value === '') throw new UsageError(`${flag} is empty; it must be a path`)
  if (kind === 'choice' && !words.includes(value))
    throw new UsageError(`${flag} is "${value}"; it must be ${words.join(' or ')}`)
  if (kind !== 'count' && kind !== 'number') return value
  const number = value.trim() === '' ? Number.NaN : Number(value)
  if (!Number.isFinite(number)) throw new UsageError(`${flag} is "${value}"; it must be a number`)
  if (kind === 'count' && !Number.isSafeInteger(number))
    throw new UsageError(
      `${flag} is ${value}; it must be a whole number from 0 to 2^53 − 1${whyNotExact(number)}`,
    )
  return number
}

/** A token and what is added to its logit. */
function readBias(flag: string, given: string): Record<number, number> {
  const [, token, bias] = /^(\d{1,10})=(.+)$/.exec(given) ?? []
  const number = bias === '-inf' ? Number.NEGATIVE_INFINITY : Number(bias)
  if (token !== undefined && (Number.isFinite(number) || bias === '-inf')) return { [token]: number }
  throw new UsageError(`${flag} is "${given}"; it must be a token and a number, such as 42=-5 or 42=-inf`)
}

/** Paragraphs in lines of the help's width; lines that begin with a space stay as they are. */
function wrapped(command: Command, text: string): string {
  const help = command.createHelp()
  const width = command.configureOutput().getOutHelpWidth?.() ?? 80
  return help.boxWrap(text.replace(/(?<=\S)\n(?=\S)/g, ' '), width)
}

/** What is said of a command that there is not. */
export function unknownCommand(name: string, verbs: readonly Verb[]): UsageError {
  const names = verbs.map(({ name }) => name)
  const hint = suggestion(name, names) ?? `there are ${names.join(', ')} and help`
  return new UsageError(`there is no command "${name}"`, hint)
}

/**
 * What the parser refuses, in our words.
 *
 * @param verb The one that it refuses something of, if it is known.
 */
export function usageError(
  { code, message }: CommanderError,
  verbs: readonly Verb[],
  verb: Verb | undefined,
): UsageError {
  // Its messages are "error: option '--seed <N>' argument missing", with a second line that we do not need.
  const [first = ''] = message.replace(/^error: /, '').split('\n')
  const [, quoted = ''] = /'(.*)'/.exec(first) ?? []
  const [flag = '', value] = quoted.split(/[ =](.*)/)
  const flags = Object.keys(verb?.options ?? {}).map(kebab)
  switch (code) {
    case 'commander.unknownCommand':
      return unknownCommand(quoted, verbs)
    case 'commander.unknownOption':
      if (verb === undefined)
        return new UsageError(`a command comes first, before ${flag}`, 'rwkv help lists the commands')
      if (flags.includes(flag.slice(2))) return new UsageError(`${flag} takes no value, but got "${value}"`)
      return new UsageError(`unknown option ${flag}`, suggestion(flag.slice(2), flags, '--'))
    case 'commander.optionMissingArgument':
      return new UsageError(`${flag} needs a value: ${flag} ${value?.slice(1, -1)}`)
    case 'commander.missingArgument':
      return new UsageError(
        `${quoted} is missing`,
        `rwkv ${verb?.name} ${verb?.positionals.join(' ')}; rwkv help ${verb?.name} says more`,
      )
    default:
      return new UsageError(first)
  }
}

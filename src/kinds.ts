import { isUint8Array } from 'node:util/types'
import { RwkvError } from './errors.js'
import { type Input, isText, isUrl, isWhole, type Path, type Settled, toInput, toPath } from './inputs.js'
import { native } from './internal.js'
import type { Signal } from './options.js'
import { suggestion } from './suggest.js'

/** What an argument or an option can be. Programs without types can pass anything. */
export interface Kind<T> {
  /** In words, to go on from `it must be`. */
  readonly wanted: string
  /** An option that may not be left out. */
  readonly required?: true
  readonly accepts: (value: unknown) => boolean
  /** Why a value is refused, to go on from what is wanted, where that alone does not tell. */
  readonly why?: (value: unknown) => string
  /** What is made of a value that is accepted, if not the value itself. */
  readonly settle?: (name: string, value: unknown) => T
}

/** An option as the tables of options and the command line describe it. */
export interface Described {
  readonly kind: 'path' | 'paths' | 'text' | 'texts' | 'boolean' | 'choice' | 'count' | 'number' | 'biases'
  /** The words of a choice. */
  readonly words?: readonly string[]
  /** The least count, if not 0: for what would be a call that does nothing. */
  readonly min?: 1
  /** Of several texts: one can stand for an array of one. */
  readonly orOne?: true
  /** What stands for the value in the help, such as `FILE`, if not what stands for all of its kind. */
  readonly value?: string
  /** What it means, in a line. */
  readonly help: string
  /** It cannot be left out. */
  readonly required?: true
  /** What it is if it is left out. */
  readonly default?: string | number | boolean | readonly string[]
  /** What it is if it is left out, where that depends on other options or on the machine. */
  readonly auto?: string
  /** A training run that goes on can have another value than before. */
  readonly changesOnResume?: true
}

/** What an option of a table has as its value. */
export type ValueOf<O extends Described> = O extends { words: readonly (infer W)[] }
  ? W
  : ValueOfKind[O['kind']] | (O extends { orOne: true } ? string : never)

interface ValueOfKind {
  path: string
  paths: string | readonly string[]
  text: string
  texts: readonly string[]
  boolean: boolean
  choice: string
  count: number
  number: number
  biases: Readonly<Record<number, number>>
}

type Kinds<T extends Readonly<Record<string, Described>>> = { readonly [K in keyof T]: Kind<ValueOf<T[K]>> }

/** The options of one call, by name. */
export type Schema<T> = { readonly [K in keyof T]-?: Kind<Settled<Exclude<T[K], undefined>>> }

/** The options of a call once they are checked. */
type Checked<T> = { [K in keyof T]: Settled<T[K]> }

/**
 * Passes an argument that is of a kind: the path of a URL, everything else as it is.
 *
 * @throws {RwkvError} `INVALID_OPTION`, with the argument's name, what it is, and what it must be.
 */
export function argument<T>(name: string, kind: Kind<T>, value: unknown): T {
  if (kind.accepts(value)) return kind.settle ? kind.settle(name, value) : (value as T)
  throw refusal(name, describe(value), kind.wanted + (kind.why?.(value) ?? ''))
}

/**
 * Passes the options of a call, each of its kind, in a new object; those that are left out or undefined are
 * absent.
 *
 * @param call What is called, for messages: `Model.load()`.
 * @throws {RwkvError} `INVALID_OPTION` for a value that is no object of options, an option that `schema` does
 *   not know, and one that is missing or of another kind; the message starts with the option's name.
 */
export function options<T>(call: string, schema: Schema<T>, given: unknown): Checked<T> {
  const object: unknown = given === undefined ? {} : given
  if (!plainObject.accepts(object)) throw refusal('options', describeWithClass(object), plainObject.wanted)
  const values = object as Record<string, unknown>
  const kinds: Record<string, Kind<unknown>> = schema
  for (const name of Object.keys(values)) {
    if (!Object.hasOwn(kinds, name)) throw unknownOption(name, call, Object.keys(kinds))
  }
  const read: Record<string, unknown> = {}
  for (const [name, kind] of Object.entries(kinds)) {
    // Read once: what was checked is what is used.
    const value = values[name]
    if (value !== undefined) read[name] = argument(name, kind, value)
    else if (kind.required) throw refusal(name, 'missing', kind.wanted)
  }
  return read as Checked<T>
}

/** A value in a message: text in quotes, numbers as they are, everything else by what it is. */
export function describe(value: unknown): string {
  if (value === '') return 'empty'
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'bigint') return 'a bigint'
  if (typeof value === 'symbol') return 'a symbol'
  if (typeof value === 'function') return isClass(value) ? 'a class' : 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  if (Array.isArray(value)) return 'an array'
  // The class of what is built in: a promise that was not awaited says so.
  const tag = Object.prototype.toString.call(value).slice('[object '.length, -1)
  return tag === 'Object' ? 'an object' : `of type ${tag}`
}

/** As {@link describe}, for what should be a plain object: of one that is not, the class says why. */
function describeWithClass(value: unknown): string {
  const found = describe(value)
  if (found !== 'an object') return found
  const name: unknown = (value as { constructor?: { name?: unknown } }).constructor?.name
  return typeof name === 'string' && name !== ''
    ? `an object of class ${name}`
    : 'an object of a class without a name'
}

/** Whether an object's prototype is the `Object.prototype` of any realm, or none. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function refusal(name: string, found: string, wanted: string): RwkvError {
  return new RwkvError('INVALID_OPTION', `${name} is ${found}; it must be ${wanted}`)
}

function unknownOption(name: string, call: string, known: readonly string[]): RwkvError {
  const hint = suggestion(name, known) ?? `there are ${known.join(', ')}`
  return new RwkvError('INVALID_OPTION', `${name} is not an option of ${call}: ${hint}`)
}

function kind<T>(wanted: string, accepts: Kind<T>['accepts'], settle?: Kind<T>['settle']): Kind<T> {
  return settle === undefined ? { wanted, accepts } : { wanted, accepts, settle }
}

/** As `of`, for an option that may not be left out. */
export function required<T>(of: Kind<T>): Kind<T> {
  return { ...of, required: true }
}

/** A whole number that JavaScript holds exactly. Which of them make sense is asked where they are used. */
const count = whole(0)
/** As {@link count}, and not 0. */
const positive = whole(1)
export const boolean = kind<boolean>('true or false', value => typeof value === 'boolean')
export const number = kind<number>('a finite number', Number.isFinite)
export const text = kind<string>('a string', value => typeof value === 'string')
/**
 * The path of a file or a directory. An empty one would mean the current directory, which nobody has named.
 */
export const path = kind<string>('a path', isPath, (name, value) => toPath(name, value as Path))
// biome-ignore lint/suspicious/noExplicitAny: what it takes is for the interface of the options to say
export const callback = kind<(...args: any[]) => void>(
  'a function',
  // A class is a function to `typeof`, and cannot be called.
  value => typeof value === 'function' && !isClass(value),
)
export const bytes: Kind<Uint8Array> = { ...kind('a Uint8Array', isWhole), why: whyNotWhole }

/** The path of a model, or the bytes of its file. */
export const pathOrBytes: Kind<string | Uint8Array> = {
  ...kind('a path or a Uint8Array', value => isPath(value) || isWhole(value)),
  why: whyNotWhole,
  settle: (name, value) => (isUint8Array(value) ? value : toPath(name, value as Path)),
}

function whyNotWhole(value: unknown): string {
  return isUint8Array(value) ? ', and not one whose bytes were transferred to another thread' : ''
}

/** An `AbortSignal`, of whichever realm: what is used of it is what counts. */
export const signal = kind<Signal>('an AbortSignal', value => {
  if (typeof value !== 'object' || value === null) return false
  const { aborted, throwIfAborted, addEventListener, removeEventListener } = value as Signal
  const methods = [throwIfAborted, addEventListener, removeEventListener]
  return typeof aborted === 'boolean' && methods.every(method => typeof method === 'function')
})

/** One string or several, none of them empty. */
export const texts = kind<string | readonly string[]>(
  'a string or an array of strings, each of at least one character',
  value =>
    Array.from(Array.isArray(value) ? value : [value]).every(text => typeof text === 'string' && text !== ''),
)

/** The path of a file or a directory, or several. */
export const paths = kind<string | readonly string[]>(
  'a path or an array of paths',
  // A hole of an array is no path either.
  value => isPath(value) || (Array.isArray(value) && value.length > 0 && Array.from(value).every(isPath)),
  (name, value) =>
    Array.isArray(value) ? value.map(path => toPath(name, path)) : toPath(name, value as Path),
)

/** What a text is read from, or several: paths, and texts in memory. */
export const inputs: Kind<string | Uint8Array | readonly (string | Uint8Array)[]> = {
  ...kind('a path, { text }, { bytes }, or an array of these', value =>
    Array.isArray(value) ? value.length > 0 && Array.from(value).every(isInput) : isInput(value),
  ),
  settle: (name, value) =>
    Array.isArray(value) ? value.map(input => toInput(name, input)) : toInput(name, value as Input),
}

function isInput(value: unknown): boolean {
  return isPath(value) || isText(value)
}

/** Several strings, none of them empty. */
const strings = kind<readonly string[]>(
  'an array of strings, each of at least one character',
  value => Array.isArray(value) && value.every(text => typeof text === 'string' && text !== ''),
)

/** Several texts, which may be empty. */
export const textList = kind<readonly string[]>(
  'an array of strings',
  value => Array.isArray(value) && Array.from(value).every(text => typeof text === 'string'),
)

/** Numbers by token. */
const biases = kind<Readonly<Record<number, number>>>(
  'an object of tokens and numbers, such as { 42: -5 }, in which -Infinity forbids a token',
  value =>
    plainObject.accepts(value) &&
    Object.entries(value as object).every(
      ([token, bias]) =>
        /^(0|[1-9]\d{0,9})$/.test(token) && (number.accepts(bias) || bias === Number.NEGATIVE_INFINITY),
    ),
)

/** Numbers in an array, or in one of typed numbers. Which of them are tokens is asked by {@link toTokens}. */
export const numbers = kind<ArrayLike<number>>(
  'an array of tokens',
  value => Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView)),
)

/** A whole number of at least `least`. */
function whole(least: 0 | 1): Kind<number> {
  const accepts = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= least
  const of = kind<number>(`a whole number from ${least} to 2^53 − 1`, accepts)
  return { ...of, why: value => (typeof value === 'bigint' ? ', and no bigint' : whyNotExact(value)) }
}

/** Why a whole number is refused that is too large to be held exactly; nothing for what is none. */
export function whyNotExact(value: unknown): string {
  return Number.isInteger(value) && (value as number) > Number.MAX_SAFE_INTEGER
    ? `, which is ${Number.MAX_SAFE_INTEGER}: JavaScript and JSON round larger ones`
    : ''
}

/** One of a few words. */
export function oneOf<T extends string>(...words: readonly T[]): Kind<T> {
  return kind(words.join(' or '), value => words.includes(value as T))
}

/** What an option of a table can be. */
function kindOf({ kind, words = [], min, orOne }: Described): Kind<unknown> {
  const kinds: Record<Described['kind'], Kind<unknown>> = {
    path,
    paths,
    text,
    texts: orOne ? texts : strings,
    boolean,
    choice: oneOf(...words),
    count: min === 1 ? positive : count,
    number,
    biases,
  }
  return kinds[kind]
}

/** The options of a table, each of its kind. */
export function kindsOf<T extends Readonly<Record<string, Described>>>(table: T): Kinds<T> {
  const kinds = Object.entries(table).map(([name, option]) => [
    name,
    option.required ? required(kindOf(option)) : kindOf(option),
  ])
  return Object.fromEntries(kinds)
}

/** An object of one of our classes, known by its native side, which `classOf` gives once it is asked for. */
export function instance<T>(name: string, classOf: () => new (...args: never[]) => unknown): Kind<T> {
  return kind(`a ${name}`, value => {
    try {
      return (value as { [native]?: unknown })[native] instanceof classOf()
    } catch {
      // null, undefined, or something that only pretends to be of the class.
      return false
    }
  })
}

function isPath(value: unknown): boolean {
  return value !== '' && (typeof value === 'string' || isUrl(value))
}

/** Whether a function is a class: only its text tells. */
function isClass(value: object): boolean {
  return /^class\b/.test(Function.prototype.toString.call(value))
}

const plainObject = kind<Record<string, unknown>>(
  'a plain object',
  value => typeof value === 'object' && value !== null && isPlain(value),
)

/**
 * Tokens as they cross the border. A `Uint32Array` of any numbers would make 1.5 a 1 and −1 a huge one.
 *
 * @throws {RwkvError} `TOKEN_OUT_OF_RANGE` for what can be no model's token; `INVALID_OPTION` for what is no
 *   array.
 */
export function toTokens(tokens: ArrayLike<number>): Uint32Array {
  argument('tokens', numbers, tokens)
  // Looked at before there is memory for them: a large array may be a large hole.
  for (let i = 0; i < tokens.length; i++) {
    const token: unknown = tokens[i]
    if (Number.isInteger(token) && (token as number) >= 0 && (token as number) < 2 ** 32) continue
    throw new RwkvError('TOKEN_OUT_OF_RANGE', `token ${describe(token)} is not a whole number from 0 on`)
  }
  return Uint32Array.from(tokens)
}

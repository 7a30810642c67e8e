import { fileURLToPath } from 'node:url'
import { isUint8Array } from 'node:util/types'
import { RwkvError } from './errors.js'

/**
 * A `URL`, as far as it is used here: so that these types need neither those of Node nor those of a browser.
 */
export interface FileUrl {
  /** All of it: `file:///home/you/book.txt`. */
  readonly href: string
  /** `file:`; any other is refused. */
  readonly protocol: string
}

/**
 * The path of a file or a directory: a string, or a `URL` of the scheme `file:`, such as
 * `new URL('./book.txt', import.meta.url)`. A string is always a path, also one that begins with `file:`.
 */
export type Path = string | FileUrl

/** A text in memory: one document, as a file of it is. */
export interface TextInput {
  /** The text. */
  readonly text: string
}

/** A text in memory, as its bytes: UTF-8, unless what reads it takes anything. */
export interface BytesInput {
  /** The bytes. They are copied before the call returns. */
  readonly bytes: Uint8Array
}

/** What a text is read from: files, folders and patterns by their paths, `-` for standard input, or memory. */
export type Input = Path | TextInput | BytesInput

/** What a value is after its check: URLs have become paths, and texts bytes. */
export type Settled<V> = V extends FileUrl
  ? never
  : V extends TextInput | BytesInput
    ? Uint8Array
    : V extends readonly Path[]
      ? readonly string[]
      : V extends readonly Input[]
        ? readonly (string | Uint8Array)[]
        : V

/** Of what an option can be, what is not in memory. */
export type InFiles<V> = V extends TextInput | BytesInput
  ? never
  : V extends readonly Input[]
    ? readonly Path[]
    : V

/** Whether a value is a `URL`, of whichever realm. @internal */
export function isUrl(value: unknown): value is FileUrl {
  if (typeof value !== 'object' || value === null) return false
  const { href, protocol } = value as FileUrl
  return typeof href === 'string' && typeof protocol === 'string'
}

/**
 * A path as a string.
 *
 * @param name The argument or option that it is of, for messages.
 * @throws {RwkvError} `INVALID_OPTION` for a URL that names no file of this machine.
 * @internal
 */
export function toPath(name: string, path: Path): string {
  if (typeof path === 'string') return path
  // Read once: getters can give something else each time.
  const { href, protocol } = path
  const shown = href.length > 60 ? `${href.slice(0, 60)}…` : href
  const refused = (why: string) => new RwkvError('INVALID_OPTION', `${name} is the URL ${shown}; ${why}`)
  if (protocol !== 'file:') {
    throw refused('only URLs of the scheme file: are taken: download it first, and name the file')
  }
  try {
    return fileURLToPath(href)
  } catch (error) {
    throw refused(`it names no file of this machine: ${(error as Error).message}`)
  }
}

/** Whether a value is a `Uint8Array` that still has its bytes. @internal */
export function isWhole(value: unknown): value is Uint8Array {
  if (!isUint8Array(value)) return false
  try {
    // A view, and no copy. All that Node 20 says of a buffer that is gone is that it makes none.
    void new Uint8Array(value.buffer)
    return true
  } catch {
    return false
  }
}

/** Whether a value is a text in memory, of whichever sort. @internal */
export function isText(value: unknown): value is TextInput | BytesInput {
  return contentOf(value) !== undefined
}

/** What a text in memory consists of; undefined if it is none. */
function contentOf(value: unknown): string | Uint8Array | undefined {
  if (typeof value !== 'object' || value === null || isUrl(value)) return undefined
  const { text, bytes } = value as Partial<TextInput & BytesInput>
  if (bytes === undefined) return typeof text === 'string' ? text : undefined
  return text === undefined && isWhole(bytes) ? bytes : undefined
}

/**
 * A path as a string, or a text as its bytes.
 *
 * @throws {RwkvError} `INVALID_OPTION` for a URL that names no file of this machine, and for a text that is none.
 * @internal
 */
export function toInput(name: string, input: Input): string | Uint8Array {
  if (typeof input === 'string' || isUrl(input)) return toPath(name, input)
  const refused = (why: string) => new RwkvError('INVALID_OPTION', `${name} is a text ${why}`)
  const content = contentOf(input)
  if (content === undefined) throw refused('that changes while it is looked at; it must stay as it is')
  if (typeof content !== 'string') return content
  const broken = content.search(/\p{Surrogate}/u)
  if (broken < 0) return new TextEncoder().encode(content)
  const how = 'it must be whole characters: toWellFormed() makes them'
  throw refused(`with half of a surrogate pair, at ${broken}; ${how}`)
}

import { fileURLToPath } from 'node:url'
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

/** What a value is after its check: URLs have become paths. */
export type Settled<V> = V extends FileUrl
  ? never
  : V extends readonly (string | FileUrl)[]
    ? readonly string[]
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
  const shown = path.href.length > 60 ? `${path.href.slice(0, 60)}…` : path.href
  const refused = (why: string) => new RwkvError('INVALID_OPTION', `${name} is the URL ${shown}; ${why}`)
  if (path.protocol !== 'file:') {
    throw refused('only URLs of the scheme file: are taken: download it first, and name the file')
  }
  try {
    return fileURLToPath(path.href)
  } catch (error) {
    throw refused(`it names no file of this machine: ${(error as Error).message}`)
  }
}

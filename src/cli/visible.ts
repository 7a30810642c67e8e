import { randomBytes } from 'node:crypto'

// What comes from outside (generated text, file names, messages of the system) may hold sequences that a
// terminal obeys: it could move the cursor, set the clipboard, or show a command backwards. On the way to a
// terminal everything passes through here. Our own colours are told apart by a word that nobody else knows.

/** Begins one of our own styles, until it is known whether there are colours. */
const mark = `\x1b${randomBytes(8).toString('hex')}`

/** Control characters but line feed and tab, and those that change the direction of writing. */
const obeyed = /(?![\n\t])[\p{Cc}\p{Bidi_Control}]/gu

/** The text with control characters written out, as `\x1b`; line feeds (also of Windows) and tabs stay. */
export function visible(text: string): string {
  return text.replaceAll('\r\n', '\n').replace(obeyed, character => {
    const code = character.charCodeAt(0)
    return code < 0x100 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`
  })
}

/** {@link visible}, in one line. */
export function inOneLine(text: string): string {
  return visible(text).replaceAll('\n', '\\n')
}

/** A value as JSON that a terminal shows and does not obey. */
export function visibleJson(value: unknown): string {
  // Outside of strings there are no such characters, and inside this is another way to write them.
  return JSON.stringify(value).replace(obeyed, character => `\\u${hex(character.charCodeAt(0), 4)}`)
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0')
}

/** {@link visible}, with our own styles as escape sequences or, without `colour`, left out. */
export function rendered(text: string, colour: boolean): string {
  const [first = '', ...others] = text.split(mark)
  const parts = others.map(part => {
    const [sequence = ''] = /^\[\d+m/.exec(part) ?? []
    return (colour && sequence !== '' ? `\x1b${sequence}` : '') + visible(part.slice(sequence.length))
  })
  return visible(first) + parts.join('')
}

/** Styles of a text that is ours to the last character, which another library has coloured. */
export function ownStyles(text: string): string {
  return text.replaceAll('\x1b', mark)
}

const between = (begin: number, end: number) => (text: string) => `${mark}[${begin}m${text}${mark}[${end}m`

/** `text` in a style, for {@link rendered}. */
export const style = {
  bold: between(1, 22),
  dim: between(2, 22),
  cyan: between(36, 39),
  yellow: between(33, 39),
  red: between(31, 39),
}

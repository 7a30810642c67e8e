import { RwkvError } from './errors.js'
import { describe } from './kinds.js'
import { suggestion } from './suggest.js'

// Checks of what was read from a JSON file. Each message begins with where it is: the file, or its field.

/** An object of a file, and no other fields than those. */
export function checkObject(
  value: unknown,
  where: string,
  known: readonly string[],
): Partial<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RwkvError('DATA', `${where}: it is ${describe(value)}; it must be an object`)
  for (const name of Object.keys(value)) {
    if (known.includes(name)) continue
    const hint = suggestion(name, known) ?? `there are ${known.join(', ')}`
    throw new RwkvError('DATA', `${where}: there is no field ${JSON.stringify(name)}: ${hint}`)
  }
  return value as Partial<Record<string, unknown>>
}

/** A string of a file. */
export function checkText(value: unknown, where: string, field: string): string {
  if (typeof value === 'string') return value
  throw wrong(where, field, value, 'a string')
}

/** An array of strings of a file, none of them empty. */
export function checkTexts(value: unknown, where: string, field: string): readonly string[] {
  const isRight = Array.isArray(value) && value.every(text => typeof text === 'string' && text !== '')
  if (isRight) return value
  throw wrong(where, field, value, 'an array of strings, each of at least one character')
}

/** One of some words. */
export function checkWord<const W extends string>(
  value: unknown,
  where: string,
  field: string,
  words: readonly W[],
): W {
  const word = words.find(word => word === value)
  if (word !== undefined) return word
  throw wrong(where, field, value, words.map(word => JSON.stringify(word)).join(' or '))
}

/** A string that has `{mark}` in it, once. */
export function checkTemplate(value: unknown, where: string, field: string, mark: string): string {
  const text = checkText(value, where, field)
  if (text.split(`{${mark}}`).length === 2) return text
  throw bad(where, field, JSON.stringify(text), `a string that has {${mark}} in it, once`)
}

/** What is wrong with a field. */
export function wrong(where: string, field: string, value: unknown, wanted: string): RwkvError {
  return bad(where, field, value === undefined ? 'missing' : describe(value), wanted)
}

function bad(where: string, field: string, found: string, wanted: string): RwkvError {
  return new RwkvError('DATA', `${where}: ${field} is ${found}; it must be ${wanted}`)
}

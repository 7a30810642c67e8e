import { RwkvError } from './errors.js'

/**
 * Passes a whole number that JavaScript can hold exactly.
 *
 * Across the border to Rust, 1.5 would silently become 1 and −1 a huge number: so it is asked for here. Whether the
 * number makes sense is asked there.
 *
 * @throws {RwkvError} `INVALID_OPTION`, naming the option.
 */
export function wholeNumber(name: string, value: number): number
export function wholeNumber(name: string, value: number | undefined): number | undefined
export function wholeNumber(name: string, value: number | undefined): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return value
  throw new RwkvError('INVALID_OPTION', `${name} is ${value}; it must be a whole number, at least 0`)
}

/**
 * Passes a string. Untyped programs forget one now and then, and Rust could not say which.
 *
 * @throws {RwkvError} `INVALID_OPTION`, naming the option.
 */
export function text(name: string, value: string): string {
  if (typeof value === 'string') return value
  throw new RwkvError('INVALID_OPTION', `${name} is ${value}; it must be a string`)
}

/** As {@link wholeNumber}, and at least 1. */
export function checkPositive(name: string, value: number): number {
  if (wholeNumber(name, value) > 0) return value
  throw new RwkvError('INVALID_OPTION', `${name} is ${value}; it must be at least 1`)
}

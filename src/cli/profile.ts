import type { Profile, ProfilePart } from '../trainer.js'
import { count } from './format.js'
import { type Output, style } from './output.js'

/** Parts with less than this share of the time are one line together. */
const LEAST = 0.001

/** Shows where the time of some steps went, the largest parts first. */
export function showProfile(profile: Profile, output: Output): void {
  const { steps, threads, parts, rest, peakOperations, readBandwidth } = profile
  output.object({ event: 'profile', ...profile })
  if (parts.length === 0) return
  const shown = parts.filter(part => part.share >= LEAST).toSorted((a, b) => b.share - a.share)
  const others = parts.filter(part => part.share < LEAST).reduce((sum, part) => sum + part.share, 0)
  const rows: (readonly [name: string, share: number, speed: string])[] = [
    ...shown.map(part => [`${part.name}, ${part.pass}`, part.share, speed(part, profile)] as const),
    ['all others', others, ''],
    ['waiting and the rest', rest, ''],
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  output.line(`\nwhere the time of ${count(steps)} steps went`)
  for (const [name, share, speed] of rows) {
    const percent = `${(100 * share).toFixed(1)} %`.padStart(7)
    output.line(`  ${name.padEnd(width)}  ${percent}${speed === '' ? '' : `  ${style.dim(speed)}`}`)
  }
  const best = `${giga(peakOperations)} GFLOP/s in registers, ${giga(readBandwidth)} GB/s read from memory`
  output.line(style.dim(`  at best on ${threads} threads: ${best}\n`))
}

/** How fast a part was, and of matrix products how near to the best. */
function speed({ seconds, operations, bytes }: ProfilePart, { threads, peakOperations }: Profile): string {
  const byClock = seconds / threads
  if (operations > 0) {
    const share = (100 * operations) / byClock / peakOperations
    return `${giga(operations / byClock).padStart(5)} GFLOP/s (${share.toFixed(0)} %)`
  }
  return bytes > 0 ? `${giga(bytes / byClock).padStart(5)} GB/s` : ''
}

/** Billions, in two digits at least. */
function giga(value: number): string {
  return value >= 1e10 ? count(Math.round(value / 1e9)) : (value / 1e9).toPrecision(2)
}

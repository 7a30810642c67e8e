// What training on several machines costs: a model of it, beside what was measured, and the picture of docs/scale.md.
//
//     node benches/scale.mjs          prints the table of docs/scale.md, and draws docs/pictures/scale.svg

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Models, as each rank trains them: their parameters, tokens of a rank's share of a batch, and seconds that one rank
 * alone takes for a step of those tokens, on two cores of an AMD EPYC (Zen 4). That of 0.4B follows from L12's by the
 * number of parameters.
 */
export const shapes = {
  'L6 D384, 11 M': { parameters: 10.8e6, tokens: 4096, seconds: 1.5 },
  'L12 D768, 169 M': { parameters: 169e6, tokens: 2048, seconds: 4.9 },
  '0.4B, 430 M': { parameters: 430e6, tokens: 2048, seconds: 12.5 },
}

/** Links: bytes a second in each direction, and seconds from one machine to another. */
export const links = {
  '1 Gbit/s, 0.2 ms': { bandwidth: 125e6, latency: 0.0002 },
  '100 Mbit/s, 20 ms': { bandwidth: 12.5e6, latency: 0.02 },
}

/** Floats of a bucket (`BUCKET` in crates/train/src/ranks/sums.rs). */
const BUCKET = 2 ** 20
/** What a message costs beside its bytes and the link's latency, in seconds. */
const MESSAGE = 10e-6
/** The part of a step in which gradients can be sent: backward, from the head on. */
const BACKWARD = 0.6
/** The part of its own speed that a rank loses to moving bytes, and to waiting for the slowest. */
const LOST = 0.06

/**
 * Seconds of a step of one of `ranks`, with as many tokens each as one rank alone has.
 *
 * A bucket goes in two rounds, to be summed and to be told. Each sends to every other rank a part of `1 / ranks`, so
 * that nearly all of it goes over a rank's link twice, whatever their number.
 */
export function secondsOf({ seconds }, link, ranks, { parameters, bytes = 4, localSteps = 0 }) {
  if (ranks === 1) return seconds
  const rounds = 2 * Math.ceil(parameters / BUCKET)
  const sent = (2 * bytes * parameters * (ranks - 1)) / ranks
  const sums = sent / link.bandwidth + rounds * (link.latency + (ranks - 1) * MESSAGE)
  // The last bucket has nothing to hide behind.
  const last = sums / (rounds / 2)
  if (localSteps > 0) return seconds + sums / localSteps
  return seconds / (1 - LOST) + Math.max(last, sums - BACKWARD * seconds)
}

/** How much of its own speed each of `ranks` keeps. */
export function efficiency(shape, link, ranks, options = {}) {
  return shape.seconds / secondsOf(shape, link, ranks, { parameters: shape.parameters, ...options })
}

const ways = {
  'sums in f32': {},
  'sums in bf16': { bytes: 2 },
  'DiLoCo, 100 steps': { localSteps: 100 },
}

if (process.argv[1] === import.meta.filename) {
  for (const [link, of] of Object.entries(links)) {
    for (const [name, shape] of Object.entries(shapes)) {
      for (const [way, options] of Object.entries(ways)) {
        const row = [2, 4, 16, 128, 1000].map(ranks => `${Math.round(100 * efficiency(shape, of, ranks, options))} %`)
        console.log(`| ${link} | ${name} | ${way} | ${row.join(' | ')} |`)
      }
    }
  }
  const file = join(import.meta.dirname, '../docs/pictures/scale.svg')
  writeFileSync(file, picture())
  console.log(file)
}

/** Efficiency over the number of ranks, a panel for each link. */
function picture() {
  const [width, height, left, top, gap] = [360, 250, 52, 46, 40]
  const colours = ['#2563eb', '#16a34a', '#dc2626']
  const dashes = ['', '5 3', '1.5 3']
  const x = ranks => (Math.log2(ranks) / 10) * width
  const y = part => (1 - part) * height
  const text = (at, content, more = '') => `<text x="${at[0]}" y="${at[1]}" ${more}>${content}</text>`
  const panels = Object.entries(links).map(([link, of], panel) => {
    const parts = [text([width / 2, -12], link, 'text-anchor="middle" font-weight="600"')]
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(`<path d="M0 ${y(part)}H${width}" stroke="#8884"/>`)
      if (panel === 0) parts.push(text([-8, y(part) + 4], `${100 * part} %`, 'text-anchor="end"'))
    }
    for (const ranks of [1, 4, 16, 64, 256, 1024]) {
      parts.push(`<path d="M${x(ranks)} 0V${height}" stroke="#8884"/>`)
      parts.push(text([x(ranks), height + 16], ranks, 'text-anchor="middle"'))
    }
    Object.values(shapes).forEach((shape, colour) => {
      Object.values(ways).forEach((way, dash) => {
        const points = Array.from({ length: 41 }, (_, at) => 2 ** (at / 4))
        const path = points.map(ranks => {
          // Between one rank and two there is nothing.
          const part = ranks < 2 ? 1 : efficiency(shape, of, ranks, way)
          return `${x(ranks).toFixed(1)} ${y(part).toFixed(1)}`
        })
        const line = `stroke="${colours[colour]}" stroke-width="2" stroke-dasharray="${dashes[dash]}"`
        parts.push(`<path d="M${[path[0], ...path.slice(4)].join('L')}" fill="none" ${line}/>`)
      })
    })
    return `<g transform="translate(${left + panel * (width + gap)} ${top})">${parts.join('')}</g>`
  })
  const all = left + 2 * width + gap + 20
  const key = [
    ...Object.keys(shapes).map((name, at) => [name, colours[at], '']),
    ...Object.keys(ways).map((name, at) => [name, '#888', dashes[at]]),
  ].map(([name, colour, dash], at) => {
    const place = [left + (at % 3) * 260, top + height + 48 + Math.floor(at / 3) * 20]
    const line = `stroke="${colour}" stroke-width="2" stroke-dasharray="${dash}"`
    return `<path d="M${place[0]} ${place[1] - 4}h28" ${line}/>${text([place[0] + 36, place[1]], name)}`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${all} ${top + height + 84}" font-family="system-ui, sans-serif" font-size="12" fill="#888">
<rect width="100%" height="100%" fill="#fff"/>
${[...panels, ...key, text([left + width + gap / 2, top + height + 32], 'ranks', 'text-anchor="middle"')].join('\n')}
</svg>
`
}

// What training on several machines costs: a model of it, beside what was measured, and the picture of docs/scale.md.
//
//     node benches/scale.mjs          prints the table of docs/scale.md, and draws docs/pictures/scale.svg

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Models of RWKV-4, as each rank trains them in f32: parameters of a block and of the head, and seconds that one rank
 * alone takes for its share of a batch, on two cores of an AMD EPYC (Zen 4). Those of 0.4B follow from L12's by the number
 * of parameters. Of an embedding only rows of tokens in the batch are sent, which is little.
 */
const shapes = {
  'L6 D384, 11 M': { layers: 6, block: 13 * 384 ** 2, head: 65 * 384, rows: 4096, seconds: 1.45, threads: 2 },
  'L12 D768, 169 M': { layers: 12, block: 13 * 768 ** 2, head: 50_277 * 768, rows: 2048, seconds: 8.5, threads: 2 },
  '0.4B': { layers: 24, block: 13 * 1024 ** 2, head: 50_277 * 1024, rows: 2048, seconds: 24.6, threads: 2 },
}

/** Links: bytes a second in each direction, and seconds from one machine to another. */
const links = {
  '1 Gbit/s, 0.1 ms': { bandwidth: 125e6, latency: 0.0001 },
  '100 Mbit/s, 10 ms': { bandwidth: 12.5e6, latency: 0.01 },
}

/** Between ranks of one machine: far more than they need. */
const memory = { bandwidth: 5e9, latency: 0, isMemory: true }

/** Floats of a bucket (`BUCKET` in crates/train/src/ranks/sums.rs). */
const BUCKET = 2 ** 19
/**
 * Rows that go through the model together (`ROWS_OF_RANK` in crates/train/src/trainer/ranks.rs): only with the last of
 * them are gradients complete.
 */
const ROWS = 4096
/** What a message costs beside its bytes and the link's latency, in seconds: a guess. */
const MESSAGE = 10e-6
/** The part of a step that backward takes. */
const BACKWARD = 0.6
/** The part of a link's bytes that sums reach. */
const REACHED = 0.85
/** Seconds of one core for each byte that is sent or received over a network: MPI, the system and the sum. */
const HANDLING = 0.8e-9
/** The part of its own speed that a rank loses to going block by block, and to waiting for the slowest. */
const LOST = 0.033

/**
 * Seconds of a step of one of `ranks`, with as many tokens each as one rank alone has.
 *
 * A bucket goes in two rounds, to be summed and to be told. Each sends to every other rank a part of `1 / ranks`, so
 * that nearly all of it goes over a rank's link twice, whatever their number. Buckets go one after the other, as soon as
 * backward has made them: the head's first, then block by block from the last one on; the second round of one goes
 * together with the first of the next. Of the last block half is under way when backward is done.
 */
function secondsOf(shape, link, ranks, { bytes = 4, localSteps = 0 } = {}) {
  const { layers, block, head, rows, seconds, threads } = shape
  if (ranks === 1) return seconds
  const sent = parameters => (2 * bytes * parameters * (ranks - 1)) / ranks
  const sumOf = parameters =>
    sent(parameters) / (REACHED * link.bandwidth) +
    Math.ceil(parameters / BUCKET) * (link.latency + 2 * (ranks - 1) * MESSAGE)
  const handling = link.isMemory ? 0 : (2 * sent(layers * block + head) * HANDLING) / threads
  if (localSteps > 0) return seconds + (sumOf(layers * block + head) + handling) / localSteps
  const own = seconds / (1 - LOST) + handling
  const last = (BACKWARD * own) / Math.ceil(rows / ROWS)
  let done = own - last + sumOf(head)
  for (let layer = 1; layer <= layers; layer += 1) {
    const begins = own - last + (last * (layer - 0.5)) / layers
    done = Math.max(Math.max(done, begins) + sumOf(block), own - last + (last * layer) / layers + sumOf(block) / 2)
  }
  return done
}

/** How much of its own speed each of `ranks` keeps. */
function efficiency(shape, link, ranks, options) {
  return shape.seconds / secondsOf(shape, link, ranks, options)
}

const ways = {
  'sums in f32': {},
  'sums in bf16': { bytes: 2 },
  'DiLoCo, 100 steps': { localSteps: 100 },
}

// What was measured: two ranks of one thread each on those two cores, Open MPI over a link that is held to this.
const ofOneThread = {
  'L6 D384, 11 M': { seconds: 1.46, rows: 2048, threads: 1 },
  'L12 D768, 169 M': { seconds: 8.33, rows: 1024, threads: 1 },
}
const measured = [
  ['L6 D384, 11 M', 'shared memory', 'sums in f32', 1.51],
  ['L6 D384, 11 M', '1 Gbit/s, 0.1 ms', 'sums in f32', 1.62],
  ['L6 D384, 11 M', '1 Gbit/s, 0.1 ms', 'sums in bf16', 1.59],
  ['L6 D384, 11 M', '100 Mbit/s, 10 ms', 'sums in f32', 5.34],
  ['L6 D384, 11 M', '100 Mbit/s, 10 ms', 'sums in bf16', 3.44],
  ['L12 D768, 169 M', 'shared memory', 'sums in f32', 8.78],
  ['L12 D768, 169 M', '1 Gbit/s, 0.1 ms', 'sums in f32', 9.69],
  ['L12 D768, 169 M', '1 Gbit/s, 0.1 ms', 'sums in bf16', 9.08],
]
for (const [name, link, way, seconds] of measured) {
  const model = secondsOf({ ...shapes[name], ...ofOneThread[name] }, links[link] ?? memory, 2, ways[way])
  const percent = of => `${Math.round((100 * ofOneThread[name].seconds) / of)} %`
  console.log(`| ${name} | ${link} | ${way} | ${seconds.toFixed(2)} s, ${percent(seconds)} | ${model.toFixed(2)} s, ${percent(model)} |`)
}
console.log()
for (const [link, of] of Object.entries(links)) {
  for (const [name, shape] of Object.entries(shapes)) {
    for (const [way, options] of Object.entries(ways)) {
      const row = [2, 4, 16, 128, 1000].map(ranks => `${Math.round(100 * efficiency(shape, of, ranks, options))} %`)
      console.log(`| ${link} | ${name} | ${way} | ${row.join(' | ')} |`)
    }
  }
}
writeFileSync(join(import.meta.dirname, '../docs/pictures/scale.svg'), picture())

/** Efficiency over the number of ranks, a panel for each link. */
function picture() {
  const [width, height, left, top, gap] = [360, 250, 52, 46, 40]
  const colours = ['#2563eb', '#16a34a', '#dc2626']
  // Two of them lie on each other: one is seen below the other.
  const widths = [2, 5, 1.5]
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
        const line = `stroke="${colours[colour]}" stroke-width="${widths[colour]}" stroke-dasharray="${dashes[dash]}"`
        parts.push(`<path d="M${[path[0], ...path.slice(4)].join('L')}" fill="none" ${line}/>`)
      })
    })
    return `<g transform="translate(${left + panel * (width + gap)} ${top})">${parts.join('')}</g>`
  })
  const all = left + 2 * width + gap + 20
  const key = [
    ...Object.keys(shapes).map((name, at) => [name, colours[at], '', widths[at]]),
    ...Object.keys(ways).map((name, at) => [name, '#888', dashes[at], 2]),
  ].map(([name, colour, dash, stroke], at) => {
    const place = [left + (at % 3) * 260, top + height + 48 + Math.floor(at / 3) * 20]
    const line = `stroke="${colour}" stroke-width="${stroke}" stroke-dasharray="${dash}"`
    return `<path d="M${place[0]} ${place[1] - 4}h28" ${line}/>${text([place[0] + 36, place[1]], name)}`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${all} ${top + height + 84}" font-family="system-ui, sans-serif" font-size="12" fill="#888">
<rect width="100%" height="100%" fill="#fff"/>
${[...panels, ...key, text([left + width + gap / 2, top + height + 32], 'ranks', 'text-anchor="middle"')].join('\n')}
</svg>
`
}

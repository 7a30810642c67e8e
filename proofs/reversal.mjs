// Shows what RWKV-7 learns and RWKV-4 does not: to reverse digits (`12345,` → `54321#`, of up to 30 of them), from nothing,
// with as many parameters and as many seconds. The task is that of BlinkDL's RWKV-LM, `RWKV-v8`.
//
//   node proofs/reversal.mjs [--seconds 300] [--digits 30] [--seed 1] [--only v7] [--rate 0.003]
//
// Each of the two learns until its seconds are over, and is then asked for numbers that it has not seen: of every length
// as many. An answer is right if every digit and the end are.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Model, Trainer } from '../dist/index.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '300' },
    digits: { type: 'string', default: '30' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    rate: { type: 'string' },
  },
})
const [seconds, most] = [Number(values.seconds), Number(values.digits)]

let state = BigInt(values.seed) * 0x9e3779b97f4a7c15n
/** A number below `count`: SplitMix64. */
function random(count) {
  state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n)
  let z = BigInt.asUintN(64, (state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n)
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
  return Number(BigInt.asUintN(53, z ^ (z >> 31n)) % BigInt(count))
}
const digitsOf = length => Array.from({ length }, () => random(10)).join('')
const reversed = digits => [...digits].reverse().join('')

// More numbers than a run of minutes sees.
const text = Array.from({ length: 200_000 }, () => {
  const digits = digitsOf(1 + random(most))
  return `${digits},${reversed(digits)}#\n`
}).join('')
const asked = Array.from({ length: 10 * most }, (_, i) => digitsOf(1 + (i % most)))

/** Of some 470,000 parameters each. A number is asked for after an end of line: at the beginning of a text it may be cut. */
const shapes = { v4: { nLayer: 3, nEmbd: 103 }, v7: { nLayer: 3, nEmbd: 96 } }
const directory = mkdtempSync(join(tmpdir(), 'rwkv-reversal-'))
for (const [arch, shape] of Object.entries(shapes)) {
  if (values.only !== undefined && values.only !== arch) continue
  const out = join(directory, arch)
  const steps = await stepsIn(seconds, arch, shape)
  const parameters = await learn(arch, shape, out, steps)
  const model = await Model.load(out)
  let right = 0
  const byLength = new Map()
  const answers = await Promise.all(
    asked.map(async digits => {
      const session = model.createSession()
      return (
        await session.generate(`\n${digits},`, { maxTokens: most + 2, temperature: 0, stop: ['#'] }).result()
      ).text
    }),
  )
  asked.forEach((digits, i) => {
    const isRight = answers[i] === reversed(digits)
    right += isRight ? 1 : 0
    const tenth = Math.ceil(digits.length / 10)
    const [of, total] = byLength.get(tenth) ?? [0, 0]
    byLength.set(tenth, [of + (isRight ? 1 : 0), total + 1])
  })
  const parts = [...byLength].sort(([a], [b]) => a - b)
  const told = parts.map(
    ([tenth, [of, total]]) => `${10 * tenth - 9} to ${10 * tenth} digits ${of} of ${total}`,
  )
  console.log(
    `${arch}: ${parameters} parameters, ${steps} steps: ${right} of ${asked.length} right; ${told.join(', ')}`,
  )
}
rmSync(directory, { recursive: true })

/** How many steps the machine makes in so many seconds. */
async function stepsIn(seconds, arch, shape) {
  const out = join(directory, `${arch}-speed`)
  const trainer = await Trainer.create({ ...options(arch, shape, out), maxSteps: 1000 })
  let [begin, count] = [0, 0]
  for await (const { step } of trainer) {
    if (step === 10) begin = performance.now()
    if (step === 60) {
      count = (50 * 1000 * seconds) / (performance.now() - begin)
      break
    }
  }
  await trainer.close()
  return Math.round(count)
}

async function learn(arch, shape, out, maxSteps) {
  const begin = performance.now()
  const trainer = await Trainer.create({ ...options(arch, shape, out), maxSteps })
  for await (const { step, loss } of trainer)
    if (step % Math.ceil(maxSteps / 10) === 0)
      console.log(
        `${arch}: step ${step}, loss ${loss.toFixed(3)}, ${((performance.now() - begin) / 1000).toFixed(0)} s`,
      )
  const { parameters } = trainer
  await trainer.close()
  return parameters
}

function options(arch, shape, out) {
  return {
    data: { text },
    out,
    arch,
    ...shape,
    ctxLen: 128,
    batchSize: 16,
    learningRate: Number(values.rate ?? 0.003),
    evalInterval: 1_000_000,
    evalTokens: 20_000,
    checkpointInterval: 1_000_000,
    keep: 'last',
    order: 'random',
  }
}

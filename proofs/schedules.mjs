// Shows that what a session writes does not depend on what others do meanwhile: random schedules of sessions that come,
// write, are aborted, left, closed and forked, beside prompts that are read. Whatever is written to its end is compared
// with what the same call writes alone.
//
//   node proofs/schedules.mjs [--schedules 1000] [--seed 1]
//
// Exits with 1 at the first difference, and says of which schedule it was.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Model, Trainer } from '../dist/index.js'

const { values } = parseArgs({
  options: { schedules: { type: 'string', default: '1000' }, seed: { type: 'string', default: '1' } },
})
let state = Number(values.seed) * 2_654_435_761 + 12_345
const random = count => {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
  return Math.floor((state / 2 ** 32) * count)
}

const directory = mkdtempSync(join(tmpdir(), 'rwkv-schedules-'))
const text = Array.from(
  { length: 300 },
  (_, i) => `the ${['red', 'green', 'blue'][(i * 7) % 3]} fox ${i % 10}\n`,
).join('')
writeFileSync(join(directory, 'text.txt'), text)
const out = join(directory, 'run')
const shape = { nLayer: 3, nEmbd: 96, ctxLen: 32, batchSize: 4, maxSteps: 30 }
const trainer = await Trainer.create({ data: join(directory, 'text.txt'), out, ...shape })
for await (const _ of trainer);
trainer.close()
const model = await Model.load(out)

/** Calls, and what each writes alone. */
const calls = Array.from({ length: 60 }, (_, seed) => ({
  prompt: text.slice(random(2000)).slice(0, 1 + random(seed % 3 === 0 ? 1500 : 40)),
  options: { maxTokens: 1 + random(60), temperature: 2, seed, ...(seed % 4 === 0 && { stop: ['fox', '9'] }) },
}))
for (const call of calls) {
  call.alone = await model.createSession().generate(call.prompt, call.options).result()
}

let compared = 0
for (let schedule = 0; schedule < Number(values.schedules); schedule++) {
  const count = 1 + random(24)
  await Promise.all(Array.from({ length: count }, () => one(schedule)))
}
console.log(`${values.schedules} schedules, ${compared} texts compared: all as alone`)
model.close()
rmSync(directory, { recursive: true })

async function one(schedule) {
  const { prompt, options, alone } = calls[random(calls.length)]
  const [wait, way, after] = [random(4), random(10), random(12)]
  if (wait === 1) await turn()
  if (wait > 1) await sleep(random(8))
  const session = model.createSession()
  const stop = new AbortController()
  const same = (found, what) => {
    compared++
    if (found.text === alone.text && String(found.tokens) === String(alone.tokens) && found.end === alone.end)
      return
    console.error(
      `schedule ${schedule}: ${what} differs from what is written alone: ${JSON.stringify({ prompt, options, found, alone })}`,
    )
    process.exit(1)
  }
  if (way < 5) return same(await session.generate(prompt, options).result(), 'a text')
  if (way === 5) {
    // The prompt in two parts, and the second half of it in a fork.
    const half = Math.floor(prompt.length / 2)
    if (half > 0) await session.prompt(prompt.slice(0, half))
    const fork = half > 0 ? model.createSession({ state: session.state }) : session
    return same(await fork.generate(prompt.slice(half), options).result(), 'a fork')
  }
  const writing = session.generate(prompt, { ...options, signal: stop.signal })
  let got = ''
  try {
    for await (const piece of writing) {
      got += piece
      if (way === 6) break
      if (way === 7) session.close()
      if (way === 8) stop.abort()
      if (way === 9) await sleep(after)
    }
  } catch (error) {
    if (!stop.signal.aborted && error.code !== 'CLOSED') throw error
  }
  compared++
  if (!alone.text.startsWith(got)) {
    console.error(
      `schedule ${schedule}: the beginning of a text differs: ${JSON.stringify({ prompt, got, alone })}`,
    )
    process.exit(1)
  }
}

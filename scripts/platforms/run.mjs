// Tries what build.sh has built on the systems that this machine can stand in for:
//
//   node scripts/platforms/run.mjs [NAME...]
//
// Each trains the same small model in every tier, from the same text and seed, writes with it, and prints the
// hash of its file. Files of one tier must be the same, byte for byte, on all systems with the same processor.
//
// The systems are those of systems.mjs; macOS and Windows on ARM cannot be tried here.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { cache, systems } from './systems.mjs'

process.chdir(fileURLToPath(new URL('../..', import.meta.url)))
// What runs there. Its answer goes to a file: under Wine, Node cannot write to a pipe.
const trial = `
const { createHash } = require('node:crypto')
const { readFileSync, writeFileSync } = require('node:fs')
const [library, data, out, answer] = process.argv.slice(2)
const { Model, Trainer } = require(library)

async function main() {
  const options = { nLayer: 2, nEmbd: 32, ctxLen: 32, batchSize: 4, maxSteps: 30, seed: 1, threads: 2, precision: 'f32' }
  const trainer = await Trainer.create({ data, out, ...options })
  let loss
  for await (const step of trainer) loss = step.loss
  trainer.close()
  const model = await Model.load(out, { threads: 2 })
  const session = model.createSession()
  let text = ''
  for await (const piece of session.generate('The ', { maxTokens: 60, temperature: 0.7, seed: 3 })) text += piece
  model.close()
  const hash = createHash('sha256').update(readFileSync(out + '/model.bin')).digest('hex')
  writeFileSync(answer, JSON.stringify({ hash, loss, text, node: process.version }))
}
main().catch(error => {
  writeFileSync(answer, JSON.stringify({ error: String(error.stack) }))
  process.exit(1)
})
`
const text = Array.from(
  { length: 400 },
  (_, i) => `The ${['red', 'old', 'sly'][i % 3]} fox ran over hill ${(i * 7) % 10}.\n`,
).join('')

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(systems)
const work = `${cache}/try`
rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
writeFileSync(`${work}/trial.cjs`, trial)
writeFileSync(`${work}/book.txt`, text)
/** The hash that the first system with a tier gave, by processor and tier. */
const first = {}
let failed = false
for (const name of names) {
  if (!systems[name])
    throw new Error(`${name} cannot be tried here; these can: ${Object.keys(systems).join(', ')}`)
  const binding = `${cache}/${name}/rwkv.${name}.node`
  if (!existsSync(binding)) {
    console.log(`${name}: not built; scripts/platforms/build.sh ${name}`)
    failed = true
    continue
  }
  const processor = /x64/.test(name) ? 'x64' : 'arm64'
  const { command, env } = systems[name]()
  for (const isa of processor === 'x64' ? ['scalar', 'avx2', ''] : ['scalar', '']) {
    const key = `${processor} ${isa || 'default'}`
    const [out, answer] = ['out', 'json'].map(end => `${work}/${name}-${isa || 'default'}.${end}`)
    const wine = name.startsWith('win32')
    const paths = [`${process.cwd()}/dist/index.js`, `${work}/book.txt`, out, answer]
    const started = performance.now()
    const { stderr } = spawnSync(
      command[0],
      [...command.slice(1), ...[`${work}/trial.cjs`, ...paths].map(path => (wine ? `Z:${path}` : path))],
      {
        env: {
          ...process.env,
          ...env,
          ...(isa && { RWKV_ISA: isa }),
          RWKV_BINARY: wine ? `Z:${binding}` : binding,
        },
        stdio: ['ignore', 'ignore', wine ? 'ignore' : 'pipe'],
        encoding: 'utf8',
        timeout: 600_000,
      },
    )
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    const result = existsSync(answer) ? JSON.parse(readFileSync(answer, 'utf8')) : { error: stderr }
    if (result.error !== undefined) {
      console.log(`${name}, ${key}: failed after ${seconds} s: ${result.error}`)
      failed = true
      continue
    }
    first[key] ??= { name, ...result }
    const same = result.hash === first[key].hash && result.text === first[key].text
    if (!same) failed = true
    const verdict =
      first[key].name === name ? '' : same ? `, as ${first[key].name}` : `, OTHER THAN ${first[key].name}`
    console.log(
      `${name}, ${key}, Node ${result.node}, ${seconds} s, loss ${result.loss}, model.bin ${result.hash}${verdict}`,
    )
    console.log(`  ${JSON.stringify(result.text)}`)
  }
}
process.exitCode = failed ? 1 : 0

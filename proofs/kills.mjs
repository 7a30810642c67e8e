// Kills `rwkv train` with SIGKILL at random moments, most of them those of a save, and fills its disk; goes on
// each time with --resume.
//
// After every life, whatever ended it: if the run has left a model (an adapter), result.json tells of that very
// file, and `rwkv eval` of it on the validation text gives the loss that is told. At the end the model, its
// record, the checkpoint's numbers and the log without its times are those of a run that nobody stopped.
//
//   node proofs/kills.mjs [--kills 60] [--kinds plain,muon,lora] [--disks 1] [--seed 1] [--steps 60]
//
// Kills are dealt to each kind of run; --disks 0 leaves out the disks that are too small, each of six sizes. A
// run that comes to its end before all kills were dealt is compared, and another is begun. Exits with 1 if
// anything was wrong.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { canMount, fullDisks } from './kills/disk.mjs'
import { differing, kinds, moments, numbers, Proof, text } from './kills/kit.mjs'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '60' },
    kinds: { type: 'string', default: Object.keys(kinds).join() },
    disks: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    steps: { type: 'string', default: '60' },
  },
})
const [kills, steps] = [Number(values.kills), Number(values.steps)]
const directory = mkdtempSync(join(tmpdir(), 'rwkv-kills-'))
const base = join(directory, 'whole-plain')

let failed = false
function wrong(problem) {
  failed = true
  console.log(`WRONG: ${problem}`)
}

const asked = values.kinds.split(',')
const disks = values.disks !== '0' && canMount(directory)
if (values.disks !== '0' && !disks) console.log('no disk can be mounted here: full disks are left out')
// Adapters need the model of a whole plain run.
for (const kind of asked.includes('lora') ? new Set(['plain', ...asked]) : asked) {
  const proof = new Proof({ kind, steps, base, ...texts(kind) })
  const unbroken = join(directory, `whole-${kind}`)
  const begun = performance.now()
  const { isDone, error } = await proof.life(unbroken)
  const fault = isDone ? await proof.fault(unbroken) : error
  if (fault !== undefined) {
    wrong(`${kind}, without a break: ${fault}`)
    break
  }
  console.log(`${kind}: ${steps} steps without a break took ${seconds(begun)}`)
  if (!asked.includes(kind)) continue
  await killed(proof, unbroken)
  if (!disks) continue
  const { full, hit, wrong: problems } = await fullDisks(proof, unbroken, directory)
  problems.forEach(wrong)
  console.log(`${kind}: ${full} lives ended for want of room: ${hit.join(', ')}`)
}
if (failed) console.log(`the runs are in ${directory}`)
else rmSync(directory, { recursive: true })
console.log(failed ? 'FAILED' : 'every run ended with the bytes of the one without a break')
process.exit(failed ? 1 : 0)

/** The text of a kind of run, and what of it validates: the last tenth, after nine that are rounded down. */
function texts(kind) {
  const all = text(kind === 'lora')
  const [book, validation] = ['book', 'validation'].map(name => join(directory, `${name}-${kind}.txt`))
  writeFileSync(book, all)
  // All characters are ASCII.
  writeFileSync(validation, all.slice(Math.floor((all.length * 9) / 10)))
  return { book, validation }
}

/** Runs of one kind, until all kills are dealt. */
async function killed(proof, unbroken) {
  const { kind } = proof
  const [random, begun] = [numbers(Number(values.seed)), performance.now()]
  const count = { dealt: 0, lives: 0, runs: 0, early: 0, writing: 0, ahead: 0, both: 0 }
  const ways = Object.keys(moments)
  while (count.dealt < kills) {
    const run = join(directory, `${kind}-${++count.runs}`)
    // There to be watched.
    mkdirSync(run)
    let life
    do {
      count.lives++
      const way = ways[Math.floor(random() * ways.length)]
      life = await proof.life(run, count.dealt < kills ? moments[way](random) : undefined)
      if (life.isKilled) {
        count.dealt++
        look(proof, run, count)
      } else if (!life.isDone)
        return wrong(`${kind}: rwkv train ended with ${life.code}: ${life.error} (${run})`)
      const fault = await proof.fault(run)
      if (fault !== undefined)
        return wrong(`${kind}, life ${count.lives}, killed by ${way}: ${fault} (${run})`)
    } while (!life.isDone)
    const names = differing(proof, run, unbroken)
    if (names.length > 0) return wrong(`${kind}: ${names.join(', ')} differ (${run})`)
    rmSync(run, { recursive: true })
  }
  console.log(
    `${kind}: ${count.dealt} kills in ${count.lives} lives of ${count.runs} runs, ${seconds(begun)}: ` +
      `${count.early} before there was a run, ${count.writing} left something that was being written, ` +
      `${count.both} a record of two files, ${count.ahead} a model from after the last checkpoint`,
  )
}

/** Counts what a kill has left. */
function look({ file }, run, count) {
  const left = readdirSync(run)
  if (!left.includes('config.json')) count.early++
  if (left.some(name => name.endsWith('.tmp'))) count.writing++
  if (!existsSync(join(run, file)) || !left.includes('result.json')) return
  const { results } = JSON.parse(readFileSync(join(run, 'result.json'), 'utf8'))
  const saved = left.map(name => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? 0))
  if (results.length > 1) count.both++
  if (results.length === 1 && results[0].step > Math.max(...saved)) count.ahead++
}

function seconds(since) {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`
}

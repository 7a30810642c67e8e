import { execFile } from 'node:child_process'
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { temporaryDirectory, text, trainTiny } from './tiny.js'

const root = join(import.meta.dirname, '..')
const run = promisify(execFile)

/** Where examples for people are: README.md, and the comments of the source. */
const files = [
  'README.md',
  ...['errors', 'lora', 'model', 'quantize', 'session', 'state', 'tokenizer', 'trainer'].map(
    name => `src/${name}.ts`,
  ),
]

it('the Rust of README.md is that of the example, which the Rust tests run', async () => {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const [, rust = ''] = /^```rust\n(.*?)^```$/ms.exec(readme) ?? []
  expect(rust).not.toBe('')
  expect(await readFile(join(root, 'examples/train_and_generate.rs'), 'utf8')).toContain(rust)
})

/** Programs between fences marked `ts`, the stars of a comment taken away. */
function examples(source: string): string[] {
  const blocks = source.matchAll(/^[ *]*```ts\n(.*?)^[ *]*```$/gms)
  return Array.from(blocks, ([, block = '']) => block.replace(/^ *\* ?/gm, ''))
}

describe('every example', async () => {
  const directory = await temporaryDirectory()

  beforeAll(async () => {
    await mkdir(join(directory, 'node_modules'))
    await symlink(root, join(directory, 'node_modules/rwkv'), 'junction')
    // What they speak of: a book of everyday words, and a model of it.
    await writeFile(
      join(directory, 'book.txt'),
      `It was a dark and stormy night. Call me Ishmael, Once upon.\n${text}`,
    )
    const out = join(directory, 'runs/book')
    await trainTiny(directory, { data: join(directory, 'book.txt'), out, maxSteps: 3 })
    await cp(out, join(directory, 'runs/moby-dick'), { recursive: true })
    await writeFile(join(directory, 'package.json'), '{ "type": "module" }')
  })

  const programs = await Promise.all(
    files.map(async file => {
      const source = await readFile(join(root, file), 'utf8')
      return examples(source).map((program, i) => ({ name: `${file.replace(/\W/g, '-')}-${i + 1}`, program }))
    }),
  ).then(programs => programs.flat())

  it('was found', () => {
    expect(programs.length).toBeGreaterThanOrEqual(files.length)
  })

  it('compiles and runs', async () => {
    for (const { name, program } of programs) await writeFile(join(directory, `${name}.ts`), program)
    const lib = ['--target', 'es2022', '--lib', 'es2023,esnext.disposable', '--types', 'node']
    const options = [
      '--strict',
      '--module',
      'nodenext',
      ...lib,
      '--typeRoots',
      join(root, 'node_modules/@types'),
    ]
    const tsc = [
      join(root, 'node_modules/typescript/bin/tsc'),
      ...options,
      ...programs.map(({ name }) => `${name}.ts`),
    ]
    const { stdout } = await run(process.execPath, tsc, { cwd: directory }).catch(error => error)
    expect(stdout).toBe('')
    for (const { name } of programs) {
      const { stderr } = await run(process.execPath, [`${name}.js`], { cwd: directory }).catch(error => error)
      if (!name.startsWith('src-errors')) expect(stderr, name).toBe('')
    }
  })
})

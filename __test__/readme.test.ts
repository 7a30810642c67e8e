import { execFile } from 'node:child_process'
import { cp, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { temporaryDirectory, text, trainTiny } from './tiny.js'

const root = join(import.meta.dirname, '..')
const run = promisify(execFile)

const documents = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...(await readdir(join(root, 'docs'))).filter(name => name.endsWith('.md')).map(name => `docs/${name}`),
]

/** Where examples for people are: the documents, and the comments of the source. */
const files = [
  ...documents,
  ...[
    'chat-formats',
    'chat-text',
    'errors',
    'lora',
    'model',
    'quantize',
    'session',
    'state',
    'tokenizer',
    'trainer',
  ].map(name => `src/${name}.ts`),
]

it('README.md is short enough to be read to its end', async () => {
  expect((await stat(join(root, 'README.md'))).size).toBeLessThanOrEqual(10_000)
})

/** What a heading is called in a link, as GitHub does it. */
function anchor(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')
}

it.each(documents)('links of %s lead somewhere', async file => {
  const prose = (await readFile(join(root, file), 'utf8')).replace(/^```.*?^```$/gms, '')
  for (const [, target = ''] of prose.matchAll(/(?:\]\(|(?:href|src)=")([^)"\s]+)/g)) {
    if (/^https?:/.test(target)) continue
    const [path = '', heading] = target.split('#')
    const linked = path === '' ? file : join(dirname(file), path)
    await stat(join(root, linked))
    if (heading === undefined) continue
    const headings = (await readFile(join(root, linked), 'utf8')).matchAll(/^#+ (.+)$/gm)
    expect(
      Array.from(headings, ([, title = '']) => anchor(title)),
      target,
    ).toContain(heading)
  }
})

it('the Rust of README.md is that of the example, which the Rust tests run', async () => {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const [, rust = ''] = /^```rust\n(.*?)^```$/ms.exec(readme) ?? []
  expect(rust).not.toBe('')
  expect(await readFile(join(root, 'crates/train/examples/train_and_generate.rs'), 'utf8')).toContain(rust)
})

/** A directory beside which a program finds the package, with a book of everyday words in it. */
async function project(): Promise<string> {
  const directory = await temporaryDirectory()
  await mkdir(join(directory, 'node_modules'))
  await symlink(root, join(directory, 'node_modules/rwkv'), 'junction')
  const words = 'The book: It was a dark and stormy night. Call me Ishmael, Once upon.'
  await writeFile(join(directory, 'book.txt'), `${words}\n${text}`)
  return directory
}

it('the first program of README.md runs as it is, trains and writes', async () => {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const [, program = ''] = /^```js\n(.*?)^```$/ms.exec(readme) ?? []
  const directory = await project()
  await writeFile(join(directory, 'write.mjs'), program)
  const { stdout, stderr } = await run(process.execPath, ['write.mjs'], { cwd: directory })
  expect(stderr).toBe('')
  expect(stdout).toMatch(/^100 \d\.\d+\n200 \d\.\d+\n300 \d\.\d+\n/)
  // It has learned the one sentence of the book.
  expect(stdout).toMatch(/ (fox jumps over|the lazy dog)/)
})

/** Programs between fences marked `ts`, the stars of a comment taken away. */
function examples(source: string): string[] {
  const blocks = source.matchAll(/^[ *]*```ts\n(.*?)^[ *]*```$/gms)
  return Array.from(blocks, ([, block = '']) => block.replace(/^ *\* ?/gm, ''))
}

describe('every example', async () => {
  const directory = await project()

  beforeAll(async () => {
    // The model that they speak of.
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
    expect(programs.length).toBeGreaterThanOrEqual(13)
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

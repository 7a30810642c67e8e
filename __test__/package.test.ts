import { execFile } from 'node:child_process'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { beforeAll, describe, expect, it } from 'vitest'
import { temporaryDirectory, text, trainTiny } from './tiny.js'

const root = join(import.meta.dirname, '..')
const run = promisify(execFile)

describe('the package, as another one that depends on it sees it', async () => {
  const directory = await temporaryDirectory()
  let model: string

  beforeAll(async () => {
    model = await trainTiny(directory, { maxSteps: 2 })
    await mkdir(join(directory, 'node_modules'))
    await symlink(root, join(directory, 'node_modules/rwkv'), 'junction')
  })

  const body = `
    const model = await Model.load(${JSON.stringify('MODEL')})
    let text = ''
    for await (const piece of model.createSession().generate('the', { maxTokens: 5, temperature: 0 })) text += piece
    const failed = await Model.load('none').catch(error => error)
    console.log(text.length, failed instanceof RwkvError, failed.code)`

  it.each([
    ['import', 'mjs', "import { Model, RwkvError } from 'rwkv'", (body: string) => body],
    [
      'require',
      'cjs',
      "const { Model, RwkvError } = require('rwkv')",
      (body: string) => `;(async () => {${body}})()`,
    ],
  ])('works with %s', async (_, extension, head, wrap) => {
    const file = join(directory, `use.${extension}`)
    await writeFile(file, `${head}\n${wrap(body.replace('"MODEL"', JSON.stringify(model)))}\n`)
    const { stdout, stderr } = await run(process.execPath, [file])
    expect(stdout).toBe('5 true IO\n')
    expect(stderr).toBe('')
  })

  it('types both', async () => {
    const program = `
      const load: (path: string) => Promise<Model> = path => Model.load(path, { threads: 1 })
      // @ts-expect-error: a model has no such thing
      load('x').then(model => model.nothing)`
    await writeFile(join(directory, 'esm.mts'), `import { Model } from 'rwkv'\n${program}`)
    await writeFile(join(directory, 'cjs.cts'), `import { Model } from 'rwkv'\n${program}`)
    const lib = [
      '--lib',
      'es2023,esnext.disposable',
      '--types',
      'node',
      '--typeRoots',
      join(root, 'node_modules/@types'),
    ]
    const options = ['--noEmit', '--strict', '--module', 'nodenext', ...lib]
    const tsc = [join(root, 'node_modules/typescript/bin/tsc'), ...options]
    const { stdout } = await run(process.execPath, [...tsc, 'esm.mts', 'cjs.cts'], { cwd: directory }).catch(
      error => error,
    )
    expect(stdout).toBe('')
  })

  it('lets a worker thread end in the middle of its work', async () => {
    const program = `
      const { parentPort, workerData } = require('node:worker_threads')
      const { Model } = require(${JSON.stringify(join(root, 'dist/index.js'))})
      Model.load(workerData.model, { threads: 2 }).then(model => {
        const tokens = model.tokenizer.encode(workerData.text)
        void model.createSession().eval(tokens)
        parentPort.postMessage('working')
      })`
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(program, { eval: true, workerData: { model, text: text.repeat(10) } })
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
      expect(await worker.terminate()).toBe(1)
    }
  })

  it('lets a process end in the middle of its work', async () => {
    const program = `
      const { Model } = require(${JSON.stringify(join(root, 'dist/index.js'))})
      Model.load(${JSON.stringify(model)}).then(model => {
        void model.createSession().eval(model.tokenizer.encode(${JSON.stringify(text)}.repeat(100)))
        process.exit(7)
      })`
    await expect(run(process.execPath, ['-e', program])).rejects.toMatchObject({ code: 7, stderr: '' })
  })
})

it('names the licences of what is compiled into a binary, with their texts', async () => {
  const { stdout } = await run(process.execPath, [join(root, 'scripts/licenses.mjs')], { maxBuffer: 2 ** 24 })
  const [, list = '', ...texts] = stdout.split(/\n\n/)
  for (const name of ['tokenizers', 'parquet', 'memmap2', 'ring', 'uPlot', 'the vocabulary of RWKV World'])
    expect(list).toMatch(new RegExp(`^  ${name}( [\\d.]+\\S*)?: `, 'm'))
  // What only builds or tests is not in it.
  expect(list).not.toMatch(/^ {2}(rwkv|proptest|syn|napi-build)/m)
  // A licence that would have to be ours too is none that we can take.
  for (const line of list.split('\n')) expect(line).not.toMatch(/: [^,]*\bA?GPL/)
  expect(texts.join('\n')).toContain('Permission is hereby granted, free of charge')
})

import { execFile } from 'node:child_process'
import { copyFile, open, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, it } from 'vitest'
import { Model, quantize } from '../src/index.js'
import { temporaryFolder, trainTiny } from './tiny.js'

const run = promisify(execFile)
const cli = join(import.meta.dirname, '../dist/cli/main.js')

const folder = await temporaryFolder()
let trained: string

beforeAll(async () => {
  trained = join(await trainTiny(folder, { maxSteps: 3 }), 'model.bin')
  await copyFile(join(folder, 'run/tokenizer.json'), join(folder, 'tokenizer.json'))
})

/** A copy of the trained model. */
async function copy(name: string): Promise<string> {
  const path = join(folder, name)
  await copyFile(trained, path)
  return path
}

const changes: [string, (path: string) => Promise<unknown>][] = [
  ['emptied', path => truncate(path)],
  ['cut short', path => truncate(path, 5000)],
  ['overwritten by a smaller file', path => writeFile(path, 'not a model')],
  [
    'overwritten by a file of its size',
    async path => {
      const file = await open(path, 'r+')
      await file.write(Buffer.alloc((await stat(path)).size, 1))
      await file.close()
    },
  ],
]

it.each(changes)('a model file that is %s in use is an error, not the end', async (what, change) => {
  const path = await copy(`${what}.bin`)
  await using model = await Model.load(path, { threads: 2 })
  const session = model.createSession()
  await session.prompt('the red fox')
  const before = session.state.toBuffer()
  await change(path)
  const failure = { code: 'FILE_CHANGED', message: expect.stringContaining(path) }
  await expect(session.prompt(' jumps')).rejects.toMatchObject(failure)
  await expect(session.generate(' jumps').next()).rejects.toMatchObject(failure)
  await expect(model.evaluate(join(folder, 'text.txt'))).rejects.toMatchObject(failure)
  expect(session.state.toBuffer()).toEqual(before)
})

it.each(changes)('a quantized model does without its file when that is %s', async (what, change) => {
  const path = join(folder, `small ${what}.bin`)
  await quantize(trained, path, 'Q5_1')
  await using model = await Model.load(path, { threads: 2 })
  const read = () => model.createSession().prompt('the red fox jumps')
  const expected = await read()
  await change(path)
  expect(await read()).toEqual(expected)
})

it('weights that are no numbers are named, by every verb', async () => {
  const path = await copy('nan.bin')
  const bytes = await readFile(path)
  const at = bytes.indexOf('blocks.1.att.key.weight') + 'blocks.1.att.key.weight'.length
  bytes.writeFloatLE(Number.NaN, at + 40)
  await writeFile(path, bytes)
  const says = { code: 1, stderr: expect.stringContaining('"blocks.1.att.key.weight"') }
  const verb = (...args: string[]) => run(process.execPath, [cli, ...args])
  await expect(verb('generate', path, '--prompt', 'the')).rejects.toMatchObject({ ...says, stdout: '' })
  await expect(verb('eval', path, '--data', join(folder, 'text.txt'))).rejects.toMatchObject(says)
  await expect(verb('quantize', path, join(folder, 'never.bin'), 'Q8_0')).rejects.toMatchObject(says)
  await expect(stat(join(folder, 'never.bin'))).rejects.toThrow('ENOENT')
})

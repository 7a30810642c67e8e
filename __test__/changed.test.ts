import { execFile } from 'node:child_process'
import { copyFile, open, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, it } from 'vitest'
import { Model, quantize } from '../src/index.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

const run = promisify(execFile)
const cli = join(import.meta.dirname, '../dist/cli/main.js')

const directory = await temporaryDirectory()
let trained: string

beforeAll(async () => {
  trained = join(await trainTiny(directory, { maxSteps: 3 }), 'model.bin')
  await copyFile(join(directory, 'run/tokenizer.json'), join(directory, 'tokenizer.json'))
})

/** A copy of the trained model. */
async function copy(name: string): Promise<string> {
  const path = join(directory, name)
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

/** Of a quantized model the embedding and the head stay in the file. */
const formats = ['FP32', 'Q5_1'] as const
const cases = changes.flatMap(([what, change]) => formats.map(format => [what, format, change] as const))

it.each(cases)(
  'a model file that is %s in use is an error, not the end: %s',
  async (what, format, change) => {
    const path = await copy(`${what} ${format}.bin`)
    if (format !== 'FP32') await quantize(trained, path, format)
    await using model = await Model.load(path, { threads: 2 })
    const session = model.createSession()
    await session.prompt('the red fox')
    const before = session.state.toBuffer()
    await change(path)
    const failure = { code: 'FILE_CHANGED', message: expect.stringContaining(path) }
    await expect(session.prompt(' jumps')).rejects.toMatchObject(failure)
    await expect(session.generate(' jumps').next()).rejects.toMatchObject(failure)
    await expect(model.evaluate(join(directory, 'text.txt'))).rejects.toMatchObject(failure)
    expect(session.state.toBuffer()).toEqual(before)
  },
)

it('weights that are no numbers are named, by every verb', async () => {
  const path = await copy('nan.bin')
  const bytes = await readFile(path)
  const at = bytes.indexOf('blocks.1.att.key.weight') + 'blocks.1.att.key.weight'.length
  bytes.writeFloatLE(Number.NaN, at + 40)
  await writeFile(path, bytes)
  const says = { code: 1, stderr: expect.stringContaining('"blocks.1.att.key.weight"') }
  const verb = (...args: string[]) => run(process.execPath, [cli, ...args])
  await expect(verb('generate', path, '--prompt', 'the')).rejects.toMatchObject({ ...says, stdout: '' })
  await expect(verb('eval', path, '--data', join(directory, 'text.txt'))).rejects.toMatchObject(says)
  await expect(verb('quantize', path, join(directory, 'never.bin'), 'Q8_0')).rejects.toMatchObject(says)
  await expect(stat(join(directory, 'never.bin'))).rejects.toThrow('ENOENT')
})

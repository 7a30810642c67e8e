import { execFileSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { readRegular } from '../src/files.js'
import { Model } from '../src/index.js'
import { temporaryDirectory } from './tiny.js'

const directory = await temporaryDirectory()

it('a file of at most the limit is read, and a larger one is refused', async () => {
  const path = join(directory, 'file')
  await writeFile(path, '12345')
  expect((await readRegular(path, 5)).toString()).toBe('12345')
  await expect(readRegular(path, 4)).rejects.toThrow('it has 5 bytes; such a file has at most 4')
  await expect(readRegular(directory, 5)).rejects.toThrow('not a regular file')
  await expect(readRegular(join(directory, 'none'), 5)).rejects.toMatchObject({ code: 'ENOENT' })
})

it.skipIf(process.platform === 'win32')('a pipe is refused, not waited for', async () => {
  const run = join(directory, 'run')
  await mkdir(run)
  await writeFile(join(run, 'lora.safetensors'), '')
  execFileSync('mkfifo', [join(run, 'config.json')])
  await expect(readRegular(join(run, 'config.json'), 5)).rejects.toThrow('not a regular file')
  // Whoever loads a run that trained an adapter is told its base, which stands in there.
  await expect(Model.load(run)).rejects.toMatchObject({ code: 'IO' })
})

it.skipIf(process.platform === 'win32')(
  'what a config.json names is quoted in what is to be typed',
  async () => {
    const run = join(directory, 'hostile')
    await mkdir(run)
    await writeFile(join(run, 'lora.safetensors'), '')
    await writeFile(join(run, 'config.json'), JSON.stringify({ options: { from: "x'; $(touch HACKED) #" } }))
    await expect(Model.load(run)).rejects.toMatchObject({
      code: 'ADAPTER',
      message: expect.stringMatching(
        /: rwkv generate 'x'\\''; \$\(touch HACKED\) #' --lora .* Model\.load\('x\\'; /,
      ),
    })
  },
)

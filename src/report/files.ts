import { randomBytes } from 'node:crypto'
import { open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { RwkvError } from '../errors.js'

/**
 * Writes a file whole or not at all: beside its name first, then renamed, so that a crash leaves the last
 * good one.
 *
 * @throws {RwkvError} `IO`, naming the file.
 */
export async function writeAtomically(path: string, text: string): Promise<void> {
  // A name that resuming sweeps away, if this process is killed.
  const beside = join(dirname(path), `.${basename(path)}.${randomBytes(4).toString('hex')}.tmp`)
  try {
    const file = await open(beside, 'wx')
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(beside, path)
  } catch (error) {
    await rm(beside, { force: true }).catch(() => {})
    throw new RwkvError('IO', `cannot write ${path}: ${(error as Error).message}`, { cause: error })
  }
}

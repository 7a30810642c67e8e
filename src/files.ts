import { constants } from 'node:fs'
import { open, stat } from 'node:fs/promises'

/**
 * The bytes of a regular file of at most `most` bytes. A pipe would keep its reader waiting, and a device may
 * have no end.
 */
export async function readRegular(path: string, most: number): Promise<Buffer> {
  const check = (found: { isFile(): boolean }) => {
    if (!found.isFile()) throw new Error('not a regular file')
  }
  // Opening a device may do something to it, so it is not even opened.
  check(await stat(path))
  // What the name stands for may change meanwhile. Windows has no such flag, and no such pipes.
  const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
  try {
    const found = await file.stat()
    check(found)
    if (found.size > most) throw new Error(`it has ${found.size} bytes; such a file has at most ${most}`)
    return await file.readFile()
  } finally {
    await file.close()
  }
}

/** Far more than a `config.json` has. */
export const MOST_CONFIG = 2 ** 24

import { statSync } from 'node:fs'
import { quote } from './format.js'

/** What to type to go on with a run. A text that came through a pipe is gone by then, and has to be named again. */
export function resumeCommand({ out, data }: { readonly out: string; readonly data: string }): string {
  const isFile = statSync(data, { throwIfNoEntry: false })?.isFile() ?? false
  return `rwkv train --resume ${quote(out)}${isFile ? '' : ' --data FILE'}`
}

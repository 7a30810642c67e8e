import { execFile } from 'node:child_process'
import { join } from 'node:path'

/** The command line's program. */
export const main = join(import.meta.dirname, '../dist/cli/main.js')

/** What a run of the command line printed, and its exit code. */
export function rwkv(...args: (string | number)[]): Promise<{ code: unknown; out: string; err: string }> {
  return rwkvReading('', ...args)
}

/** The same, of one whose standard input is a text. */
export function rwkvReading(
  input: string,
  ...args: (string | number)[]
): Promise<{ code: unknown; out: string; err: string }> {
  return new Promise(resolve => {
    const child = execFile(process.execPath, [main, ...args.map(String)], (error, out, err) => {
      resolve({ code: error ? error.code : 0, out, err })
    })
    // One that does not read it closes it.
    child.stdin?.on('error', () => {}).end(input)
  })
}

/**
 * The environment of a program on a terminal with colours or without, whatever the tests themselves run in: `CI` alone
 * has Node take them away, and `FORCE_COLOR` is asked before all others.
 */
export function terminalEnvironment(colours: boolean, TERM = 'xterm'): NodeJS.ProcessEnv {
  return { ...process.env, SHELL: '/bin/bash', TERM, NO_COLOR: undefined, FORCE_COLOR: colours ? '1' : '0' }
}

/** What `--json` printed: an object a line. */
export function objects(out: string) {
  const lines = out.trim().split('\n')
  return lines.map(line => JSON.parse(line))
}

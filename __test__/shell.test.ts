import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { nextCommands } from '../src/cli/next.js'
import { resumeCommand } from '../src/cli/resume.js'
import { quote } from '../src/shell.js'
import { temporaryDirectory } from './tiny.js'

const hostile = [
  'two words',
  `it's`,
  '"quoted"',
  '$(touch HACKED)',
  '`touch HACKED`',
  '; touch HACKED',
  'a\ntouch HACKED\n',
  "'$(touch HACKED)'",
  '-rf',
  '--help',
  '$HOME $PATH %PATH%',
  'wow!! !touch',
  "it's !touch\n'$(touch HACKED)'",
  '\\',
  'ends with a backslash\\',
  'café 世界 😀',
  '~',
  '*',
  '[a-z]?',
  '{a,b}',
  '#no comment',
  '=ls',
  'a&touch HACKED&',
  'a|touch HACKED',
  'a>HACKED',
  'tab\there',
  'escape\x1b[31m \x9b \x7f \u202e',
  'plain/path-1.0_x+y=z@%,.bin',
  '',
]
const portable = (path: string) => (path.startsWith('-') ? `./${path}` : path)

const directory = await temporaryDirectory()

it.skipIf(process.platform === 'win32')('bash takes a quoted path for one word and obeys none', async () => {
  const run = promisify(execFile)
  // An interactive shell also looks for exclamation marks.
  for (const flags of [[], ['--norc', '--noprofile', '-o', 'histexpand']]) {
    for (const path of hostile) {
      const script = `printf '%s\\0' begin ${quote(path, 'linux')} end`
      const { stdout } = await run('bash', [...flags, '-c', script], { cwd: directory })
      expect(stdout.split('\0'), script).toEqual(['begin', portable(path), 'end', ''])
    }
  }
  expect(await readdir(directory)).toEqual([])
})

it('a quoted path is one line that a terminal shows as it is', () => {
  for (const path of hostile) expect(quote(path, 'linux')).not.toMatch(/[\p{Cc}\p{Bidi_Control}]/u)
  expect(quote('runs/book-1.0', 'linux')).toBe('runs/book-1.0')
  expect(quote('my book', 'linux')).toBe("'my book'")
})

it.each([
  ['C:\\runs\\book-1.0', 'C:\\runs\\book-1.0'],
  ['my book', '"my book"'],
  ['my runs\\', '"my runs\\\\"'],
  ['a&calc', '"a&calc"'],
  ["it's", `"it's"`],
  ['$(calc)`n', '"`$(calc)``n"'],
  ['a\u201d; calc', '"a`\u201d; calc"'],
  ['-rf', '.\\-rf'],
  ['50%', '"50%"'],
])('on Windows %j is %j', (path, expected) => {
  expect(quote(path, 'win32')).toBe(expected)
})

it.skipIf(process.platform === 'win32')('what to type next has every path quoted', async () => {
  const bad = '$(touch HACKED)'
  expect(resumeCommand({ out: bad, data: 'none' })).toBe(`rwkv train --resume '${bad}' --data FILE`)
  expect(await nextCommands(directory, bad)).toEqual([`rwkv info '${bad}'`])
})

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { inOneLine, ownStyles, rendered, style, visible, visibleJson } from '../src/cli/visible.js'
import { quote } from '../src/shell.js'
import { main, rwkv, terminalEnvironment } from './cli.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

// Sets a title, begins a sequence in one byte, writes backwards, hides what came before, rings.
const hostile = '\x1b]0;title\x07\x9b31m\u202e\u2066\rX\b\x7f'
const shown = '\\x1b]0;title\\x07\\x9b31m\\u202e\\u2066\\x0dX\\x08\\x7f'

describe('control characters', () => {
  it('are written out, and other text stays', () => {
    expect(visible(hostile)).toBe(shown)
    const plain = 'a line,\n\ta tab, café 世界 😀 e\u0301 \u00a0\u200d\ufeff'
    expect(visible(plain)).toBe(plain)
    expect(visible('a line\r\nof Windows\r')).toBe('a line\nof Windows\\x0d')
    expect(inOneLine('a\nb\x1b')).toBe('a\\nb\\x1b')
  })

  it('of our own styles are obeyed or left out, and nobody else has them', () => {
    const text = `${style.bold('loss')} ${style.red('\x1b[31mred')}`
    expect(rendered(text, true)).toBe('\x1b[1mloss\x1b[22m \x1b[31m\\x1b[31mred\x1b[39m')
    expect(rendered(text, false)).toBe('loss \\x1b[31mred')
    expect(rendered(ownStyles('\x1b[36mx\x1b[0m'), true)).toBe('\x1b[36mx\x1b[0m')
  })

  it('in JSON are written in another way, which means the same', () => {
    const value = { text: `${hostile}\n\t"\\ 世界` }
    expect(visibleJson(value)).not.toMatch(/[\p{Cc}\p{Bidi_Control}]/u)
    expect(JSON.parse(visibleJson(value))).toEqual(value)
  })
})

const hasTerminals = process.platform === 'linux' && existsSync('/usr/bin/script')

describe('the command line', async () => {
  const directory = await temporaryDirectory()
  let run: string

  beforeAll(async () => {
    const data = join(directory, 'hostile.txt')
    await writeFile(data, `${hostile} the whale\r\n`.repeat(200))
    run = await trainTiny(directory, { data, maxSteps: 20 })
  })

  /** What a run of the command line shows on a terminal. */
  function onTerminal(...args: string[]): Promise<string> {
    const command = [process.execPath, main, ...args]
      .map(word => (/^--[a-z]/.test(word) ? word : quote(word)))
      .join(' ')
    return new Promise(resolve => {
      // The terminal's own line ends.
      execFile('script', ['-qec', command, '/dev/null'], { env: terminalEnvironment(true) }, (_, out) =>
        resolve(out.replaceAll('\r\n', '\n')),
      )
    })
  }

  /** What a terminal would obey, but for our own styles and the live line. */
  const obeyed = (text: string) =>
    text.replace(/\p{Cc}\[(\d+m|2K)|\p{Cc}(?=\p{Cc}\[2K)/gu, '').match(/(?![\n\t])[\p{Cc}\p{Bidi_Control}]/u)

  const generate = () => ['generate', run, '--prompt', `${hostile} the`, '--max-tokens', '40', '--seed', '1']

  it.skipIf(!hasTerminals)('writes out on a terminal what a model generates', async () => {
    const out = await onTerminal(...generate())
    expect(out.replaceAll('\n', '')).toContain(shown)
    expect(obeyed(out)).toBeNull()
    expect(obeyed(await onTerminal(...generate(), '--json'))).toBeNull()
  })

  it('leaves it as it is in a pipe', async () => {
    const { out, err } = await rwkv(...generate())
    expect(err).toBe('')
    expect(out).toContain(`${hostile} the`)
  })

  it.skipIf(!hasTerminals)('writes out samples while it trains', async () => {
    const out = join(directory, 'terminal')
    const data = join(directory, 'hostile.txt')
    const args = ['--n-layer', '1', '--n-embd', '32', '--ctx-len', '32', '--max-steps', '8']
    const shown = await onTerminal('train', '--data', data, '--out', out, ...args, '--eval-interval', '2')
    expect(shown).toContain('│')
    expect(obeyed(shown)).toBeNull()
    // Each line that stays begins where the live line, with its bar, was taken away.
    expect(shown).toContain('━')
    const lines = shown.split('\n').map(line => line.slice(line.lastIndexOf('\x1b[2K') + 1))
    expect(lines.filter(line => line.includes('━'))).toEqual([])
  })

  it.skipIf(process.platform === 'win32')('writes out names of files, in messages and errors', async () => {
    const name = 'x\x1b]0;title\x07\u202e\ny'
    const error = await rwkv('info', join(directory, name))
    expect(error.err).toMatch(/^rwkv: [^\n]*x\\x1b\]0;title\\x07\\u202e\\ny[^\n]*\n$/)
    await mkdir(join(directory, name))
    for (const file of ['model.bin', 'tokenizer.json'])
      await copyFile(join(run, file), join(directory, name, file))
    const { code, out } = await rwkv('info', join(directory, name))
    expect({ code, obeyed: obeyed(out) }).toEqual({ code: 0, obeyed: null })
    expect(obeyed((await rwkv('nonsense\x1b[2J')).err)).toBeNull()
  })
})

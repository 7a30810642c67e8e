#!/usr/bin/env node
import { readFile } from 'node:fs/promises'
import { RwkvError } from '../errors.js'
import { readArguments } from './arguments.js'
import { bench } from './bench.js'
import { evaluate } from './eval.js'
import { kebab } from './format.js'
import { generate } from './generate.js'
import { helpOn, overview } from './help.js'
import { info } from './info.js'
import { Output, style } from './output.js'
import { quantize } from './quantize.js'
import { train } from './train.js'
import { suggestion, UsageError } from './usage.js'
import type { Verb } from './verb.js'

const verbs = [train, generate, evaluate, info, quantize, bench] as readonly Verb[]

/** Exit codes: 0 done, 1 failed, 2 asked in a way that makes no sense, 130 stopped with Ctrl-C. */
async function main(args: readonly string[]): Promise<number> {
  const [word, ...rest] = args
  if (word === '--version' || word === '-v' || word === 'version') {
    console.log(await version())
    return 0
  }
  if (word === undefined || word === '--help' || word === '-h' || word === 'help') {
    console.log(rest[0] === undefined ? overview(verbs) : helpOn(find(rest[0])))
    return 0
  }
  const verb = find(word)
  if (rest.includes('--help') || rest.includes('-h')) {
    console.log(helpOn(verb))
    return 0
  }
  const { words, values } = readArguments(rest, verb.name, verb.positionals, verb.options)
  const output = new Output(values.json === true)
  try {
    return await verb.run(words, values, output)
  } catch (error) {
    output.done()
    if (!isInterrupt(error)) throw error
    output.object({ event: 'interrupted' })
    output.line('stopped')
    return 130
  }
}

/** Whether a verb ended for Ctrl-C, and had nothing of its own to say about it. */
function isInterrupt(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError'
}

function find(name: string): Verb {
  const verb = verbs.find(verb => verb.name === name)
  if (verb) return verb
  const names = verbs.map(verb => verb.name)
  const what = name.startsWith('-') ? `a verb comes first, before ${name}` : `there is no verb "${name}"`
  throw new UsageError(what, suggestion(name, names) ?? `there are ${names.join(', ')} and help`)
}

async function version(): Promise<string> {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(await readFile(file, 'utf8')) as { version: string }).version
}

/** Says what went wrong, in one line, with a hint where there is one; a stack trace helps nobody here. */
function report(error: unknown, json: boolean): number {
  const { message, code, hint } = describe(error)
  if (json) {
    process.stdout.write(`${JSON.stringify({ event: 'error', code, message })}\n`)
  } else {
    const red = process.stderr.isTTY && process.stderr.hasColors() ? style.red : (text: string) => text
    process.stderr.write(`${red('rwkv:')} ${message}\n${hint ? `  ${hint}\n` : ''}`)
  }
  return code === 'USAGE' || code === 'INVALID_OPTION' ? 2 : 1
}

function describe(error: unknown): { message: string; code: string; hint?: string | undefined } {
  if (error instanceof UsageError) return error
  if (error instanceof RwkvError) return { code: error.code, message: inKebab(error.message, error.code) }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL', message: `${message} (a fault in rwkv, please report it)` }
}

/** Messages name options as TypeScript does; on the command line they are written otherwise. */
function inKebab(message: string, code: string): string {
  const names = new Set(verbs.flatMap(verb => Object.keys(verb.options)))
  const first = code === 'INVALID_OPTION' ? message.match(/^\w+/)?.[0] : undefined
  const renamed = first && names.has(first) ? `--${message}` : message
  return renamed.replace(/(?:--)?\b[a-z]+(?:[A-Z][a-z]*)+\b/g, word => {
    const name = word.replace(/^--/, '')
    return names.has(name) ? `--${kebab(name)}` : word
  })
}

// A reader that has seen enough (`rwkv generate … | head`) is no error.
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0)
  throw error
})

const args = process.argv.slice(2)
process.exitCode = await main(args).catch(error => report(error, args.includes('--json')))

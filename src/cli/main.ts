#!/usr/bin/env node
import { Command, CommanderError } from 'commander'
import { version } from '#version'
import { RwkvError } from '../errors.js'
import { addVerb, type Options, unknownCommand, usageError, type Values } from './arguments.js'
import { bench } from './bench.js'
import { chat } from './chat.js'
import { convert } from './convert.js'
import { evaluate } from './eval.js'
import { kebab } from './format.js'
import { generate } from './generate.js'
import { info } from './info.js'
import { exitCode, heedSignals, Interrupt, leave } from './interrupt.js'
import { merge } from './merge.js'
import { Output } from './output.js'
import { prepare } from './prepare.js'
import { quantize } from './quantize.js'
import { report as reportVerb } from './report.js'
import { complain, OutputError, stdout } from './stdout.js'
import { train } from './train.js'
import { Hinted, UsageError } from './usage.js'
import type { Verb } from './verb.js'
import { inOneLine, style, visibleJson } from './visible.js'

const verbs = [
  train,
  generate,
  chat,
  evaluate,
  prepare,
  info,
  reportVerb,
  quantize,
  convert,
  merge,
  bench,
] as readonly Verb[]

const examples = `
Examples:
  rwkv train --data book.txt --out runs/book
  rwkv generate runs/book --prompt "Once upon" --max-tokens 200 --temperature 0.8
  rwkv chat runs/book`

/**
 * Exit codes: 0 done, 1 failed, 2 asked in a way that makes no sense; and 130 stopped with Ctrl-C, 143 with
 * SIGTERM, 129 with SIGHUP.
 */
async function main(args: readonly string[]): Promise<number> {
  let code = 0
  const program = new Command('rwkv')
    .description('Trains RWKV language models and runs them, on the CPU of this machine.')
    .usage('COMMAND [options]')
    .version(version, '-v, --version', 'show the version')
    .helpOption('-h, --help', 'show this help')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ writeOut: text => stdout.write(text), outputError: () => {} })
    .addHelpText('after', examples)
  for (const verb of verbs) {
    addVerb(program, verb, async (words, values) => {
      code = await run(verb, words, values)
    })
  }
  addHelp(program)
  try {
    const [word, ...rest] = args
    const known = word === undefined ? ['--help'] : word === 'version' ? ['--version', ...rest] : args
    await program.parseAsync(known, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Help and version are told in this way too.
    if (error.exitCode !== 0)
      throw usageError(
        error,
        verbs,
        verbs.find(({ name }) => name === args[0]),
      )
  }
  return code
}

/** Does a verb's job, and returns the exit code. */
async function run(verb: Verb, words: readonly string[], values: Values<Options>): Promise<number> {
  const output = new Output(values.json === true)
  const stop = new AbortController()
  heedSignals(stop)
  stdout.onFailure = failure => stop.abort(failure)
  try {
    return await verb.run(words, values, output, stop.signal)
  } catch (error) {
    output.done()
    if (error === stdout.failure) return exitCode(stop.signal)
    // A verb that had something of its own to say about it has returned.
    if (!(error instanceof Interrupt)) throw error
    output.object({ event: 'interrupted' })
    output.line('stopped')
    return error.exitCode
  }
}

/** `rwkv help`, which unlike the parser's own refuses commands that do not exist. */
function addHelp(program: Command): void {
  program
    .command('help')
    .summary('show what a command can be told')
    .argument('[COMMAND]')
    .helpOption(false)
    .action((name: string | undefined) => {
      const command = name === undefined ? program : program.commands.find(command => command.name() === name)
      if (!command) throw unknownCommand(name ?? '', verbs)
      command.outputHelp()
    })
}

/** The exit code, once everything that was written has arrived or is known not to. */
async function arrived(code: number): Promise<number> {
  await stdout.flush()
  const { failure } = stdout
  // A reader that has seen enough (`rwkv generate … | head`) is no error.
  if (failure && !failure.isClosedPipe) throw failure
  return code
}

/** Says what went wrong, in one line, with a hint where there is one; a stack trace helps nobody here. */
async function report(error: unknown, json: boolean): Promise<number> {
  const { message, code, hint } = describe(error)
  if (json) {
    stdout.write(`${visibleJson({ event: 'error', code, message })}\n`)
    await stdout.flush()
  }
  if (!json || stdout.failure) {
    complain(`${style.red('rwkv:')} ${inOneLine(message)}\n${hint ? `  ${hint}\n` : ''}`)
  }
  if (error instanceof OutputError) return error.exitCode
  return code === 'USAGE' || code === 'INVALID_OPTION' ? 2 : 1
}

function describe(error: unknown): { message: string; code: string; hint?: string | undefined } {
  if (error instanceof UsageError) return error
  if (error instanceof Hinted) return { ...describe(error.error), hint: error.hint }
  if (error instanceof OutputError) return { code: 'IO', message: error.message }
  if (error instanceof RwkvError) return { code: error.code, message: inKebab(error.message, error.code) }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'INTERNAL', message: `${message} (a fault in rwkv, please report it)` }
}

/** Messages name options as TypeScript does; on the command line they are written otherwise. */
function inKebab(message: string, code: string): string {
  const names = new Set(verbs.flatMap(verb => Object.keys(verb.options)))
  const first = code === 'INVALID_OPTION' ? message.match(/^\w+/)?.[0] : undefined
  const renamed = first && names.has(first) ? `--${message}` : message
  // A word in quotes is one of a file's or of the user's own.
  return renamed.replace(/(?:--|")?\b[a-z]+(?:[A-Z][a-z]*)+\b/g, word => {
    const name = word.replace(/^--/, '')
    return names.has(name) ? `--${kebab(name)}` : word
  })
}

const args = process.argv.slice(2)
void main(args)
  .then(arrived)
  .catch(error => report(error, args.includes('--json')))
  .then(leave)

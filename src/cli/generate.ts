import { buffer as bytesOf } from 'node:stream/consumers'
import { someAtATime } from '../batch.js'
import { RwkvError } from '../errors.js'
import { readRegular } from '../files.js'
import type { Generation } from '../generation.js'
import { Model } from '../model.js'
import { generateTable, loadTable, sampleTable } from '../option-tables.js'
import type { Session } from '../session.js'
import { exitCode } from './interrupt.js'
import type { Output } from './output.js'
import { startingState } from './tuning.js'
import { UsageError } from './usage.js'
import { common, tuned, verb } from './verb.js'

/** `rwkv generate` */
export const generate = verb({
  name: 'generate',
  summary: 'generate text from a prompt',
  positionals: ['MODEL'],
  options: {
    prompt: sampleTable.prompt,
    promptFile: {
      kind: 'path',
      value: 'FILE',
      help: 'read the prompt from FILE, or from standard input if it is -',
    },
    samples: { kind: 'count', min: 1, short: 'n', help: 'texts to write after the prompt', default: 1 },
    ...generateTable,
    ...tuned,
    unknown: loadTable.unknown,
    ...common,
  },
  details: `
MODEL is a training run's directory or a .bin file. With several samples the seed counts up, and each text is printed
when it is finished. With --json, for each: {"prompt","text","tokens","end","seconds","tokensPerSecond"}, where end is
length, stop or endOfText; with --log-probabilities also "logProbabilities".`,
  async run([path = ''], values, output, signal) {
    const {
      json: _,
      prompt,
      promptFile,
      samples = 1,
      threads,
      lora,
      allowOtherBase,
      loraAlpha,
      unknown,
      state,
      ...options
    } = values
    if (samples < 1) throw new UsageError('--samples is 0; it must be at least 1')
    const given = await promptOf(prompt, promptFile)
    await using model = await Model.load(path, { lora, allowOtherBase, loraAlpha, threads, unknown, signal })
    const { tokenizer } = model
    const start = { state: await startingState(model, state, allowOtherBase) }
    const shown = given ?? tokenizer.decode(tokenizer.beginning())
    const write = async (session: Session, index: number, isStreamed: boolean) => {
      const startedAt = performance.now()
      const { seed } = options
      const own = { ...options, ...(seed !== undefined && { seed: seed + index }), signal }
      const writing = session.generate(given ?? '', own)
      await show(writing, output, given ?? '', isStreamed, signal)
      const seconds = (performance.now() - startedAt) / 1000
      const { text, end, logProbabilities } = writing
      const tokens = writing.tokens.length
      const speed = { tokens, end, seconds, tokensPerSecond: tokens / seconds }
      if (signal.aborted && tokens === 0) return
      output.object({ prompt: shown, text, ...speed, ...(logProbabilities && { logProbabilities }) })
    }
    const one = async (index: number, isStreamed: boolean) => {
      if (signal.aborted) return
      using session = model.createSession(start)
      await write(session, index, isStreamed)
    }
    if (samples === 1) await one(0, true)
    else await someAtATime(samples, GROUP, index => one(index, false))
    return exitCode(signal)
  },
})

/** Texts that are written at a time. */
const GROUP = 32

/** What to go on from, if that is given. */
async function promptOf(prompt: string | undefined, file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return prompt
  if (prompt !== undefined) throw new UsageError('--prompt and --prompt-file are both given', 'leave one out')
  const name = file === '-' ? 'standard input' : file
  let bytes: Uint8Array
  try {
    bytes = file === '-' ? await bytesOf(process.stdin) : await readRegular(file, MOST_BYTES)
  } catch (error) {
    throw new RwkvError('IO', `cannot read ${name}: ${(error as Error).message}`, { cause: error })
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (error) {
    throw new RwkvError('INVALID_UTF8', `${name} is not UTF-8: a prompt is text`, { cause: error })
  }
}

/** The longest prompt that is read from a file. */
const MOST_BYTES = 2 ** 30

/** Prints a text, as it comes or when it is finished; the prompt first. */
async function show(
  writing: Generation,
  output: Output,
  prompt: string,
  isStreamed: boolean,
  signal: AbortSignal,
): Promise<void> {
  let isShown = false
  const begin = () => {
    // The prompt comes with the first piece: only now it is known to be one that the model can read.
    if (!isShown) output.text(prompt)
    isShown = true
  }
  try {
    for await (const piece of writing) {
      if (!isStreamed) continue
      begin()
      output.text(piece)
    }
    begin()
    if (!isStreamed) output.text(writing.text)
  } catch (error) {
    if (!signal.aborted) throw error
  }
  output.endText()
}

import { statSync } from 'node:fs'
import { join } from 'node:path'
import { runLosses } from '../report.js'
import { Smooth } from '../smooth.js'
import type { Step, Trainer } from '../trainer.js'
import { lossChart, type Point } from './chart.js'
import { bytes, clock, count, near, short } from './format.js'
import { bar } from './live.js'
import { type Output, style } from './output.js'
import { resumeCommand } from './resume.js'
import { OutputError } from './stdout.js'
import { trainedKind, trainedWhat, useCommands } from './tuning.js'
import { tellUnsound } from './unsound.js'

/** What is shown of a run, and what is counted for it. */
export class Progress {
  readonly #trainer: Trainer
  readonly #output: Output
  readonly #smooth = new Smooth()
  readonly #training: Point[] = []
  readonly #validation: Point[] = []
  readonly #startedAt = performance.now()
  #bitsPerByte: number | undefined
  #tokens = 0
  #seconds = 0

  constructor(trainer: Trainer, output: Output) {
    this.#trainer = trainer
    this.#output = output
  }

  start(): void {
    const { options, parameters, trainedParameters, trainTokens, valTokens, tokenizer, isa, steps } =
      this.#trainer
    const { data, out, from, threads, precision, arch, nLayer, nEmbd, maxSteps } = options
    const about = {
      data,
      out,
      from,
      parameters,
      trainedParameters,
      trainTokens,
      valTokens,
      nVocab: tokenizer.nVocab,
      threads,
      precision,
      isa,
      steps,
      wentBackFrom: this.#trainer.wentBackFrom,
      maxSteps,
    }
    this.#output.object({ event: 'start', ...about })
    const learned = `${count(trainTokens)} ${tokenizer.unit}s to learn, ${count(valTokens)} to validate`
    this.#output.prose(`${nameOf(data)}: ${learned}, a vocabulary of ${count(tokenizer.nVocab)} tokens`)
    const layers = nLayer === 1 ? '1 layer' : `${nLayer} layers`
    // Runs that do not say have an RWKV-4.
    const shape = `${(arch ?? 'v4').replace('v', 'RWKV-')} of ${layers}, ${nEmbd} wide: ${count(parameters)} parameters`
    this.#output.prose(`${shape} · ${isa}, ${precision}, ${threads} threads · ${out}`)
    const what = trainedWhat(this.#trainer)
    if (what !== undefined) this.#output.line(what)
    const { wentBackFrom } = this.#trainer
    if (wentBackFrom !== undefined)
      this.#output.line(
        `all checkpoints after step ${count(steps)}, up to checkpoint-${wentBackFrom}, were worse than guessing and are removed`,
      )
    if (steps > 0) this.#output.line(`going on after step ${count(steps)}`)
    else if (wentBackFrom !== undefined) this.#output.line('no checkpoint is better: beginning again')
  }

  /** Shows a step, and sometimes what the model writes by now. */
  async after(step: Step, signal: AbortSignal): Promise<void> {
    const { loss, tokens, seconds, valLoss } = step
    const smoothed = this.#smooth.add(loss)
    this.#tokens += tokens
    this.#seconds += seconds
    this.#training.push({ step: step.step, loss: smoothed })
    this.#output.object({
      event: 'step',
      step: step.step,
      loss,
      learningRate: step.learningRate,
      tokensPerSecond: step.tokensPerSecond,
    })
    this.#output.live(this.#line(step, smoothed))
    if (valLoss === undefined) this.#plain(step, smoothed)
    else await this.#validated(step, smoothed, valLoss, signal)
  }

  async #validated(
    { step, loss, bitsPerByte }: Step,
    smoothed: number,
    valLoss: number,
    signal: AbortSignal,
  ): Promise<void> {
    const before = this.#validation.at(-1)?.step ?? 0
    this.#validation.push({ step, loss: valLoss })
    this.#bitsPerByte = bitsPerByte
    this.#output.object({ event: 'validation', step, valLoss, bitsPerByte })
    this.#told(
      { step, loss },
      smoothed,
      `  ${style.yellow(`validation ${valLoss.toFixed(3)}${this.#bits()}`)}`,
    )
    // A sample for each quarter of the run.
    const quarter = (step: number) => Math.floor((4 * step) / this.#trainer.options.maxSteps)
    if (quarter(step) === quarter(before)) return
    const sampling = { temperature: 0.8, topP: 0.95, seed: step }
    const text = await this.#trainer.sample({ maxTokens: 160, ...sampling, signal })
    this.#output.object({ event: 'sample', step, text })
    this.#output.prose(text.trim(), `  ${style.dim('│')} `)
  }

  /** The last validation in bits for each byte, where that says something new: where a token is no byte. */
  #bits(): string {
    if (this.#bitsPerByte === undefined || this.#trainer.tokenizer.kind === 'byte') return ''
    return ` (${this.#bitsPerByte.toFixed(3)} bits a byte)`
  }

  /** Where there is no live line, a plain one now and then. */
  #plain({ step, loss }: Step, smoothed: number): void {
    const every = Math.max(1, Math.round(this.#trainer.options.maxSteps / 40))
    if (this.#output.isLive || (step % every !== 0 && this.#training.length > 1)) return
    this.#told({ step, loss }, smoothed)
  }

  /** A line of a step that stays; a live line says below it how much time is left. */
  #told({ step, loss }: { step: number; loss: number }, smoothed: number, validation = ''): void {
    const losses = `loss ${loss.toFixed(3)}  smoothed ${smoothed.toFixed(3)}${validation}`
    const left = this.#output.isLive ? '' : this.#left(step)
    this.#output.line(`step ${this.#at(step)}  ${losses}  ${this.#speed()}${left}`)
  }

  #line({ step, loss }: Step, smoothed: number): string {
    const { maxSteps } = this.#trainer.options
    const parts = [`loss ${loss.toFixed(3)}`, `smoothed ${smoothed.toFixed(3)}`, this.#speed()]
    const text = `${this.#at(step)}  ${parts.join('  ')}${this.#left(step)}`
    // The bar is the least of it: it takes what room there is.
    const width = Math.min(20, this.#output.columns - text.length - 2)
    return width < 4 ? text : `${style.cyan(bar(step / maxSteps, width))} ${text}`
  }

  /** How long the remaining steps will take, as an end of a line; nothing after the last. */
  #left(step: number): string {
    const left = this.#trainer.options.maxSteps - step
    return left > 0 ? `  ${clock((this.#seconds / this.#training.length) * left)} left` : ''
  }

  #at(step: number): string {
    const { maxSteps } = this.#trainer.options
    return `${String(step).padStart(String(maxSteps).length)}/${maxSteps}`
  }

  #speed(): string {
    return `${short(this.#tokens / this.#seconds)} tokens/s`
  }

  /**
   * Ctrl-C, or nobody hears what is shown: everything up to the last step is kept.
   *
   * @param code The exit code that this means; 0 if it means none.
   * @throws {OutputError} that says so, if what is shown does not arrive.
   */
  async interrupted(code: number): Promise<void> {
    this.#output.done()
    const { steps } = this.#trainer
    const { out } = this.#trainer.options
    // Who asked may end the process soon: no time for a sample.
    await this.#trainer.save({ sample: false })
    tellUnsound(this.#trainer, this.#output)
    const goOn = resumeCommand(this.#trainer.options)
    this.#output.object({ event: 'interrupted', steps, resume: out })
    this.#output.line(`stopped after step ${steps} and saved it; to go on:`)
    this.#output.line(`  ${goOn}`)
    const failure = await this.#output.failure()
    if (failure)
      throw new OutputError(failure.cause, `saved checkpoint-${steps}; go on with ${goOn}`, code || 1)
  }

  /** @throws {OutputError} that says what the run came to, if what is shown does not arrive. */
  async end(): Promise<void> {
    await this.#summary()
    const failure = await this.#output.failure()
    const { steps, result } = this.#trainer
    if (failure) throw new OutputError(failure.cause, `all ${count(steps)} steps are done: ${result}`)
  }

  /** The whole run's curves: of one that was resumed, those in its log, which begin before this session. */
  async #curves(): Promise<{ training: readonly Point[]; validation: readonly Point[] }> {
    const shown = { training: this.#training, validation: this.#validation }
    if (this.#training.length === this.#trainer.steps) return shown
    // A log that cannot be read is no reason to say nothing of the rest.
    return runLosses(this.#trainer.options.out).catch(() => shown)
  }

  async #summary(): Promise<void> {
    const { options, steps, result } = this.#trainer
    const [trainLoss, valLoss] = [this.#training.at(-1)?.loss ?? null, this.#validation.at(-1)?.loss ?? null]
    const tokensPerSecond = this.#seconds > 0 ? this.#tokens / this.#seconds : null
    const seconds = (performance.now() - this.#startedAt) / 1000
    // The last object is the one that sums up; for people the last lines are what they must not miss.
    if (this.#output.json) tellUnsound(this.#trainer, this.#output)
    const { best, kept } = this.#trainer
    const bitsPerByte = this.#bitsPerByte ?? null
    const figures = { steps, trainLoss, valLoss, bitsPerByte, best, kept, tokensPerSecond, seconds }
    this.#output.object({ event: 'done', ...figures, [trainedKind(options)]: result })
    const ended = `no better validation loss in ${options.patience} validations`
    if (this.#training.length === 0) {
      const why = steps < options.maxSteps ? `${ended}; a larger --patience goes on` : 'all steps are done'
      this.#output.line(`the run ended with step ${count(steps)}: ${why}; see ${result}`)
      this.#tellKept()
      return
    }
    const { columns, colour } = this.#output
    const { training, validation } = await this.#curves()
    const chart = lossChart(training, validation, {
      width: Math.min(columns, 100),
      height: 12,
      colour,
    })
    if (chart !== '') this.#output.line(`\n${chart}\n`)
    if (steps < options.maxSteps) this.#output.line(`stopped after step ${count(steps)}: ${ended}`)
    const losses = `validation loss ${style.bold(valLoss?.toFixed(3) ?? '–')}${this.#bits()}, training loss ${trainLoss?.toFixed(3)}`
    this.#output.line(losses)
    this.#output.line(`${this.#speed()} in steps · ${clock(seconds)} in all`)
    this.#output.line(`${result} (${bytes(sizeOf(result))}) · ${join(options.out, 'report.html')}`)
    this.#tellKept()
    for (const line of useCommands(options)) this.#output.line(`  ${line}`)
    if (!this.#output.json) tellUnsound(this.#trainer, this.#output)
  }

  /** Which step's the file of the run is, if it is not the last one's. */
  #tellKept(): void {
    const { steps, kept } = this.#trainer
    if (kept === undefined || kept.step === steps) return
    const loss =
      kept.valLoss === undefined ? '' : `, with a validation loss of ${style.bold(kept.valLoss.toFixed(3))}`
    const before = kept.step > steps ? ', from before the run went back' : ''
    this.#output.line(`it is the model of step ${count(kept.step)}${loss}${before}`)
  }
}

/** The size of a file; 0 if somebody has removed it. */
function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}

/** What a run learns, in a few words. */
function nameOf(data: string | readonly string[]): string {
  const [first = '', ...others] = [data].flat()
  const name = first === '-' ? 'standard input' : near(first)
  return others.length === 0 ? name : `${name} and ${others.length} more`
}

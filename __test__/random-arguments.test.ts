import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  adapterInfo,
  convert,
  Model,
  merge,
  quantize,
  Session,
  State,
  Tokenizer,
  Trainer,
  writeReport,
} from '../src/index.js'
import * as schemas from '../src/schemas.js'
import { expectDocumented, runs, seed, timeout, within } from './random.js'
import { temporaryDirectory, tiny, trainTiny, writeText } from './tiny.js'

/**
 * Values of every kind: none of them starts work that takes long or much memory, and no text names a place
 * outside.
 */
const odd: fc.Arbitrary<unknown> = fc
  .oneof(
    fc.constantFrom(
      undefined,
      null,
      true,
      false,
      '',
      'x',
      '0',
      '\0',
      '\ud800',
      'the red',
      'none/such',
      'Q4_0',
    ),
    fc.constantFrom(0, -0, 1, -1, 1.5, 3, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
    fc.constantFrom(1e308, 1e-300, 5e-324, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1, 2 ** 53),
    fc.constantFrom(5n, Symbol('x'), () => 1, class {}, [], [''], ['a', 5], [1, 2], [1.5], {}, new Date(0)),
    fc.constantFrom(new Uint8Array(3), Float64Array.of(1.5), new DataView(new ArrayBuffer(4)), new Map()),
    fc.constantFrom(Object.create(State.prototype), Object.create(Model.prototype), AbortSignal.abort()),
    fc.anything({
      withBigInt: true,
      withDate: true,
      withMap: true,
      withTypedArray: true,
      withSparseArray: true,
    }),
  )
  .filter(value => typeof value !== 'string' || value.length < 10)

describe(`random arguments (RWKV_SEED=${seed})`, async () => {
  const directory = await temporaryDirectory()
  let run: string
  let data: string
  let model: Model

  beforeAll(async () => {
    data = await writeText(directory)
    run = await trainTiny(directory, { maxSteps: 2 })
    model = await Model.load(run, { threads: 2 })
    await writeFile(join(directory, 'kept.state'), model.createSession().state.toBuffer())
    await trainTiny(directory, { from: run, out: join(directory, 'adapted'), loraRank: 2, maxSteps: 2 })
    // Names that come up by chance are files here.
    process.chdir(directory)
  })
  afterAll(() => {
    model?.close()
    process.chdir(join(import.meta.dirname, '..'))
  })

  it(
    'arguments of every kind work, or fail with an error that says why',
    async () => {
      const trainer = await Trainer.create({ ...tiny, data, out: join(directory, 'trainer') })
      const before = await model.createSession().eval([1, 2])
      try {
        await fc.assert(property(calls(trainer)), runs(600))
      } finally {
        trainer.close()
      }
      // None of it has changed the model.
      expect(await model.createSession().eval([1, 2])).toEqual(before)
    },
    timeout,
  )

  let runsMade = 0

  /** Every public call, with arguments that work. */
  function calls(trainer: Trainer): Call[] {
    const session = () => model.createSession()
    const state = () => session().state
    const short = { maxTokens: 3, temperature: 1, seed: 1 }
    const bench = { decode: 1, prompt: 1, sessions: 1, seconds: 0 }
    const newRun = () => ({ ...tiny, data, out: join(directory, `run-${runsMade++}`) })
    return [
      { on: () => Model, name: 'load', args: () => [run, { threads: 1 }], schema: schemas.loadOptions },
      { on: () => model, name: 'evaluate', args: () => [data, {}], schema: schemas.evaluateOptions },
      { on: () => model, name: 'bench', args: () => [bench], schema: schemas.benchOptions },
      { on: session, name: 'eval', args: () => [[1, 2], {}], schema: schemas.promptOptions },
      { on: session, name: 'prompt', args: () => ['the', {}], schema: schemas.promptOptions },
      { on: session, name: 'generate', args: () => ['the', short], schema: schemas.generateOptions },
      { on: () => ({ set }), name: 'set', args: () => [session(), state()], isSync: true },
      { on: () => State, name: 'from', args: () => [model, state().toBuffer()], isSync: true },
      {
        on: () => model,
        name: 'createSession',
        args: () => [{ state: state() }],
        schema: schemas.sessionOptions,
        isSync: true,
      },
      { on: () => State, name: 'load', args: () => [model, join(directory, 'kept.state')] },
      { on: state, name: 'equals', args: () => [state()], isSync: true },
      { on: () => Tokenizer, name: 'charactersOf', args: () => ['abc'], isSync: true },
      { on: () => model.tokenizer, name: 'encode', args: () => ['the'], isSync: true },
      { on: () => model.tokenizer, name: 'decode', args: () => [[1, 2]], isSync: true },
      { on: () => Tokenizer, name: 'load', args: () => [join(run, 'tokenizer.json')] },
      { on: () => model.tokenizer, name: 'save', args: () => [join(directory, 'saved.json')] },
      {
        on: () => ({ quantize }),
        name: 'quantize',
        args: () => [run, join(directory, 'q.bin'), 'Q8_0', { threads: 1 }],
        schema: schemas.quantizeOptions,
      },
      {
        on: () => ({ convert }),
        name: 'convert',
        args: () => [run, join(directory, 'c.pth'), { dataType: 'FP32' }],
        schema: schemas.convertOptions,
      },
      {
        on: () => ({ merge }),
        name: 'merge',
        args: () => [run, join(directory, 'adapted'), join(directory, 'm.bin'), {}],
        schema: schemas.mergeOptions,
      },
      { on: () => ({ adapterInfo }), name: 'adapterInfo', args: () => [join(directory, 'adapted')] },
      {
        on: () => ({ writeReport }),
        name: 'writeReport',
        args: () => [run, { out: join(directory, 'report.html') }],
        schema: schemas.reportOptions,
      },
      { on: () => Trainer, name: 'create', args: () => [newRun()], schema: schemas.trainOptions },
      { on: () => Trainer, name: 'resume', args: () => [run, {}], schema: schemas.resumeOptions },
      { on: () => trainer, name: 'validate', args: () => [{}], schema: schemas.validateOptions },
      { on: () => trainer, name: 'sample', args: () => [short], schema: schemas.sampleOptions },
    ]
  }
})

/** One of the public calls. */
interface Call {
  on: () => object
  name: string
  args: () => unknown[]
  /** What its last argument may hold. */
  schema?: object
  /** It throws instead of rejecting. */
  isSync?: true
}

/** Some of a call's arguments and options become odd ones, and there are options that it does not know. */
function property(calls: readonly Call[]) {
  const changes = {
    call: fc.constantFrom(...calls.map(call => ({ ...call, [fc.toStringMethod]: () => call.name }))),
    args: fc.array(fc.tuple(fc.nat(3), odd), { maxLength: 1 }),
    options: fc.array(fc.tuple(fc.nat(30), odd), { maxLength: 3 }),
  }
  return fc.asyncProperty(fc.record(changes), async ({ call, args: changedArgs, options }) => {
    const { on, name, schema, isSync } = call
    const args = call.args()
    if (schema) args.push(changed(schema, args.pop() as object, options))
    for (const [at, value] of changedArgs) {
      // No options at all are no signal to stop with.
      const isOptions = schema && at % args.length === args.length - 1
      if (!isOptions || !isEmpty(value)) args[at % args.length] = value
    }
    const target = on()
    let result: unknown
    try {
      result = Reflect.apply(Reflect.get(target, name), target, args)
    } catch (error) {
      expect(isSync, 'it must reject').toBe(true)
      expectDocumented(error)
    }
    await within(use(result)).catch(error => {
      // A signal's own reason.
      if (!(error instanceof DOMException)) expectDocumented(error)
    })
  })
}

/** Options with a signal, which stops what would go on for long, and some that are odd. */
function changed(schema: object, good: object, changes: readonly [at: number, value: unknown][]): object {
  const options = { ...good, ...('signal' in schema && { signal: AbortSignal.timeout(50) }) }
  const names = [...Object.keys(schema), 'max_tokens', '__proto__', 'toString']
  for (const [at, value] of changes) {
    const name = names[at % names.length] ?? ''
    if (name === 'signal' && value === undefined) continue
    Object.defineProperty(options, name, { value, enumerable: true, configurable: true, writable: true })
  }
  return options
}

function isEmpty(value: unknown): boolean {
  return value === undefined || (typeof value === 'object' && Object.keys(value ?? [0]).length === 0)
}

/** An assignment as a call. */
function set(session: Session, state: State): void {
  if (session instanceof Session) session.state = state
}

/** Takes what a call gave to its end: some pieces of a text, or whatever must be closed. */
async function use(result: unknown): Promise<void> {
  const value = await (result as Promise<unknown>)
  if (value instanceof Model || value instanceof Trainer || value instanceof Session) value.close()
  if (!(value && typeof value === 'object' && Symbol.asyncIterator in value)) return
  let pieces = 0
  for await (const _ of value as AsyncIterable<string>) if (++pieces === 3) break
}

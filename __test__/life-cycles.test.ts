import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Model, type Session, State, Trainer } from '../src/index.js'
import { expectDocumented, runs, seed, timeout, within } from './random.js'
import { temporaryDirectory, tiny, trainTiny, writeText } from './tiny.js'

describe(`life cycles (RWKV_SEED=${seed})`, async () => {
  const directory = await temporaryDirectory()
  let run: string
  let data: string
  let model: Model

  beforeAll(async () => {
    data = await writeText(directory)
    run = await trainTiny(directory, { maxSteps: 2 })
    model = await Model.load(run, { threads: 2 })
  })
  afterAll(() => model?.close())

  const index = fc.nat(3)
  const sessions = command<World>
  const trainer = command<Run>

  it(
    'sessions: any calls in any order end as the documentation says',
    async () => {
      const fresh = await model.createSession().prompt('the red fox')
      const commands = fc.commands(
        [
          fc.constant(sessions('create', world => world.create())),
          fc.tuple(index, fc.constantFrom(1, 600, 5000)).map(([i, count]) =>
            sessions(`eval(${i}, ${count} tokens)`, world => {
              const { signal } = world
              world.on(i, session => session.eval(new Uint32Array(count).fill(1), { signal }))
            }),
          ),
          index.map(i => sessions(`prompt(${i})`, world => world.on(i, session => session.prompt('the')))),
          fc.tuple(index, fc.constantFrom('', 'the'), fc.nat(3)).map(([i, prompt, pieces]) =>
            sessions(`generate(${i}, "${prompt}", ${pieces} pieces)`, world => {
              const { signal } = world
              const write = async (session: Session) => {
                let left = pieces
                const options = { maxTokens: 200, stop: 'zzz', signal }
                for await (const _ of session.generate(prompt, options)) {
                  if (left-- <= 0) break
                  // What comes meanwhile finds a loop that is not ended.
                  await sleep(1)
                }
              }
              world.on(i, write, prompt === '' ? ['INVALID_OPTION'] : [])
            }),
          ),
          fc.tuple(index, index).map(([i, j]) => sessions(`fork(${i}, ${j})`, world => world.fork(i, j))),
          fc.constant(sessions('abort', world => world.abort())),
          index.map(i => sessions(`close(${i})`, world => world.closeSession(i))),
          fc.constant(sessions('close the model', world => world.model.close())),
          fc.constant(sessions('dispose of the model', world => within(world.model[Symbol.asyncDispose]()))),
          fc.constant(sessions('load', world => world.load())),
          fc.constant(sessions('wait', world => world.settled())),
          fc.nat(3).map(ms => sessions(`wait ${ms} ms`, () => sleep(ms))),
        ],
        { maxCommands: 25 },
      )
      const property = fc.asyncProperty(commands, async commands => {
        const world = new World(await Model.load(run, { threads: 2 }), run)
        world.create()
        world.create()
        try {
          await fc.asyncModelRun(() => ({ model: {}, real: world }), commands)
          await world.settled()
        } finally {
          world.model.close()
        }
      })
      await fc.assert(property, runs(200))
      expect(await model.createSession().prompt('the red fox')).toEqual(fresh)
    },
    timeout,
  )

  it(
    'trainers: any calls in any order end as the documentation says',
    async () => {
      let next = 0
      const options = { ...tiny, data, maxSteps: 1_000_000, warmupSteps: 1 }
      const commands = fc.commands(
        [
          fc.constant(trainer('step', run => run.let(() => run.trainer.step()))),
          fc.constant(trainer('sample', run => run.let(() => run.trainer.sample({ maxTokens: 5 })))),
          fc.constant(
            trainer('validate', run => {
              const { signal } = run
              run.let(() => run.trainer.validate({ signal, onProgress: () => {} }))
            }),
          ),
          fc.constant(trainer('save', run => run.let(() => run.trainer.save()))),
          fc.constant(trainer('abort', run => run.abort())),
          fc.constant(trainer('close', run => run.trainer.close())),
          fc.constant(trainer('resume', run => run.resume())),
          fc.constant(trainer('wait', run => run.settled())),
        ],
        { maxCommands: 15 },
      )
      const property = fc.asyncProperty(commands, async commands => {
        const run = new Run(await Trainer.create({ ...options, out: join(directory, `lives-${next++}`) }))
        try {
          await fc.asyncModelRun(() => ({ model: {}, real: run }), commands)
          await run.settled()
        } finally {
          run.trainer.close()
        }
      })
      await fc.assert(property, runs(30))
    },
    timeout,
  )
})

/**
 * One call of many. What is known of the objects is kept beside them, so that fast-check's model has nothing
 * to hold.
 */
function command<W extends Calls>(name: string, run: (world: W) => unknown): fc.AsyncCommand<object, W> {
  return {
    check: () => true,
    run: async (_, world) => {
      await run(world)
    },
    toString: () => name,
  }
}

/** Something that does one thing at a time until it is closed. */
interface Owner {
  /** Calls that are not settled. */
  calls: number
  isClosed(): boolean
}

/** Calls that were made, and how they end. */
class Calls {
  readonly #checks = new Set<Promise<unknown>>()
  #abort = new AbortController()

  /** The signal of calls that are made now. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  abort(): void {
    this.#abort.abort()
    this.#abort = new AbortController()
  }

  /**
   * Makes a call, and checks in the end how it ended: well, stopped, or with a code that there was a reason
   * for.
   */
  make(owner: Owner, call: () => Promise<unknown>, codes: readonly string[] = []): void {
    const { signal } = this
    const [wasClosed, wasBusy] = [owner.isClosed(), owner.calls > 0]
    owner.calls++
    const check = within(call())
      .then(
        () => expect(wasClosed, 'what is closed did something').toBe(false),
        error => {
          if (signal.aborted && error === signal.reason) return
          expectDocumented(error)
          const closed = owner.isClosed() ? ['CLOSED'] : []
          const others = wasClosed ? [] : wasBusy ? ['BUSY', ...codes] : codes
          expect([...closed, ...others], error.message).toContain(error.code)
        },
      )
      .finally(() => {
        owner.calls--
      })
    // Whoever waits for all of them is told.
    check.catch(() => {})
    this.#checks.add(check)
  }

  /** Waits until all of them have ended. */
  async settled(): Promise<void> {
    await Promise.all(this.#checks)
    this.#checks.clear()
  }
}

/** A model and sessions of it. */
class World extends Calls {
  model: Model
  readonly #path: string
  #sessions: (Owner & { session: Session })[] = []

  constructor(model: Model, path: string) {
    super()
    this.model = model
    this.#path = path
  }

  create(): void {
    const { model } = this
    if (model.isClosed) {
      expectCode(() => model.createSession(), ['CLOSED'])
      return
    }
    let isClosed = false
    const session = model.createSession()
    const close = session.close.bind(session)
    session.close = () => {
      isClosed = true
      close()
    }
    this.#sessions.push({ session, calls: 0, isClosed: () => isClosed || model.isClosed })
  }

  /** The model again, if it was closed; work on the old one may be under way. */
  async load(): Promise<void> {
    if (this.model.isClosed) this.model = await within(Model.load(this.#path, { threads: 2 }))
  }

  /** Calls something of a session, if there is one. */
  on(index: number, call: (session: Session) => Promise<unknown>, codes: readonly string[] = []): void {
    const owner = this.#at(index)
    if (owner) this.make(owner, () => call(owner.session), codes)
  }

  fork(from: number, to: number): void {
    const [one, other] = [this.#at(from), this.#at(to)]
    if (!one || !other) return
    const closed = one.isClosed() || other.isClosed() ? ['CLOSED'] : []
    const busy = one.calls > 0 || other.calls > 0 ? ['BUSY'] : []
    const fork = () => {
      const { state } = one.session
      other.session.state = state
      expect(State.from(this.model, state.toBuffer()).equals(other.session.state)).toBe(true)
    }
    // Sessions of a model before may be among them.
    if (closed.length + busy.length === 0) fork()
    else expectCode(fork, [...closed, ...busy], busy.length > 0)
  }

  closeSession(index: number): void {
    this.#at(index)?.session.close()
  }

  #at(index: number) {
    return this.#sessions.at(-1 - (index % Math.max(1, this.#sessions.length)))
  }
}

/** A training run. */
class Run extends Calls {
  trainer: Trainer
  #owner: Owner

  constructor(trainer: Trainer) {
    super()
    this.trainer = trainer
    this.#owner = ownerOf(trainer)
  }

  let(call: () => Promise<unknown>): void {
    this.make(this.#owner, call)
  }

  /** Goes on with the run in its directory, if nobody has it any more. */
  async resume(): Promise<void> {
    if (!this.#owner.isClosed()) return
    await this.settled()
    this.trainer = await within(Trainer.resume(this.trainer.options.out))
    this.#owner = ownerOf(this.trainer)
  }
}

function ownerOf(trainer: Trainer): Owner {
  let isClosed = false
  const close = trainer.close.bind(trainer)
  trainer.close = () => {
    isClosed = true
    close()
  }
  return { calls: 0, isClosed: () => isClosed }
}

/** Calls something that fails with one of these codes, or, if that is so, may do its work. */
function expectCode(call: () => unknown, codes: readonly string[], mayWork = false): void {
  let error: unknown
  try {
    call()
  } catch (thrown) {
    error = thrown
  }
  if (error === undefined && mayWork) return
  expectDocumented(error)
  expect(codes, error.message).toContain(error.code)
}

import { getEventListeners } from 'node:events'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Cancel } from '#native'

// A copy of its own, so that its listener of the process is known.
const before = process.listeners('exit')
vi.resetModules()
const { cancellable } = await import('../src/cancel.js')
const [atExit] = process.listeners('exit').filter(listener => !before.includes(listener))

describe('work that can be stopped', () => {
  const { raise } = Cancel.prototype
  let raised = 0
  beforeEach(() => {
    raised = 0
    Cancel.prototype.raise = function (this: Cancel) {
      raised++
      raise.call(this)
    }
  })
  afterEach(() => {
    Cancel.prototype.raise = raise
  })

  /** Work that ends when it is told to, and whether it was asked to stop. */
  function begin(controller: AbortController) {
    let [end, fail] = [() => {}, (_: Error) => {}]
    const result = cancellable(
      { signal: controller.signal },
      () =>
        new Promise<string>((resolve, reject) => {
          end = () => resolve('done')
          fail = reject
        }),
    )
    return { result, end: () => end(), fail: (error: Error) => fail(error) }
  }
  const stopped = () => Object.assign(new Error('stopped on request'), { code: 'ABORTED' })
  const listeners = ({ signal }: AbortController) => getEventListeners(signal, 'abort').length

  it('leaves nothing at its signal, however it ends', async () => {
    const controller = new AbortController()
    for (const isGood of [true, false]) {
      const { result, end, fail } = begin(controller)
      expect(listeners(controller)).toBe(1)
      if (isGood) end()
      else fail(new Error('a fault'))
      await result.catch(() => {})
      expect(listeners(controller)).toBe(0)
    }
    const { result, fail } = begin(controller)
    controller.abort(new Error('enough'))
    expect(raised).toBe(1)
    fail(stopped())
    await expect(result).rejects.toThrow('enough')
    expect(listeners(controller)).toBe(0)
  })

  it('is told to stop when the process ends, but not once it is over', async () => {
    const [one, other] = [begin(new AbortController()), begin(new AbortController())]
    one.end()
    expect(await one.result).toBe('done')
    atExit?.call(process, 0)
    expect(raised).toBe(1)
    other.fail(stopped())
    await expect(other.result).rejects.toMatchObject({ code: 'CLOSED' })
    atExit?.call(process, 0)
    expect(raised).toBe(1)
  })

  it('does not begin after an abort', async () => {
    const work = vi.fn(async () => 'done')
    const reason = new Error('before')
    await expect(cancellable({ signal: AbortSignal.abort(reason) }, work)).rejects.toBe(reason)
    expect(work).not.toHaveBeenCalled()
  })

  it('that is done counts, also if it was asked to stop by then', async () => {
    const controller = new AbortController()
    const { result, end } = begin(controller)
    controller.abort()
    end()
    expect(await result).toBe('done')
  })
})

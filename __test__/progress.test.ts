import { expect, it } from 'vitest'
import type { Output } from '../src/cli/output.js'
import { Progress } from '../src/cli/progress.js'
import type { Step, Trainer } from '../src/index.js'

/** What is shown of eight steps of two seconds each, all of which end with a validation. */
async function shown(isLive: boolean) {
  const lines: string[] = []
  const live: string[] = []
  const events: { event: string; step: number }[] = []
  const plain = (text: string) => text.replace(/\p{Cc}[0-9a-f]*\[\d+m/gu, '')
  const output = {
    isLive,
    columns: 100,
    line: (text: string) => lines.push(plain(text)),
    prose: (text: string, margin: string) => lines.push(plain(margin) + text),
    live: (text: string) => live.push(plain(text)),
    object: (event: { event: string; step: number }) => events.push(event),
  }
  const trainer = { options: { maxSteps: 8 }, sample: async () => '\n a sample\n' }
  const progress = new Progress(trainer as unknown as Trainer, output as unknown as Output)
  for (let step = 1; step <= 8; step++) {
    const report = { step, loss: 4 / step, tokens: 1000, seconds: 2, learningRate: 0.001 }
    const speed = { tokensPerSecond: 500, gradNorm: 1, valLoss: 5 / step }
    await progress.after({ ...report, ...speed } as unknown as Step, new AbortController().signal)
  }
  return { lines, live, events }
}

it('a sample for each quarter of a run, and how much time is left', async () => {
  const { lines, live, events } = await shown(false)
  expect(events.filter(({ event }) => event === 'sample').map(({ step }) => step)).toEqual([2, 4, 6, 8])
  expect(lines.filter(line => line === '  │ a sample')).toHaveLength(4)
  const steps = lines.filter(line => line.startsWith('step '))
  expect(steps).toHaveLength(8)
  expect(steps[0]).toBe('step 1/8  loss 4.000  smoothed 4.000  validation 5.000  500 tokens/s  0:14 left')
  expect(steps[3]).toMatch(
    /^step 4\/8 {2}loss 1\.000 {2}smoothed \d\.\d{3} {2}validation 1\.250 .* {2}0:08 left$/,
  )
  expect(steps[7]).toMatch(/tokens\/s$/)
  // The bar is as full as the run is over.
  expect(live[3]).toMatch(/^━{10}─{10} 4\/8 {2}/)
})

it('where there is a live line, it alone says how much time is left', async () => {
  const { lines, live } = await shown(true)
  expect(lines.some(line => line.includes('left'))).toBe(false)
  expect(live[3]).toMatch(/0:08 left$/)
})

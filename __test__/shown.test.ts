import { Command } from 'commander'
import { describe, expect, it, vi } from 'vitest'
import { addVerb } from '../src/cli/arguments.js'
import { lossChart } from '../src/cli/chart.js'
import { bytes, clock, count, kebab, short } from '../src/cli/format.js'
import { bar, LiveLine } from '../src/cli/live.js'
import { verb } from '../src/cli/verb.js'

describe('numbers as people read them', () => {
  it.each([
    [count, 12345.6, '12,346'],
    [count, 0.5, '1'],
    [count, 1e9, '1,000,000,000'],
    [short, 874_752, '875 K'],
    [short, 1_536_000, '1.54 M'],
    [short, 41_000, '41.0 K'],
    [short, 999.4, '999'],
    // What would be rounded to a thousand of a unit is one of the next.
    [short, 999.6, '1.00 K'],
    [short, 999_600, '1.00 M'],
    [short, 999_400, '999 K'],
    [short, 2e9, '2.00 G'],
    [bytes, 999, '999 bytes'],
    [bytes, 1000, '1.00 kB'],
    [bytes, 3_501_056, '3.50 MB'],
    [clock, 75.4, '1:15'],
    [clock, 59.6, '1:00'],
    [clock, 3725, '1:02:05'],
    [clock, 36_000, '10:00:00'],
    [clock, 0, '0:00'],
    [clock, -5, '0:00'],
  ] as const)('%o of %d is %s', (format, value, expected) => {
    expect(format(value)).toBe(expected)
  })

  it('options in kebab case', () => {
    expect([kebab('nLayer'), kebab('finalLearningRate')]).toEqual(['n-layer', 'final-learning-rate'])
  })
})

describe('the chart', () => {
  const options = { width: 60, height: 6, colour: false }
  /** The losses at the left of the chart. */
  const labels = (chart: string) =>
    [...chart.matchAll(/^ *(\d+\.\d{3})[┤┼]/gm)].map(([, loss]) => Number(loss))

  it('joins the points by straight lines, and goes no higher or lower', () => {
    const points = [
      { step: 10, loss: 4 },
      { step: 1000, loss: 1 },
    ]
    const chart = lossChart(points, [], options)
    expect(labels(chart)).toEqual([4, 3.5, 3, 2.5, 2, 1.5, 1])
    const lines = chart.split('\n')
    expect(lines.at(-2)).toMatch(/^ {9}10 +step 1,000$/)
    // As much of the line in the first half of the columns as in the second.
    const at = lines.map(line => line.indexOf('╮')).filter(column => column >= 0)
    expect(at[0]).toBeLessThan(at.at(-1) ?? 0)
    const middle = lines.slice(0, 7).findIndex(line => (line.indexOf('╮') - 9) / 51 > 0.5)
    expect([2, 3, 4]).toContain(middle)
  })

  it('begins after the steep beginning of a long run', () => {
    const points = Array.from({ length: 100 }, (_, i) => ({ step: i + 1, loss: i < 2 ? 100 : 2 - i / 100 }))
    expect(Math.max(...labels(lossChart(points, [], options)))).toBeLessThan(2)
    expect(Math.max(...labels(lossChart(points.slice(0, 99), [], options)))).toBe(100)
  })

  it('shows validations from the first on', () => {
    const training = [1, 50, 100].map(step => ({ step, loss: 2 }))
    const validation = [50, 100].map(step => ({ step, loss: 3 }))
    expect(labels(lossChart(training, validation, options)).slice(0, 1)).toEqual([3])
    expect(lossChart(training, validation, options)).toMatch(
      /^ {9}training \(smoothed\) and validation loss$/m,
    )
  })

  it('is empty where there is nothing to join', () => {
    expect(lossChart([], [], options)).toBe('')
    expect(lossChart([{ step: 1, loss: 2 }], [], options)).toBe('')
  })
})

describe('the live line', () => {
  it.each([
    [0, '────'],
    [0.5, '━━──'],
    [1, '━━━━'],
    [1.5, '━━━━'],
    [-1, '────'],
  ])('a bar %d full', (share, expected) => {
    expect(bar(share, 4)).toBe(expected)
  })

  it('is cut to the terminal, rewritten ten times a second at most, and taken away', () => {
    let [now, columns] = [1000, 10]
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now)
    try {
      let written: string[] = []
      const take = () => written.splice(0)
      const line = new LiveLine(
        text => written.push(text),
        () => columns,
      )
      line.clear()
      expect(take()).toEqual([])
      line.show('\x1b[36m123456789\x1b[39m')
      expect(take()).toEqual(['\r\x1b[2K\x1b[36m123456789\x1b[39m'])
      now += 99
      line.show('not yet')
      expect(take()).toEqual([])
      now += 1
      // With the last column free: a line that fills it would wrap.
      line.show('\x1b[36m1234567890\x1b[39m')
      expect(take()).toEqual(['\r\x1b[2K123456789'])
      line.clear()
      line.clear()
      expect(take()).toEqual(['\r\x1b[2K'])
      columns = 5
      line.show('at once')
      expect(take()).toEqual(['\r\x1b[2Kat o'])
      written = []
    } finally {
      clock.mockRestore()
    }
  })
})

describe('the help of an option', () => {
  const program = new Command('rwkv')
  const options = {
    someCount: { kind: 'count', help: 'how many', default: 3 },
    someFlag: { kind: 'boolean', help: 'whether, see someCount', default: false },
    someAuto: { kind: 'number', help: 'how much', auto: 'as much as there is' },
    someTexts: { kind: 'texts', help: 'which' },
  } as const
  addVerb(
    program,
    verb({
      ...{ name: 'try', summary: 'try it', positionals: [] },
      options,
      details: '',
      run: async () => 0,
    }),
    async () => {},
  )
  const help = program.commands[0]?.helpInformation() ?? ''

  it.each([
    /--some-count <N> +how many \(default: 3\)\n/,
    // A flag that is not given is off: nobody needs to be told.
    /--some-flag +whether, see --some-count\n/,
    /--some-auto <X> +how much \(default: as much as there is\)\n/,
    /--some-texts <TEXT> +which; can be given several times\n/,
  ])('has %s', line => {
    expect(help).toMatch(line)
  })
})

import { statSync } from 'node:fs'
import { quote } from '../shell.js'
import type { Trainer } from '../trainer.js'

/**
 * What to type to go on with a run. A text that came through a pipe is gone by then, and has to be named
 * again.
 */
export function resumeCommand({ out, data }: Pick<Trainer['options'], 'out' | 'data'>): string {
  const isGone = [data].flat().some(path => {
    const there = statSync(path, { throwIfNoEntry: false })
    // A pattern is no file either.
    return there === undefined ? !/[*?[]/.test(path) : there.isFIFO()
  })
  return `rwkv train --resume ${quote(out)}${isGone ? ' --data FILE' : ''}`
}

/**
 * What to type to go on at half the learning rate, after a run has diverged or become worse than guessing.
 */
export function lowerRate(options: Trainer['options']): string {
  return `${resumeCommand(options)} --learning-rate ${Number((options.learningRate / 2).toPrecision(2))}`
}

import { randomInt } from 'node:crypto'
import type { SamplingOptions } from './options.js'

/** Options of sampling as the native side reads them; without a seed, with one that nobody knows before. */
export function samplingJson({ logitBias = {}, seed, ...others }: SamplingOptions): string {
  // −∞ becomes null, which is how JSON says it.
  const biases = Object.entries(logitBias).map(([token, bias]) => [Number(token), bias])
  return JSON.stringify({ ...others, logitBias: biases, seed: seed ?? randomInt(2 ** 47) })
}

import { randomInt } from 'node:crypto'
import type { SamplingOptions } from './options.js'

/** Options of sampling as the native side reads them; without a seed, with one that nobody knows before. */
export function samplingJson({ logitBias = {}, seed, ...others }: SamplingOptions): string {
  // JSON has no −∞; what is below every 32-bit float becomes one there.
  const biases = Object.entries(logitBias).map(([token, bias]) => [
    Number(token),
    Math.max(bias, -Number.MAX_VALUE),
  ])
  return JSON.stringify({ ...others, logitBias: biases, seed: seed ?? randomInt(2 ** 47) })
}

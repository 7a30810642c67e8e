// The bytes of a model file that decoding a token has to read.

import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

/** Bytes of a block of so many weights, by the number that a file gives to the format. */
const FORMATS = {
  0: { bytes: 4, weights: 1 }, // FP32
  1: { bytes: 2, weights: 1 }, // FP16
  2: { bytes: 18, weights: 32 }, // Q4_0
  3: { bytes: 20, weights: 32 }, // Q4_1
  7: { bytes: 22, weights: 32 }, // Q5_0
  8: { bytes: 24, weights: 32 }, // Q5_1
  9: { bytes: 34, weights: 32 }, // Q8_0
}

/**
 * Every tensor once, but of the embedding one row: `perToken` bytes. `embedding` says where in the file the
 * embedding's data begins and ends.
 *
 * Throws an Error if the file is not one of rwkv.cpp's, or ends within a tensor.
 */
export function tokenBytes(path) {
  const file = openSync(path)
  try {
    const size = fstatSync(file).size
    const fail = problem => {
      throw new Error(`${path}: ${problem}`)
    }
    const words = (at, count) => {
      const bytes = Buffer.alloc(4 * count)
      if (readSync(file, bytes, 0, bytes.length, at) < bytes.length) fail(`ends within a header, at byte ${at}`)
      return Array.from({ length: count }, (_, i) => bytes.readUInt32LE(4 * i))
    }
    if (words(0, 1)[0] !== 0x67676d66) fail('not a model file of rwkv.cpp')

    let perToken = 0
    let embedding
    for (let at = 24; at < size; ) {
      const [dimCount, nameLength, format] = words(at, 3)
      if (dimCount < 1 || dimCount > 3 || nameLength > 256) fail(`no tensor's header at byte ${at}`)
      const dims = words(at + 12, dimCount)
      const name = Buffer.alloc(nameLength)
      readSync(file, name, 0, nameLength, at + 12 + 4 * dimCount)
      const block = FORMATS[format] ?? fail(`${name} has the unknown format ${format}`)
      const data = (dims.reduce((x, y) => x * y) / block.weights) * block.bytes
      const begin = at + 12 + 4 * dimCount + nameLength
      if (!(begin + data <= size)) fail(`ends within ${name}`)
      if (name.toString() === 'emb.weight') {
        embedding = { begin, end: begin + data }
        perToken += data / dims[1]
      } else {
        perToken += data
      }
      at = begin + data
    }
    return { perToken, embedding: embedding ?? fail('has no emb.weight') }
  } finally {
    closeSync(file)
  }
}

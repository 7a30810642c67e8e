// Our tokenizers beside others: the tokenizer.json of every kind that Hugging Face's format can say is read by
// Hugging Face's `tokenizers` in Python and by `@huggingface/transformers` in Node, GPT-2's vocabulary by tiktoken,
// and all have to make the same tokens of 10 MB of text in many scripts. Exits with 1 at the first difference.
//
//   node proofs/tokenizers.mjs [BYTES]
//
// It runs dist/, and installs those programs into .cache/proof-tokenizers (Python 3, pip and npm have to be there).

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Tokenizer, Trainer } from '../dist/index.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const place = join(root, '.cache/proof-tokenizers')
const size = Number(process.argv[2] ?? 10_000_000)
mkdirSync(place, { recursive: true })
const python = join(place, 'python/bin/python')
if (!existsSync(python)) {
  run('python3', ['-m', 'venv', join(place, 'python')])
  run(python, ['-m', 'pip', 'install', '--quiet', 'tokenizers>=0.23', 'tiktoken'])
}
writeFileSync(join(place, 'package.json'), '{"private":true}\n')
if (!existsSync(join(place, 'node_modules')))
  run('npm', ['install', '--silent', '--ignore-scripts', '@huggingface/transformers'], place)

const file = join(place, 'text.txt')
writeFileSync(file, await mixed(size))
const text = readFileSync(file, 'utf8')
console.log(`${Buffer.byteLength(text)} bytes, ${new Set(text).size} different characters`)
const { PreTrainedTokenizer } = await import(
  pathToFileURL(createRequire(join(place, 'x.js')).resolve('@huggingface/transformers')).href
)

let isSame = true
for (const [name, tokenizer] of Object.entries(await all())) {
  const json = join(place, `${name}.json`)
  await tokenizer.save(json)
  const ours = digest(lines(text).map(line => tokenizer.encode(line)))
  compare(name, 'Python', ours, inPython('hugging-face', json))
  const theirs = new PreTrainedTokenizer(JSON.parse(readFileSync(json, 'utf8')), {})
  // In Node it takes long: a tenth. U+FEFF is left out, which is white space to the patterns of JavaScript alone.
  const part = lines(text).filter((line, i) => i % 10 === 0 && !line.includes('\ufeff'))
  const inNode = digest(part.map(line => theirs.encode(line, { add_special_tokens: false })))
  compare(name, 'transformers.js', digest(part.map(line => tokenizer.encode(line))), inNode)
  if (name === 'gpt2') compare(name, 'tiktoken', ours, inPython('tiktoken', json))
}
process.exit(isSame ? 0 : 1)

/** A tokenizer of every kind. */
async function all() {
  const made = {}
  for (const [name, options] of Object.entries({
    characters: { data: file },
    bytes: { data: file, tokenizer: 'byte' },
    bpe: { data: file, tokenizer: 'bpe', vocabSize: 3000 },
  })) {
    const out = join(place, 'run')
    const settings = { ...options, out, force: true, nLayer: 1, nEmbd: 8, maxSteps: 1 }
    const trainer = await Trainer.create(settings)
    made[name] = trainer.tokenizer
    trainer.close()
    run('rm', ['-r', out])
  }
  return { ...made, gpt2: await Tokenizer.named('gpt2'), pile: await Tokenizer.named('20b') }
}

/** Lines of words in all scripts that the World vocabulary has, of digits, spaces and marks: by chance, but always the same. */
async function mixed(bytes) {
  const world = await Tokenizer.named('world')
  const words = Array.from({ length: 65_000 }, (_, i) => world.decode([i + 1])).filter(
    word => !word.includes('\ufffd') && !word.includes('\r'),
  )
  let state = 1
  const chance = n => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
  const parts = []
  for (let length = 0; length < bytes; ) {
    // Neighbours in the vocabulary are of one script.
    const first = chance(words.length - 50)
    const word = chance(4) === 0 ? ' ' : words[first + chance(50)]
    const end = chance(15) === 0 ? '\n' : ''
    parts.push(word, end)
    length += Buffer.byteLength(word) + end.length
  }
  return parts.join('')
}

/** With their ends: a line of the file is what is encoded at a time. */
function lines(text) {
  return text.split(/(?<=\n)/)
}

function digest(all) {
  const hash = createHash('sha256')
  let count = 0
  for (const tokens of all) {
    hash.update(Uint32Array.from(tokens))
    count += tokens.length
  }
  return `${count} ${hash.digest('hex')}`
}

function inPython(by, json) {
  const program = `
import hashlib, json, sys
by, file, path = sys.argv[1:]
text = open(path, encoding='utf8', newline='').read()
lines = text.split('\\n'); lines = [line + '\\n' for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
if by == 'tiktoken':
    import tiktoken
    alphabet = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    byte_of = {chr(b): b for b in alphabet}
    for b in range(256):
        if b not in alphabet: byte_of[chr(256 + len(byte_of) - len(alphabet))] = b
    vocab = json.load(open(file, encoding='utf8'))['model']['vocab']
    ranks = {bytes(byte_of[c] for c in token): rank for token, rank in vocab.items() if rank < 50256}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
    made = tiktoken.Encoding('gpt2', pat_str=pattern, mergeable_ranks=ranks, special_tokens={'<|endoftext|>': 50256})
    all = [made.encode_ordinary(line) for line in lines]
else:
    from tokenizers import Tokenizer
    made = Tokenizer.from_file(file)
    all = [found.ids for found in made.encode_batch(lines, add_special_tokens=False)]
digest, count = hashlib.sha256(), 0
import array
for ids in all: digest.update(array.array('I', ids).tobytes()); count += len(ids)
print(count, digest.hexdigest())
`
  return run(python, ['-c', program, by, json, file]).trim()
}

function compare(name, by, ours, theirs) {
  const same = ours === theirs
  isSame &&= same
  console.log(
    `${name}, ${by}: ${same ? `the same ${ours.split(' ')[0]} tokens` : `DIFFERENT, ${ours} and ${theirs}`}`,
  )
}

function run(command, args, cwd = root) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  if (error || status !== 0)
    throw new Error(`${command} ${args.join(' ').slice(0, 99)}: ${error?.message ?? stderr}`)
  return stdout
}

import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Conversation } from '../src/cli/conversation.js'
import { chatFormat, Model, prepare, Tokenizer } from '../src/index.js'
import { rwkvReading } from './cli.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

// Token 0 of the World vocabulary ends a text, wherever one can end.

const directory = await temporaryDirectory()
const signal = new AbortController().signal
let model: Model

beforeAll(async () => {
  const out = join(directory, 'world')
  model = await Model.load(
    await trainTiny(directory, { out, tokenizer: 'world', unknown: undefined, nLayer: 1, maxSteps: 1 }),
  )
})
afterAll(() => model?.close())

/** A token that comes next, whatever was before. */
const next = (token: number) => ({ temperature: 0, maxTokens: 4, logitBias: { [token]: 1e6 } })

it('is what the tokenizer says', async () => {
  const world = await Tokenizer.named('world')
  expect(world.endOfText).toBe(0)
  expect([...world.beginning()]).toEqual([0])
  expect(world.decode([0])).toBe('')
  expect(world.encode('<|endoftext|>')).not.toContain(0)
})

it('ends what is generated', async () => {
  const session = model.createSession()
  expect(await session.generate('the', next(0)).result()).toMatchObject({ text: '', end: 'endOfText' })
  const on = await session.generate(' fox', { ...next(0), ignoreEndOfText: true }).result()
  expect([...on.tokens]).toEqual([0, 0, 0, 0])
})

it.each(['rwkv-world', 'rwkv-g1h'])('ends an answer in %s', async name => {
  const conversation = await Conversation.begin(model, { format: chatFormat(name), signal })
  const answer = await conversation.ask('hi', { ...next(0), signal, onText: () => {} })
  expect(answer).toMatchObject({ answer: '', end: 'endOfText' })
})

it('stands between documents', async () => {
  const data = join(directory, 'three.jsonl')
  const texts = ['Hello, world!', 'Today', 'the fox', 'the dog', 'over', 'lazy']
  await writeFile(data, texts.map(text => `${JSON.stringify({ text })}\n`).join(''))
  const out = join(directory, 'prepared')
  await prepare(data, { out, tokenizer: 'world', valFraction: 0.2 })
  const read = async (name: string) => {
    const bytes = await readFile(join(out, name))
    return Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readUInt16LE(2 * i))
  }
  const all = [...(await read('train.bin')), ...(await read('val.bin'))]
  expect(all.filter(token => token === 0)).toHaveLength(texts.length)
  const world = await Tokenizer.named('world')
  const written = texts.map(text => [...world.encode(text), 0].join())
  expect(written.every(tokens => `,${all.join()},`.includes(`,${tokens},`))).toBe(true)
})

it('comes before a text that is evaluated, whose first token is predicted too', async () => {
  // `Hello, world!` has four tokens.
  expect((await model.evaluate({ text: 'Hello, world!' })).tokens).toBe(4)
})

it('begins a conversation in ✿, unless a state does', async () => {
  const format = chatFormat('rwkv-g1h')
  const whole = model.createSession()
  await whole.eval([0, ...model.tokenizer.encode('System✿be\nkind✿\nUser✿a\nb✿\nBot✿<think></think>')])
  const options = { format, system: 'be\n\nkind', think: false, signal }
  const asking = { ...next(10060), signal, onText: () => {} }
  const conversation = await Conversation.begin(model, options)
  const answer = await conversation.ask('a\r\n\r\nb', asking)
  expect(answer).toMatchObject({ answer: '<think></think>', end: 'stop' })
  // The parts have the tokens of the whole.
  expect(conversation.state.equals(whole.state)).toBe(true)
  const { turns } = conversation
  const again = await Conversation.begin(model, { ...options, system: undefined, think: undefined })
  await again.replace({ format, system: options.system, turns }, signal)
  expect(again.state.equals(whole.state)).toBe(true)

  const { state } = model.createSession()
  const given = await Conversation.begin(model, { format, state, signal })
  expect(given.state.equals(state)).toBe(true)
  await given.ask('a', asking)
  const without = model.createSession()
  await without.prompt('User✿a✿\nBot✿')
  expect(given.state.equals(without.state)).toBe(true)
})

it('rwkv chat takes the format and the settings that the name of a file tells', async () => {
  const named = join(directory, 'rwkv7-g1h-tiny')
  await cp(join(directory, 'world'), named, { recursive: true })
  const talk = async (path: string, ...args: string[]) => {
    const saved = join(directory, 'talk.json')
    const input = `/set\n/set top-k 2\nhi\n/save ${saved}\n`
    const bias = ['--logit-bias', '10060=1000000', '--logit-bias', '261=500000']
    const { code, err } = await rwkvReading(input, 'chat', path, '--max-tokens', 1, ...bias, ...args)
    expect({ code, err }).toEqual({ code: 0, err: expect.stringContaining('saved 1 question') })
    const { format, turns } = JSON.parse(await readFile(saved, 'utf8'))
    const settings = Object.fromEntries(
      [...err.matchAll(/^ {2}([a-z-]+) +(\S+) \(/gm)].map(([, name, value]) => [name, value]),
    )
    return { name: format.name, answer: turns[0].answer, settings }
  }
  const thinking = { sampler: 'rwkv', temperature: '0.96', 'top-p': '0.76', 'top-k': '32' }
  const penalties = { 'presence-penalty': '1', 'frequency-penalty': '0.1', 'penalty-decay': '0.988' }
  expect(await talk(named)).toMatchObject({
    name: 'rwkv-g1h',
    answer: '<think',
    settings: { ...thinking, ...penalties },
  })
  expect(await talk(named, '--no-think', '--top-p', '0.5')).toMatchObject({
    name: 'rwkv-g1h',
    answer: '<think></think>',
    settings: { sampler: 'rwkv', temperature: '1', 'top-p': '0.5', 'top-k': '32', 'presence-penalty': '0' },
  })
  const usual = { sampler: 'usual', temperature: '1', 'top-p': '1', 'top-k': 'all' }
  expect(await talk(named, '--format', 'rwkv-world')).toMatchObject({
    name: 'rwkv-world',
    answer: expect.stringMatching(/^ <think./),
    settings: usual,
  })
  expect(await talk(join(directory, 'world'))).toMatchObject({ name: 'rwkv-world', settings: usual })
})

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import {
  type ChatMessage,
  chatFormat,
  chatFormatFor,
  chatFormats,
  checkChatFormat,
  Model,
  splitThoughts,
  writeChat,
} from '../src/index.js'
import { main, objects, terminalEnvironment } from './cli.js'
import { temporaryDirectory, trainTiny } from './tiny.js'

const directory = await temporaryDirectory()

const user = (content: string): ChatMessage => ({ role: 'user', content })
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content })
const system = (content: string): ChatMessage => ({ role: 'system', content })
const two = [system('S'), user('a\r\n\r\n\nb '), assistant('x'), user('c')]
const functions =
  '- get_weather(location: string, unit?: "celsius" | "fahrenheit")\n- get_stock_price(ticker: string)'

describe('writeChat() writes', () => {
  const [world, g1h] = ['rwkv-world', 'rwkv-g1h']
  // As RWKV7-G1x-templates.txt and the evaluations of G1h have them.
  it.each<[string, ChatMessage[], { think?: boolean; tools?: string }, string]>([
    [world, [user('xxx')], {}, 'User: xxx\n\nAssistant:'],
    [world, two, {}, 'System: S\n\nUser: a\nb\n\nAssistant: x\n\nUser: c\n\nAssistant:'],
    [world, [user('xxx')], { think: true }, 'User: xxx\n\nAssistant: <think'],
    [world, [user('xxx')], { think: false }, 'User: xxx\n\nAssistant: <think></think'],
    [
      world,
      [user('Will it rain?')],
      { tools: functions },
      `System: Tools:\n${functions}\nReturn only a JSON function call.\n\nUser: Will it rain?\n\nAssistant: \`\`\`json`,
    ],
    [
      world,
      [user('q'), assistant('```json\n{}\n```'), { role: 'tool', content: '{"free_slots":[]}' }],
      {},
      'User: q\n\nAssistant: ```json\n{}\n```\n\nUser: Function output:\n{"free_slots":[]}\n\nAssistant:',
    ],
    [g1h, [user('Hello')], {}, 'User✿Hello✿\nBot✿'],
    [g1h, [user('Hello')], { think: true }, 'User✿Hello✿\nBot✿<think'],
    [g1h, two, { think: false }, 'System✿S✿\nUser✿a\nb✿\nBot✿x✿\nUser✿c✿\nBot✿<think></think>'],
    [
      g1h,
      [user('q')],
      { tools: 'f()' },
      'System✿Tools:\nf()\nReturn only a JSON function call.✿\nUser✿q✿\nBot✿<think></think>\n```json',
    ],
    // `$&` and `{text}` are no patterns here.
    [
      'plain',
      [system('$&\n\n{text}'), user('$& {text}')],
      {},
      '$&\n\n{text}\n\nUser: $& {text}\n\nAssistant:',
    ],
  ])('%s %#', (name, messages, options, expected) => {
    const { prompt, prefix } = writeChat(chatFormat(name), messages, options)
    expect(prompt).toBe(expected)
    expect(prompt.endsWith(chatFormat(name).answer + prefix)).toBe(true)
  })

  it('what ends an answer, and what ends a call', () => {
    expect(writeChat(chatFormat(world), [user('a')]).stop).toEqual(['\n\nUser'])
    expect(writeChat(chatFormat(g1h), [user('a')]).stop).toEqual(['✿'])
    expect(writeChat(chatFormat(world), [user('a')], { tools: 'f()' }).stop).toEqual(['\n\nUser', '\n```'])
    // With thoughts before it the model opens the fence itself, and its first line would end nothing.
    const thinking = writeChat(chatFormat(world), [user('a')], { tools: 'f()', think: true })
    expect(thinking).toMatchObject({ prefix: ' <think', stop: ['\n\nUser'] })
  })

  it.each<[string, ChatMessage[], { think?: boolean; tools?: string }, string]>([
    ['plain', [], {}, 'messages ends with nothing'],
    ['plain', [user('a'), assistant('b')], {}, 'messages ends with assistant'],
    ['plain', [user('a'), user('b')], {}, 'messages[1] is user; the one before it has no answer'],
    ['plain', [assistant('a'), user('b')], {}, 'messages[0] is assistant'],
    ['plain', [user('a'), assistant('b'), system('c'), user('d')], {}, 'messages[2] is system'],
    ['plain', [user('a')], { think: true }, 'the format "plain" has no thoughts'],
    ['plain', [user('a')], { tools: 'f()' }, 'the format "plain" has none'],
    ['rwkv-world', [system('a'), user('b')], { tools: 'f()' }, 'beside a system message'],
  ])('nothing of what makes no sense: %s %j %j', (name, messages, options, says) => {
    const write = () => writeChat(chatFormat(name), messages, options)
    expect(write).toThrow(says)
    expect(write).toThrow(expect.objectContaining({ code: 'INVALID_OPTION' }))
  })
})

it('formats have the settings of the evaluations, and pass their own check', () => {
  expect(chatFormat('rwkv-g1h').sampling).toEqual({
    think: {
      sampler: 'rwkv',
      temperature: 0.96,
      topP: 0.76,
      topK: 32,
      presencePenalty: 1,
      frequencyPenalty: 0.1,
      penaltyDecay: 0.988,
    },
    noThink: { sampler: 'rwkv', temperature: 1, topP: 0.28, topK: 32 },
  })
  for (const format of chatFormats)
    expect(checkChatFormat(JSON.parse(JSON.stringify(format)))).toEqual(format)
  expect(() => chatFormat('chatml')).toThrow('name is "chatml"; it must be one of rwkv-world, rwkv-g1h')
})

it.each<[path: string | undefined, kind: string, template: string | undefined, string, boolean | undefined]>([
  ['/m/rwkv7-g1h-1.5b-20260701-ctx8192.pth', 'world', undefined, 'rwkv-g1h', true],
  ['rwkv7-g1j-13.3b.gguf', 'world', 'rwkv-world', 'rwkv-g1h', true],
  ['C:\\models\\RWKV7-G1H-0.4B-Q8_0.bin', 'world', undefined, 'rwkv-g1h', true],
  ['rwkv7-g1-0.1b-20250307-ctx4096.pth', 'world', undefined, 'rwkv-world', true],
  ['rwkv7-g1d-0.4b-20260210-ctx8192.pth', 'world', undefined, 'rwkv-world', true],
  ['runs/rwkv7-g1g-tuned/', 'world', undefined, 'rwkv-world', true],
  ['RWKV-x070-World-0.4B.pth', 'world', undefined, 'rwkv-world', undefined],
  ['rwkv7-g1h/other.bin', 'world', undefined, 'rwkv-world', undefined],
  ['rwkv7-g10h.bin', 'world', undefined, 'rwkv-world', undefined],
  [undefined, 'world', undefined, 'rwkv-world', undefined],
  [undefined, 'bpe', 'rwkv-world', 'rwkv-world', undefined],
  [undefined, '20b', '{% for message in messages %}', 'raven', undefined],
  ['rwkv7-g1h.bin', 'byte', undefined, 'none', undefined],
])('the format of %s (%s, %s) is %s', (path, kind, chatTemplate, name, think) => {
  const chosen = chatFormatFor({ path, tokenizer: { kind }, chatTemplate })
  expect([chosen.format.name, chosen.think]).toEqual([name, think])
})

describe('splitThoughts()', () => {
  it.each([
    [' hi', { answer: 'hi' }],
    [' <think>\nhm\n</think>\n\nhi\n\nthere', { thoughts: 'hm\n', answer: 'hi\n\nthere' }],
    [' <think></think>\nhi', { answer: 'hi' }],
    ['<think>\n</think>hi', { answer: 'hi' }],
    [' <think', { answer: '' }],
    [' <think>hm </th', { thoughts: 'hm ', answer: '' }],
    ['a <think>b</think>', { answer: 'a <think>b</think>' }],
  ])('%j', (text, expected) => expect(splitThoughts(text)).toEqual(expected))

  it('holds nothing back of a text that is over', () => {
    expect(splitThoughts('<', true)).toEqual({ answer: '<' })
    expect(splitThoughts(' <think', true)).toEqual({ answer: '' })
    expect(splitThoughts(' <think>a <', true)).toEqual({ thoughts: 'a <', answer: '' })
  })

  it('takes nothing back of what it told of a text that grows', () => {
    const whole = ' <think> a < b </thin</think>\n\n the <think> </think> answer'
    let before = { thoughts: '', answer: '' }
    for (let end = 0; end <= whole.length; end++) {
      const now = { thoughts: '', ...splitThoughts(whole.slice(0, end)) }
      expect(now.thoughts.startsWith(before.thoughts)).toBe(true)
      expect(now.answer.startsWith(before.answer)).toBe(true)
      before = now
    }
    expect(before).toEqual({ thoughts: 'a < b </thin', answer: 'the <think> </think> answer' })
  })
})

describe('checkChatFormat() names what is wrong', () => {
  const good = { name: 'own', question: 'Q {text}', answer: 'A', separator: '\n', stop: [] }
  const tools = { system: '{tools}', answer: '', result: '{text}', stop: [] }
  it.each([
    [{ begin: 'bos' }, 'own.json: begin is "bos"; it must be "endOfText"'],
    [{ system: 'S' }, 'own.json: system is "S"; it must be a string that has {text} in it, once'],
    [{ reply: 1 }, 'own.json: reply is 1; it must be a string'],
    [{ think: true }, 'own.json: think is true; it must be a string'],
    [{ noThink: [] }, 'own.json: noThink is an array; it must be a string'],
    [{ clean: 'all' }, 'own.json: clean is "all"; it must be "blankLines" or "nothing"'],
    [{ nothink: '' }, 'own.json: there is no field "nothink": did you mean noThink?'],
    [{ sampling: [] }, 'own.json: sampling: it is an array; it must be an object'],
    [{ sampling: { thinking: {} } }, 'own.json: sampling: there is no field "thinking"'],
    [
      { sampling: { think: { topp: 1 } } },
      'own.json: sampling: think: there is no field "topp": did you mean topP?',
    ],
    [
      { sampling: { think: { topP: 'x' } } },
      'own.json: sampling: think: topP is "x"; it must be a finite number',
    ],
    [
      { tools: { ...tools, system: '' } },
      'own.json: tools: system is ""; it must be a string that has {tools}',
    ],
    [{ tools: { ...tools, stop: undefined } }, 'own.json: tools: stop is missing; it must be an array'],
    [{ name: undefined }, 'own.json: name is missing; it must be a string'],
  ])('%j', (fields, says) => {
    const check = () => checkChatFormat({ ...good, ...fields }, 'own.json')
    expect(check).toThrow(says)
    expect(check).toThrow(expect.objectContaining({ code: 'DATA' }))
  })

  it('and passes what is right', () => {
    const full = { ...good, about: 'a', clean: 'nothing', sampling: { noThink: { topK: 3 } }, tools }
    expect(checkChatFormat(full)).toEqual(full)
  })
})

describe('rwkv chat with a model that thinks', () => {
  const format = join(directory, 'thinking.json')
  let run: string

  beforeAll(async () => {
    const data = join(directory, 'thinking.txt')
    await writeFile(data, 'Q a\nA<think>xy</think>z\n'.repeat(300))
    const out = join(directory, 'rwkv7-g1d-tiny')
    run = await trainTiny(directory, { out, data, tokenizer: 'byte', maxSteps: 150, unknown: undefined })
    await writeFile(
      format,
      JSON.stringify({
        question: 'Q {text}',
        answer: '\nA',
        separator: '\n',
        stop: ['\n'],
        think: '<think',
        noThink: '<think></think>',
        sampling: { think: { temperature: 0 }, noThink: { temperature: 0 } },
      }),
    )
  })

  /** What it prints; on a terminal if `script` gives it one. */
  function chat(lines: string, args: string[], onTerminal = false) {
    return new Promise<string>(resolve => {
      const all = [main, 'chat', run, '--format', format, ...args]
      const command = `stty cols 100; ${process.execPath} ${all.join(' ')}`
      const child = onTerminal
        ? spawn('script', ['-qec', command, '/dev/null'], { env: terminalEnvironment(true) })
        : spawn(process.execPath, all)
      let out = ''
      // A question when it asks for one, and when it asks for the next the key that leaves: before the answer was
      // there, it would end the chat in its midst.
      const typed = ['a\r', '\x04']
      let prompts = 0
      child.stdout.setEncoding('utf8').on('data', text => {
        out += text
        if (!onTerminal || out.split('> ').length - 1 <= prompts) return
        prompts++
        child.stdin.write(typed.shift() ?? '')
      })
      child.stderr.setEncoding('utf8').on('data', text => {
        out += text
      })
      child.on('close', () => resolve(out))
      if (!onTerminal) child.stdin.end(lines)
    })
  }

  it('tells the thoughts apart from the answer, and keeps both', async () => {
    const saved = join(directory, 'thought.json')
    const [first, second] = objects(await chat(`a\na\n/save ${saved}\n`, ['--think', '--json']))
    expect(first).toMatchObject({ question: 'a', thoughts: 'xy', answer: 'z', end: 'stop' })
    expect(second).toMatchObject({ thoughts: 'xy', answer: 'z' })
    const { turns, states } = JSON.parse(await readFile(saved, 'utf8'))
    expect(turns).toEqual(Array(2).fill({ question: 'a', answer: '<think>xy</think>z' }))
    await using model = await Model.load(run)
    const session = model.createSession()
    await session.prompt('Q a\nA<think>xy</think>z\nQ a\nA<think>xy</think>z')
    const bytes = Buffer.from(session.state.toBuffer()).toString('base64')
    expect(states.end).toBe(bytes)
    // In a pipe there is the answer alone.
    expect(await chat('a\n', ['--think'])).toBe('z\n')
  })

  it('does not think if told so, or in a format without thoughts', async () => {
    const [answer] = objects(await chat('a\n', ['--no-think', '--json']))
    expect(Object.keys(answer ?? {})).not.toContain('thoughts')
    expect(await chat('a\n', ['--think', '--format', 'none'])).toMatch(
      /--think: the format "none" has no thoughts/,
    )
  })

  it.skipIf(process.platform !== 'linux' || !existsSync('/usr/bin/script'))(
    'shows thoughts dim on a terminal, and what was chosen in a line',
    async () => {
      const out = await chat('', ['--think'], true)
      expect(out).toContain('\x1b[2mxy\x1b[22m\r\n\r\nz')
      expect(out.replace(/\s+/g, ' ')).toContain(
        "format thinking; it thinks first (see --no-think); the format's own settings (/set shows them)",
      )
    },
  )
})

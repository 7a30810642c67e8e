import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { asTurn } from '../src/chat-text.js'
import { complete } from '../src/cli/chat-commands.js'
import { chooseFormat } from '../src/cli/chat-formats.js'
import { Conversation } from '../src/cli/conversation.js'
import { type ChatFormat, chatFormatFor, chatFormats, Model, State } from '../src/index.js'
import { main, objects, terminalEnvironment } from './cli.js'
import { collect, temporaryDirectory, trainTiny } from './tiny.js'

const directory = await temporaryDirectory()
let run: string
let model: Model

beforeAll(async () => {
  run = await trainTiny(directory)
  model = await Model.load(run, { threads: 2 })
})
afterAll(() => model?.close())

/** Turns of a line or so, in characters that the tiny model has. */
const format: ChatFormat = {
  name: 'fox',
  question: 'the {text}',
  answer: ' fox',
  separator: '\nthe dog\n',
  stop: ['dog'],
}
const signal = new AbortController().signal
const greedy = { temperature: 0, maxTokens: 40, signal, onText: () => {} } as const

/** What a chat printed for lines of standard input, and its exit code. */
function chat(lines: readonly string[], ...args: (string | number)[]) {
  return new Promise<{ code: number | null; out: string; err: string }>(resolve => {
    const child = spawn(process.execPath, [main, 'chat', ...args.map(String)])
    let [out, err] = ['', '']
    child.stdout.setEncoding('utf8').on('data', text => {
      out += text
    })
    child.stderr.setEncoding('utf8').on('data', text => {
      err += text
    })
    child.on('close', code => resolve({ code, out, err }))
    child.stdin.end(lines.map(line => `${line}\n`).join(''))
  })
}

describe('a conversation', () => {
  /** Its state, and the logits of what comes next, are those of its text read whole. */
  async function expectWhole(conversation: Conversation, text: string) {
    expect(conversation.text).toBe(text)
    const whole = model.createSession()
    if (text !== '') await whole.prompt(text)
    expect(conversation.state.equals(whole.state)).toBe(true)
    const next = model.createSession({ state: conversation.state })
    expect(await next.prompt(' ')).toEqual(await whole.prompt(' '))
  }
  const begin = (system?: string) => Conversation.begin(model, { format, system, signal })

  it('is exactly its text typed whole, after each turn and whatever is taken back', async () => {
    const conversation = await begin('over the fox\n\nover the dog')
    const system = 'over the fox\n\nover the dog\nthe dog\n'
    await expectWhole(conversation, system)
    const one = await conversation.ask(' red ', greedy)
    expect(one).toMatchObject({ question: 'red', end: 'stop' })
    expect(one.answer).not.toBe('')
    const first = `${system}the red fox${one.answer}`
    await expectWhole(conversation, first)
    const two = await conversation.ask('blue\n\n\ngreen', { ...greedy, maxTokens: 3 })
    expect(two).toMatchObject({ question: 'blue\ngreen', end: 'length', tokens: 3 })
    const second = `${first}\nthe dog\nthe blue\ngreen fox${two.answer}`
    await expectWhole(conversation, second)
    const retried = await conversation.retry({ ...greedy, maxTokens: 5 })
    expect(retried?.answer).toHaveLength(5)
    await expectWhole(conversation, `${second}${retried?.answer.slice(3)}`)
    expect(await conversation.undo(signal)).toMatchObject({ question: 'blue\ngreen' })
    await expectWhole(conversation, first)
    await conversation.undo(signal)
    await expectWhole(conversation, system)
    expect(await conversation.undo(signal)).toBeUndefined()
    expect(await conversation.retry(greedy)).toBeUndefined()
    await conversation.ask('yellow', greedy)
    conversation.reset()
    await expectWhole(conversation, system)
  })

  it('takes back turns whose states there was no room for', async () => {
    // Two of them: five vectors of 32 numbers for each of two layers.
    const room = 2 * (4 * 2 * 5 * 32)
    const conversation = await Conversation.begin(model, { format, room, signal })
    const texts = ['']
    for (const question of ['red', 'blue', 'green', 'lazy', 'yellow']) {
      await conversation.ask(question, greedy)
      texts.push(conversation.text)
    }
    const stopped = AbortSignal.abort()
    const reads: number[] = []
    while (texts.length > 1) {
      const text = texts.pop() ?? ''
      // What is read anew can be stopped, and then nothing is taken back.
      const failure = await conversation.undo(stopped).catch((error: unknown) => error)
      if (failure === stopped.reason) {
        reads.push(texts.length)
        await expectWhole(conversation, text)
        await conversation.undo(signal)
      }
      await expectWhole(conversation, texts.at(-1) ?? '')
    }
    // The last two are known; then reading anew makes those of the two before known too.
    expect(reads).toEqual([3])
    expect(conversation.turns).toEqual([])
  })

  it('keeps what is written of an answer that is stopped, and nothing of one that did not begin', async () => {
    const conversation = await begin()
    await conversation.ask('red', greedy)
    const { text } = conversation
    const stop = new AbortController()
    const asking = { ...greedy, maxTokens: 1e6, signal: stop.signal, onText: () => stop.abort() }
    const answer = await (await begin()).ask('jumps', asking)
    expect(answer).toMatchObject({ question: 'jumps', end: expect.stringMatching(/aborted|stop/) })
    await expect(conversation.ask('blue', asking)).rejects.toBe(stop.signal.reason)
    await expect(conversation.retry(asking)).rejects.toBe(stop.signal.reason)
    await expectWhole(conversation, text)
    expect(conversation.turns).toHaveLength(1)

    const later = new AbortController()
    let pieces = 0
    const endless = { ...format, stop: ['zzz'] }
    const long = await Conversation.begin(model, { format: endless, signal })
    const stopped = await long.ask('red', {
      ...greedy,
      maxTokens: 1e6,
      signal: later.signal,
      onText: () => {
        pieces++
        if (pieces === 3) later.abort()
      },
    })
    expect(stopped.end).toBe('aborted')
    expect(pieces).toBe(3)
    await expectWhole(long, `the red fox${stopped.answer}`)
    await long.ask('blue', greedy)
    await expectWhole(long, long.text)
  })

  it('is as it was before a turn that fails', async () => {
    const conversation = await begin()
    await conversation.ask('red', greedy)
    const { text } = conversation
    // The position is that in the question.
    await expect(conversation.ask('ab Ω', greedy)).rejects.toMatchObject({
      code: 'UNKNOWN_CHARACTER',
      message: expect.stringContaining('position 3'),
    })
    await expect(conversation.ask('red', { ...greedy, topP: 2 })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
    })
    await expect(conversation.retry({ ...greedy, temperature: -1 })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
    })
    await expectWhole(conversation, text)
    expect(await conversation.undo(signal)).toMatchObject({ question: 'red' })
    await expectWhole(conversation, '')
  })

  it.each([true, false])('goes on from another one, with its states: %s', async hasStates => {
    const old = await begin('over')
    for (const question of ['red', 'blue', 'green']) await old.ask(question, greedy)
    const { system, turns, beginning, state, text } = old
    const states = hasStates ? { beginning, end: state } : undefined
    const conversation = await Conversation.begin(model, {
      format: { ...format, separator: '\n' },
      system: 'the',
      signal,
    })
    await conversation.replace({ format, system, turns, states }, signal)
    await expectWhole(conversation, text)
    // States of its turns are not known, or were made anew.
    expect(await conversation.undo(signal)).toEqual(turns[2])
    const rest = conversation.text
    expect(text.startsWith(rest)).toBe(true)
    await expectWhole(conversation, rest)
    expect(await conversation.retry(greedy)).toMatchObject({ ...turns[1] })
    await expectWhole(conversation, rest)
    conversation.reset()
    await expectWhole(conversation, 'over\nthe dog\n')
    const foreign = { format, system: undefined, turns: [{ question: 'Ω', answer: '' }] }
    await expect(conversation.replace(foreign, signal)).rejects.toMatchObject({ code: 'UNKNOWN_CHARACTER' })
    await expectWhole(conversation, 'over\nthe dog\n')
  })
})

describe('formats', () => {
  it('are what models of a vocabulary learned, or the text alone', () => {
    expect(
      ['world', '20b', 'character', 'byte', 'bpe', 'gpt2'].map(
        kind => chatFormatFor({ tokenizer: { kind } }).format.name,
      ),
    ).toEqual(['rwkv-world', 'raven', ...['none', 'none', 'none', 'none']])
  })

  it.each([
    ['plain', 'User: a\nb\n\nAssistant:x\n\nUser: c\n\nAssistant:y'],
    ['raven', 'Bob: a\nb\n\nAlice:x\n\nBob: c\n\nAlice:y'],
    ['pile', 'Bob: a\nb\n\nAlice:x\n\nBob: c\n\nAlice:y'],
    ['instruction', 'Instruction: a\nb\n\nResponse:x\n\nInstruction: c\n\nResponse:y'],
    ['none', 'a\nb\nx\nc\ny'],
  ])('%s', async (name, text) => {
    const out = join(directory, `bytes-${name}`)
    await using bytes = await Model.load(await trainTiny(directory, { out, tokenizer: 'byte', maxSteps: 1 }))
    const conversation = await Conversation.begin(bytes, { format: await chooseFormat(name), signal })
    const turns = [
      { question: asTurn(' a\r\n \n\nb\n'), answer: 'x' },
      { question: 'c', answer: 'y' },
    ]
    await conversation.replace({ format: conversation.format, system: undefined, turns }, signal)
    expect(conversation.text).toBe(text)
    // `$&` is no pattern here.
    await conversation.ask('$& {text}', greedy)
    expect(conversation.text).toContain('$& {text}')
  })

  it('of every name is found, and of none is refused with the nearest', async () => {
    for (const { name } of chatFormats) expect((await chooseFormat(name)).name).toBe(name)
    await expect(chooseFormat('plian')).rejects.toMatchObject({ hint: 'did you mean plain?' })
    await expect(chooseFormat('chatml')).rejects.toMatchObject({
      hint: expect.stringContaining('there are rwkv-world'),
    })
  })

  const good = { question: 'Q {text}', answer: 'A', separator: '\n', stop: [] }
  it.each([
    [{ ...good, stop: ['\n'] }, undefined],
    [{ ...good, name: 5 }, 'name is 5; it must be a string'],
    [{ ...good, question: undefined }, 'question is missing; it must be a string'],
    [{ ...good, question: 'Q' }, 'question is "Q"; it must be a string that has {text} in it, once'],
    [{ ...good, question: '{text}{text}' }, 'once'],
    [{ ...good, answer: ['A'] }, 'answer is an array; it must be a string'],
    [{ ...good, stop: 'x' }, 'stop is "x"; it must be an array of strings'],
    [{ ...good, stop: ['x', ''] }, 'stop is an array; it must be an array of strings, each of at least'],
    [{ ...good, stops: [] }, 'there is no field "stops": did you mean stop?'],
    [[], 'it is an array; it must be an object'],
    ['{', 'not JSON'],
  ])('from a file: %j', async (value, message) => {
    const file = join(directory, 'own.json')
    await writeFile(file, value === '{' ? value : JSON.stringify(value))
    const read = chooseFormat(file)
    if (message === undefined) await expect(read).resolves.toEqual({ name: 'own', ...(value as object) })
    else
      await expect(read).rejects.toMatchObject({
        code: 'DATA',
        message: expect.stringContaining(`${file}: `),
      })
    if (message) await expect(read).rejects.toThrow(message)
  })
})

describe('rwkv chat, with lines on standard input', () => {
  const settings = ['--temperature', 0, '--max-tokens', 60]

  it('prints an answer for each line, and nothing else', async () => {
    const session = model.createSession()
    const options = { temperature: 0, maxTokens: 60, stop: '\n' }
    const one = await collect(session.generate('the red\n', options))
    const two = await collect(session.generate('\nthe blue\n', options))
    expect(one).toMatch(/\w/)
    const { code, out, err } = await chat(['the red', '', '  ', 'the blue '], run, ...settings)
    expect({ code, out, err }).toEqual({ code: 0, out: `${one.trimStart()}\n${two.trimStart()}\n`, err: '' })
  })

  it('--json prints an object for each answer', async () => {
    const { code, out, err } = await chat(['the red', 'the\\', '', 'x\\'], run, ...settings, '--json')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    const printed = objects(out)
    expect(printed.map(({ question }) => question)).toEqual(['the red', 'the', 'x'])
    for (const object of printed) {
      expect(Object.keys(object)).toEqual(['question', 'answer', 'tokens', 'end', 'seconds'])
      expect(['stop', 'length']).toContain(object.end)
      expect(object.tokens).toBeGreaterThanOrEqual(object.answer.length)
    }
  })

  it('--system, --format, --state and --stop are as in a conversation', async () => {
    const file = join(directory, 'fox.json')
    await writeFile(file, JSON.stringify(format))
    const session = model.createSession()
    await session.prompt('the lazy ')
    const state = join(directory, 'lazy.state')
    await writeFile(state, session.state.toBuffer())
    const saved = join(directory, 'optioned.json')
    const args = [run, ...settings, '--format', file, '--system', 'over', '--state', state, '--stop', 'zy']
    const { code, err } = await chat(['red', 'blue', `/save ${saved}`], ...args)
    expect({ code, err }).toEqual({ code: 0, err: `saved 2 questions in ${saved}\n` })
    const { turns, system, states } = JSON.parse(await readFile(saved, 'utf8'))
    expect(turns.map(({ question }: { question: string }) => question)).toEqual(['red', 'blue'])
    expect(JSON.stringify(turns)).not.toContain('zy')
    const text = `over\nthe dog\nthe red fox${turns[0].answer}\nthe dog\nthe blue fox${turns[1].answer}`
    expect(system).toBe('over')
    await session.prompt(text)
    expect(State.from(model, Buffer.from(states.end, 'base64')).equals(session.state)).toBe(true)
  })

  it('an error of a turn is said, leaves no trace, and makes the exit code 1', async () => {
    const lines = ['the red', 'Ω', '/set top-p 7', '/nonsense', '/rest', '/undo now', 'the blue']
    const bad = await chat(lines, run, ...settings)
    const good = await chat(['the red', 'the blue'], run, ...settings)
    expect(good).toMatchObject({ code: 0, err: '' })
    expect({ code: bad.code, out: bad.out }).toEqual({ code: 1, out: good.out })
    expect(bad.err.trimEnd().split('\n')).toEqual([
      expect.stringMatching(/^rwkv: character 'Ω' .*position 0/),
      'rwkv: top-p is 7; it must be above 0 and at most 1',
      expect.stringMatching(/^rwkv: there is no command \/nonsense: \/help lists them/),
      expect.stringMatching(/^rwkv: there is no command \/rest: did you mean \/reset\? \/help lists them/),
      'rwkv: /undo takes nothing after it, but got "now"',
    ])
    const json = await chat(['Ω'], run, '--json')
    expect(json).toMatchObject({ code: 1, err: '' })
    expect(objects(json.out)).toMatchObject([{ event: 'error', code: 'UNKNOWN_CHARACTER', line: 'Ω' }])
  })

  it('what makes no sense at the start is refused before the first line', async () => {
    const cases: [args: (string | number)[], code: number, says: RegExp][] = [
      [[run, '--temperature', -1], 2, /^rwkv: --temperature is -1/],
      [[run, '--max-tokens', 0], 2, /^rwkv: --max-tokens is 0/],
      [[run, '--format', 'plian'], 2, /did you mean plain\?/],
      [
        [run, '--format', 'plain'],
        1,
        /the format "plain" cannot be written: character 'U'[^\n]*\n.*--format none/,
      ],
      [[run, '--system', 'Ω'], 1, /character 'Ω'/],
      [[run, '--state', join(directory, 'none')], 1, /none/],
      [[], 2, /MODEL is missing/],
    ]
    for (const [args, code, says] of cases) {
      const result = await chat(['the'], ...args)
      expect(result, args.join(' ')).toMatchObject({ code, out: '', err: expect.stringMatching(says) })
    }
  })

  it('/undo, /retry, /reset and /exit', async () => {
    const lines = [
      'the red',
      'the blue',
      '/undo',
      '/undo',
      '/undo',
      'the red',
      '/reset',
      'the red',
      '/exit',
      'the',
    ]
    const { code, out, err } = await chat(lines, run, ...settings)
    const [one, , ...again] = out.trimEnd().split('\n')
    expect(again).toEqual([one, one])
    expect(err.trimEnd().split('\n')).toEqual([
      'taken back: the blue (1 question left)',
      'taken back: the red (0 questions left)',
      'there is nothing to take back',
      'begun anew: 1 question forgotten',
    ])
    expect(code).toBe(0)

    const same = await chat(['/retry', 'the', '/retry'], run, ...settings)
    expect(same.err).toMatch(/^there is no question to answer anew\nthe same answer: temperature 0 /)
    // Each answer has a seed of its own, and all of them are those of another time.
    const drawn = ['the', '/retry', '/retry', '/retry', '/retry', '/set seed 3', '/retry']
    const random = ['--temperature', 3, '--seed', 3, '--format', join(directory, 'fox.json')]
    const first = await chat(drawn, run, ...random, '--json')
    const answers = objects(first.out).map(({ answer }) => answer)
    expect(new Set(answers).size).toBeGreaterThan(2)
    expect(answers.at(-1)).toBe(answers[0])
    const second = await chat(drawn, run, ...random, '--json')
    expect(objects(second.out).map(({ answer }) => answer)).toEqual(answers)
  })

  it('/set changes how answers are written, and shows it', async () => {
    const lines = [
      '/set max-tokens 2',
      '/set temperature 0',
      'the red',
      '/set',
      '/set max-tokens default',
      '/set',
    ]
    const { code, out, err } = await chat([...lines, '/help'], run)
    expect(code).toBe(0)
    expect(out.trimEnd().length).toBeLessThanOrEqual(2)
    expect(err).toMatch(/^max-tokens is 2\ntemperature is 0\n {2}max-tokens +2 /)
    expect(err).toContain('max-tokens is 256')
    expect(err).toMatch(/top-k +all \(choose/)
    expect(err).toMatch(/\/load FILE +go on with/)
    const bad = [
      '/set topp 1',
      '/set top-p',
      '/set top-p x',
      '/set top-k 1.5',
      '/set max-tokens 0',
      '/save',
      '/load',
    ]
    const refused = (await chat(bad, run)).err.trimEnd().split('\n')
    expect(refused).toEqual([
      'rwkv: there is no setting "topp": did you mean top-p?',
      'rwkv: /set top-p needs a value: /set top-p default takes it back to 1',
      'rwkv: top-p is "x"; it must be a number',
      expect.stringMatching(/^rwkv: top-k is 1.5; it must be a whole number/),
      expect.stringMatching(/^rwkv: max-tokens is 0; it must be/),
      'rwkv: /save needs a file: /save conversation.json',
      'rwkv: /load needs a file: /load conversation.json',
    ])
  })

  it('/save and /load: the conversation goes on as if it had never ended', async () => {
    const file = join(directory, 'my talk.json')
    const whole = await chat(['the red', 'the blue', 'the green'], run, ...settings)
    const begun = await chat(['the red', 'the blue', `/save ${file}`], run, ...settings)
    expect(begun.out + (await chat([`/load ${file}`, 'the green'], run, ...settings)).out).toBe(whole.out)
    // Without the states, of which a file can do without, and after what was said before.
    const saved = JSON.parse(await readFile(file, 'utf8'))
    const bare = join(directory, 'bare.json')
    await writeFile(bare, JSON.stringify({ ...saved, states: undefined }))
    const anew = await chat(
      ['the', `/load ${bare}`, 'the green', '/undo', '/undo', 'the blue'],
      run,
      ...settings,
    )
    const lines = whole.out.trimEnd().split('\n')
    expect(anew.out.trimEnd().split('\n').slice(1)).toEqual([lines[2], lines[1]])
    expect(anew.err).toContain(`the text of ${bare} is read anew: the file has no states`)
    expect(anew.code).toBe(0)
    // States of another model are told from ours, and of no use.
    const stranger = await trainTiny(directory, { out: join(directory, 'stranger'), seed: 2, maxSteps: 1 })
    const other = await chat([`/load ${file}`, 'the green'], stranger, ...settings)
    expect(other.err).toMatch(/is read anew: .*other weights/)
    expect(other.code).toBe(0)
  })

  it('/save replaces its own files, and no others', async () => {
    const file = join(directory, 'kept.json')
    const link = join(directory, 'link.json')
    // Windows asks for privileges.
    if (process.platform === 'win32') await writeFile(link, '{"kind":"rwkv chat","turns":[0]}')
    else await symlink(file, link)
    const first = await chat(['the', `/save ${file}`, 'the', `/save ${link}`], run, ...settings)
    expect(first.err).toBe(
      `saved 1 question in ${file}\nsaved 2 questions in ${link}, in place of the conversation of 1 question there\n`,
    )
    expect(JSON.parse(await readFile(link, 'utf8')).turns).toHaveLength(2)
    if (process.platform !== 'win32') expect(await readlink(link)).toBe(file)
    const before = await readdir(directory)
    const model = join(run, 'config.json')
    const text = join(directory, 'text.txt')
    for (const path of [model, text, directory]) {
      const content = path === directory ? '' : await readFile(path, 'utf8')
      const { code, err } = await chat(['the', `/save ${path}`], run, ...settings)
      expect({ code, err }).toEqual({
        code: 1,
        err: `rwkv: ${path} is there and is no conversation of rwkv chat: save under another name\n`,
      })
      if (path !== directory) expect(await readFile(path, 'utf8')).toBe(content)
    }
    const nowhere = await chat([`/save ${join(directory, 'no', 'such.json')}`], run)
    expect(nowhere.err).toMatch(/^rwkv: cannot write .*such\.json: ENOENT/)
    expect(await readdir(directory)).toEqual(before)
  })

  it('/load names the file and the field that is wrong', async () => {
    const file = join(directory, 'damaged.json')
    const plain = {
      kind: 'rwkv chat',
      version: 1,
      format,
      system: null,
      turns: [{ question: 'a', answer: 'b' }],
    }
    const cases: [value: unknown, says: string][] = [
      [[], 'is no conversation that rwkv chat saved'],
      [{ ...plain, version: 2 }, 'version is 2; this program reads version 1'],
      [{ ...plain, format: { ...format, answer: 1 } }, ': format: answer is 1; it must be a string'],
      [{ ...plain, system: 5 }, ': system is 5; it must be a string'],
      [{ ...plain, turns: {} }, ': turns is an object; it must be an array'],
      [{ ...plain, turns: undefined }, ': turns is missing; it must be an array'],
      [{ ...plain, turns: [{ question: 'a' }] }, ': turns[0]: answer is missing; it must be a string'],
      [{ ...plain, states: { end: '' } }, ': states: beginning is missing; it must be a string'],
      [{ ...plain, turns: [{ question: 'Ω', answer: '' }] }, "character 'Ω'"],
    ]
    for (const [value, says] of cases) {
      await writeFile(file, JSON.stringify(value))
      const { code, err } = await chat(['the', `/load ${file}`, '/undo'], run, ...settings)
      expect(code).toBe(1)
      expect(err).toContain(says)
      expect(err).toMatch(/taken back: the \(0 questions left\)\n$/)
    }
    const damaged = { ...plain, states: { beginning: 'AAAA', end: 'AAAA' } }
    await writeFile(file, JSON.stringify(damaged))
    const { code, err } = await chat([`/load ${file}`, '/undo'], run)
    expect(code).toBe(0)
    expect(err).toMatch(/is read anew: .*\nloaded 1 question from .*\ntaken back: a \(0 questions left\)\n$/)
  })
})

it('Tab completes commands and settings', () => {
  expect(complete('/')[0]).toEqual([
    '/help',
    '/retry',
    '/undo',
    '/reset',
    '/save ',
    '/load ',
    '/set ',
    '/exit',
  ])
  expect(complete('/re')).toEqual([['/retry', '/reset'], '/re'])
  expect(complete('/set t')).toEqual([['temperature ', 'top-k ', 'top-p ', 'typical-p '], 't'])
  expect(complete('the ')).toEqual([[], 'the '])
})

const hasTerminals = process.platform === 'linux' && existsSync('/usr/bin/script')

describe.skipIf(!hasTerminals)('rwkv chat, on a terminal', () => {
  /** Types keys, each time once the terminal shows what comes before them; what it showed, and the exit code. */
  function type(steps: readonly [after: string, keys: string][], args: string, TERM = 'xterm') {
    return new Promise<{ code: number | null; out: string }>(resolve => {
      const command = `stty cols 60; ${process.execPath} ${main} chat ${run} ${args}`
      const child = spawn('script', ['-qec', command, '/dev/null'], { env: terminalEnvironment(false, TERM) })
      const left = [...steps]
      let [out, seen] = ['', 0]
      child.stdout.setEncoding('utf8').on('data', text => {
        out += text
        for (let step = left[0]; step; step = left[0]) {
          const at = out.indexOf(step[0], seen)
          if (at < 0) return
          seen = at + step[0].length
          left.shift()
          child.stdin.write(step[1])
        }
      })
      // It waits for what does not come: what came says why.
      const patience = setTimeout(() => child.kill(), 600_000)
      child.on('close', code => {
        clearTimeout(patience)
        resolve({ code, out: out.replaceAll('\r\n', '\n') })
      })
    })
  }

  it('asks, answers, takes back, and leaves with Ctrl-D', async () => {
    const saved = join(directory, 'typed.json')
    const { code, out } = await type(
      [
        ['> ', 'the red\r'],
        // Characters that come together are a text that is pasted, where a tab is a tab.
        ['> ', '/un'],
        ['/un', '\t'],
        ['do', '\r'],
        ['(0 questions left)', ''],
        ['> ', 'half a question\x03'],
        ['^C', ''],
        ['> ', 'the\\\r'],
        ['… ', 'foxes\r'],
        // As terminals mark what is pasted: its line breaks end no question.
        ['> ', '\x1b[200~the\rred\rdog\x1b[201~'],
        ['dog', '\r'],
        ['> ', `/save ${saved}\r`],
        ['saved 2 questions', ''],
        ['> ', '\x04'],
      ],
      '--temperature 0 --max-tokens 20',
    )
    expect(code, out).toBe(0)
    expect(out).toContain('format none, the default for the vocabulary')
    expect(out).toContain('taken back: the red (0 questions left)')
    const { turns } = JSON.parse(await readFile(saved, 'utf8'))
    const questions = turns.map(({ question }: { question: string }) => question)
    expect(questions).toEqual(['the\nfoxes', 'the\nred\ndog'])
  })

  it.each(['xterm', 'dumb'])(
    'Ctrl-C stops an answer, which stays, and leaves where nothing is typed (%s)',
    async TERM => {
      const endless = join(directory, 'endless.json')
      await writeFile(endless, JSON.stringify({ ...format, stop: [] }))
      const saved = join(directory, `stopped-${TERM}.json`)
      const { code, out } = await type(
        [
          ['> ', 'red\r'],
          ['the', '\x03'],
          ['(stopped)', ''],
          ['> ', `/save ${saved}\r`],
          ['saved 1 question', ''],
          ['> ', '\x03'],
        ],
        `--temperature 0 --max-tokens 100000000 --format ${endless}`,
        TERM,
      )
      expect(code, out).toBe(0)
      const { turns, states } = JSON.parse(await readFile(saved, 'utf8'))
      expect(turns).toEqual([{ question: 'red', answer: expect.stringContaining('the') }])
      const whole = model.createSession()
      await whole.prompt(`the red fox${turns[0].answer}`)
      expect(State.from(model, Buffer.from(states.end, 'base64')).equals(whole.state)).toBe(true)
    },
  )
})

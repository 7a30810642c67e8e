import { execFile } from 'node:child_process'
import { copyFile, cp, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, it } from 'vitest'
import { temporaryDirectory, trainTiny } from './tiny.js'

// The package as npm installs it: what is packed, and the binary in a package of its own.

const root = join(import.meta.dirname, '..')
const run = promisify(execFile)

/** How a program ended. */
interface End {
  code: number
  stdout: string
  stderr: string
}

describe('an install', async () => {
  const directory = await temporaryDirectory()
  const modules = join(directory, 'node_modules')
  const cli = join(modules, 'rwkv/dist/cli/main.js')
  /** The package with the binary of this machine, as `rwkv-linux-x64-gnu`, and that of another one. */
  let own: string
  let other: string
  let version: string
  let model: string

  beforeAll(async () => {
    model = await trainTiny(directory, { maxSteps: 2 })
    await mkdir(modules)
    await pack(root, 'rwkv')
    for (const name of ['asciichart', 'commander', 'fastest-levenshtein'])
      await symlink(join(root, 'node_modules', name), join(modules, name), 'junction')
    const binary = (await readdir(join(root, 'dist'))).find(name => name.endsWith('.node')) ?? ''
    const platform = binary.split('.')[1] ?? ''
    own = `rwkv-${platform}`
    other = platform === 'win32-arm64-msvc' ? 'rwkv-darwin-x64' : 'rwkv-win32-arm64-msvc'
    const source = join(directory, 'source')
    await cp(join(root, 'npm', platform), source, { recursive: true })
    await copyFile(join(root, 'dist', binary), join(source, binary))
    version = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')).version
    await pack(source, own)
  })

  /** Packs a package, and unpacks it where it would be installed. */
  async function pack(source: string, name: string): Promise<void> {
    const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
    const packing = ['pack', '--ignore-scripts', '--json', '--pack-destination', directory]
    const { stdout } = await run(npm, packing, { cwd: source, shell: process.platform === 'win32' })
    const [{ filename }] = JSON.parse(stdout)
    await mkdir(join(modules, name))
    await run('tar', ['-xzf', join(directory, filename), '--strip-components=1', '-C', join(modules, name)])
  }

  /** Runs a program that uses the package; `before` runs first, and may change what Node says of the system. */
  async function node(args: readonly string[], before = ''): Promise<End> {
    const preload = join(directory, 'before.cjs')
    await writeFile(preload, before)
    const env = { ...process.env, RWKV_BINARY: '' }
    return run(process.execPath, ['--require', preload, ...args], { cwd: directory, env }).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      ({ code, stdout, stderr }) => ({ code, stdout, stderr }),
    )
  }

  /** What loading a model comes to: `loaded`, or the error that the promise rejects with. */
  async function load(before = ''): Promise<string> {
    const program = `
      const { Model, RwkvError } = require('rwkv')
      Model.load(${JSON.stringify(model)}).then(
        model => { console.log('loaded'); model.close() },
        error => console.log(error instanceof RwkvError, error.code, error.message))`
    const { stdout, stderr, code } = await node(['-e', program], before)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    return stdout.trim()
  }

  /** The same, with `own` moved away and what `change` puts there instead. */
  async function withBinary(change: (path: string) => Promise<void>, before = ''): Promise<string> {
    const [path, kept] = [join(modules, own), join(directory, 'kept')]
    await cp(path, kept, { recursive: true })
    try {
      await change(path)
      return await load(before)
    } finally {
      await rm(path, { recursive: true, force: true })
      await rm(join(modules, other), { recursive: true, force: true })
      await cp(kept, path, { recursive: true })
      await rm(kept, { recursive: true })
    }
  }

  it('has what it needs, and no script that runs when it is installed', async () => {
    expect(await load()).toBe('loaded')
    for (const name of ['rwkv', own]) {
      const { scripts = {} } = JSON.parse(await readFile(join(modules, name, 'package.json'), 'utf8'))
      for (const script of ['preinstall', 'install', 'postinstall', 'prepare'])
        expect(scripts, name).not.toHaveProperty(script)
    }
    const names = await readdir(join(modules, 'rwkv'), { recursive: true })
    expect(names.filter(name => name.endsWith('.node') || /test|examples/.test(name))).toEqual([])
  })

  it('has one set of classes, for import and for require', async () => {
    const program = `
      import { createRequire } from 'node:module'
      import * as imported from 'rwkv'
      const required = createRequire(import.meta.url)('rwkv')
      const error = await required.Model.load('none').catch(error => error)
      const names = Object.keys(required).filter(name => name !== '__esModule')
      console.log(names.length > 8, names.every(name => imported[name] === required[name]), error instanceof imported.RwkvError)`
    await writeFile(join(directory, 'both.mjs'), program)
    expect(await node(['both.mjs'])).toEqual({ code: 0, stdout: 'true true true\n', stderr: '' })
  })

  it('without the binary: it says which package is missing, and what needs none works', async () => {
    const remedy = `npm install ${own}@${version} adds it`
    expect(await withBinary(path => rm(path, { recursive: true }))).toBe(
      `true INSTALL ${own} is not installed, the package with the binary of rwkv for this system (npm leaves it out with --omit=optional, and where node_modules was made on another system); ${remedy}`,
    )
    await rm(join(modules, own), { recursive: true })
    try {
      expect(await node([cli, '--help'])).toMatchObject({ code: 0, stderr: '' })
      expect(await node([cli, '--version'])).toMatchObject({ code: 0, stdout: `${version}\n` })
      const { code, stdout, stderr } = await node([cli, 'info', model])
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(new RegExp(`^rwkv: ${own} is not installed, .*; ${remedy}\n$`))
    } finally {
      const source = join(directory, 'source')
      await cp(source, join(modules, own), { recursive: true })
    }
  })

  it('with the binary of another system: it names what is there', async () => {
    const message = await withBinary(async path => {
      await cp(path, join(modules, other), { recursive: true })
      await rm(path, { recursive: true })
    })
    expect(message).toContain(
      `installed is ${other}, for another system: was node_modules copied from there?`,
    )
  })

  it('with a binary of another version: it says which, and how to bring both in one', async () => {
    const message = await withBinary(async path => {
      const file = join(path, 'package.json')
      const about = JSON.parse(await readFile(file, 'utf8'))
      await writeFile(file, JSON.stringify({ ...about, version: '0.0.1' }))
    })
    expect(message).toBe(
      `true INSTALL ${own} is version 0.0.1, and rwkv is version ${version}: npm install rwkv@${version} ${own}@${version} brings both in one version`,
    )
  })

  it('with a damaged binary: it says so', async () => {
    const message = await withBinary(async path => {
      const binary = (await readdir(path)).find(name => name.endsWith('.node')) ?? ''
      await writeFile(join(path, binary), 'cut')
    })
    expect(message).toMatch(
      new RegExp(`^true INSTALL ${own} cannot be loaded: .*; npm install --force ${own}@`),
    )
  })

  it('takes the binary that RWKV_BINARY names, or says that it cannot', async () => {
    const binary = (await readdir(join(modules, own))).find(name => name.endsWith('.node')) ?? ''
    const named = (path: string) => `process.env.RWKV_BINARY = ${JSON.stringify(path)}`
    await rename(join(modules, own), join(directory, 'elsewhere'))
    try {
      expect(await load(named(join(directory, 'elsewhere', binary)))).toBe('loaded')
      const none = join(directory, 'none.node')
      const message = await load(named(none))
      expect(message).toContain(`true INSTALL ${none} cannot be loaded: `)
      expect(message).toContain('RWKV_BINARY names it: set it to a binary of this version')
    } finally {
      await rename(join(directory, 'elsewhere'), join(modules, own))
    }
  })

  it.each([
    [
      'on 32 bits',
      "Object.defineProperty(process, 'arch', { value: 'ia32' })",
      /^true INSTALL there is no binary of rwkv for \w+-ia32: they are for 64-bit x86 and ARM/,
    ],
    [
      'on another system',
      "Object.defineProperty(process, 'platform', { value: 'freebsd' })",
      /^true INSTALL there is no binary of rwkv for freebsd-/,
    ],
    [
      'with a Node that is too old',
      "Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '18.20.4' } })",
      /^true INSTALL rwkv needs Node 20\.19 or newer, and this is 18\.20\.4: /,
    ],
    [
      'with a glibc that is too old',
      'process.dlopen = () => { throw new Error("libc.so.6: version `GLIBC_2.17\' not found (required by rwkv.node)") }',
      /^true INSTALL rwkv needs glibc 2\.17 or newer, and this system has .*: libc/,
    ],
  ])('%s: it says so', async (_, before, says) => {
    expect(await load(before)).toMatch(says)
  })

  it.skipIf(process.platform !== 'linux')('for the wrong C library: it names the right package', async () => {
    const report = process.report as unknown as { getReport(): { header: { glibcVersionRuntime?: string } } }
    const isMusl = report.getReport().header.glibcVersionRuntime === undefined
    const header = isMusl ? "{ glibcVersionRuntime: '2.36' }" : '{}'
    const needed = isMusl ? own.replace('musl', 'gnu') : own.replace('gnu', 'musl')
    expect(await load(`process.report.getReport = () => ({ header: ${header} })`)).toBe(
      `true INSTALL ${needed} is not installed, the package with the binary of rwkv for this system (installed is ${own}, for another system: was node_modules copied from there?); npm install ${needed}@${version} adds it`,
    )
  })

  it.each([
    ['ES2020 and no types of Node', ['--target', 'es2020', '--lib', 'es2020', '--types', '']],
    ['exactOptionalPropertyTypes', ['--target', 'es2022', '--exactOptionalPropertyTypes', '--types', '']],
    [
      'a bundler',
      ['--target', 'es2022', '--module', 'esnext', '--moduleResolution', 'bundler', '--types', ''],
    ],
  ])('has types for %s', async (_, options) => {
    await writeFile(
      join(directory, 'typed.mts'),
      `import { Model, State, Trainer, type TrainOptions } from 'rwkv'
       import type * as all from 'rwkv'
       const url = { href: 'file:///x', protocol: 'file:' }
       const training: TrainOptions = { data: ['x', url], out: url, nLayer: undefined }
       export async function use(): Promise<Uint8Array> {
         const model = await Model.load('run', { threads: undefined, signal: undefined })
         const session = model.createSession({ state: undefined })
         for await (const text of session.generate('a', { stop: undefined })) text.trim()
         const trainer = await Trainer.create(training)
         const width: number = trainer.options.nEmbd
         // @ts-expect-error: a width is a number
         const wrong: string = trainer.options.nEmbd
         await Trainer.resume('run', { data: undefined, maxSteps: undefined })
         return State.from(model, session.state.toBuffer()).toBuffer().subarray(width, Number(wrong))
       }
       // What may be left out may also be undefined.
       type Left<T> = { [K in keyof T as Partial<Pick<T, K>> extends Pick<T, K> ? K : never]: undefined }
       declare const left: <T>() => Left<T>
       export const train: Omit<all.TrainOptions, 'data' | 'out'> = left<all.TrainOptions>()
       export const prepare: Omit<all.PrepareOptions, 'out'> = left<all.PrepareOptions>()
       export const tokenizer: Omit<all.TrainTokenizerOptions, 'vocabSize'> = left<all.TrainTokenizerOptions>()
       export const options: readonly [
         all.ResumeOptions, all.Watch, all.LoadOptions, all.QuantizeOptions, all.MergeOptions,
         all.GenerateOptions, all.SessionOptions, all.PromptOptions, all.SampleOptions, all.ReportOptions,
         all.SaveOptions, all.ValidateOptions, all.EvaluateOptions, all.BenchOptions,
       ] = [
         left<all.ResumeOptions>(), left<all.Watch>(), left<all.LoadOptions>(), left<all.QuantizeOptions>(),
         left<all.MergeOptions>(), left<all.GenerateOptions>(), left<all.SessionOptions>(),
         left<all.PromptOptions>(), left<all.SampleOptions>(), left<all.ReportOptions>(),
         left<all.SaveOptions>(), left<all.ValidateOptions>(), left<all.EvaluateOptions>(),
         left<all.BenchOptions>(),
       ]
       // @ts-expect-error: those of a run that begins have to be named
       export const required: all.TrainOptions = { data: undefined, out: 'y' }`,
    )
    const tsc = [join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', '--strict', 'typed.mts']
    const module = options.includes('--module') ? [] : ['--module', 'nodenext']
    expect(await node([...tsc, ...module, ...options])).toEqual({ code: 0, stdout: '', stderr: '' })
  })
})

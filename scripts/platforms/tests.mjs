// Runs the TypeScript tests with what build.sh has built, on a system that this machine can stand in for:
//
//   node scripts/platforms/tests.mjs linux-x64-musl [TEST...]
//
// The tests start Node again for most of what they try, so Node's own path has to be that of a program: a script
// that starts the loader or the emulator. Under Wine they cannot run, as Node cannot write to a pipe there.

import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { cache, packed, systems } from './systems.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [name, ...tests] = process.argv.slice(2)
if (!systems[name] || name.startsWith('win32'))
  throw new Error(`the tests can run on ${Object.keys(systems).filter(name => !name.startsWith('win32'))}`)
const file = `rwkv.${name}.node`
const binding = `${cache}/${name}/${file}`
if (!existsSync(binding)) throw new Error(`it is not built: scripts/platforms/build.sh ${name}`)

// A checkout with this binding in place of our own.
const checkout = `${cache}/tests/${name}`
rmSync(checkout, { recursive: true, force: true })
mkdirSync(checkout, { recursive: true })
for (const entry of readdirSync(root))
  if (!['.git', '.cache', 'target', 'node_modules'].includes(entry))
    cpSync(root + entry, `${checkout}/${entry}`, { recursive: true })
symlinkSync(`${root}node_modules`, `${checkout}/node_modules`)
if (existsSync(`${root}../shared`) && !existsSync(`${cache}/tests/shared`))
  symlinkSync(`${root}../shared`, `${cache}/tests/shared`)
for (const entry of readdirSync(`${checkout}/dist`))
  if (entry.endsWith('.node')) rmSync(`${checkout}/dist/${entry}`)
copyFileSync(binding, `${checkout}/dist/${file}`)

const { command, env } = systems[name]()
const node = `${checkout}/.cache/node`
if (existsSync(`${root}.cache/examples`))
  cpSync(`${root}.cache/examples`, `${checkout}/.cache/examples`, { recursive: true })
mkdirSync(`${checkout}/.cache`, { recursive: true })
writeFileSync(`${node}.cjs`, `process.execPath = ${JSON.stringify(node)}\n`)
const quoted = [...command, '--require', `${node}.cjs`].map(part => `'${part}'`).join(' ')
writeFileSync(node, `#!/bin/sh\nexec ${quoted} "$@"\n`, { mode: 0o755 })

// What bundles the tests has a binding too, and takes this machine for one with glibc.
const { version } = createRequire(`${root}node_modules/vite/package.json`)('rolldown/package.json')
const rolldown = packed(`@rolldown/binding-${name}@${version}`)
const bundler = `${rolldown}/package/rolldown-binding.${name}.node`
const { status } = spawnSync(node, ['node_modules/vitest/vitest.mjs', 'run', ...tests], {
  cwd: checkout,
  env: { ...process.env, ...env, NAPI_RS_NATIVE_LIBRARY_PATH: bundler },
  stdio: 'inherit',
})
process.exitCode = status ?? 1

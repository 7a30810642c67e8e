import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { version } from '#version'
import { RwkvError } from './errors.js'

// Finds the native binary: beside this file in a checkout, and elsewhere in a package of its own for each
// platform, of which npm installs the one that fits. What may go wrong with that is said here.

/** The platforms that there are binaries for, as their packages call them. */
const platforms = [
  'linux-x64-gnu',
  'linux-x64-musl',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'darwin-x64',
  'darwin-arm64',
  'win32-x64-msvc',
  'win32-arm64-msvc',
]

let loaded: Record<string, unknown> | undefined

/**
 * What the binary exports. It is loaded at the first call, so that what needs no binary works without one.
 *
 * @throws {RwkvError} `INSTALL` if there is none for this machine, or it cannot be used.
 */
export function binding(): Record<string, unknown> {
  loaded ??= load()
  return loaded
}

function load(): Record<string, unknown> {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19))
    throw fault(`rwkv needs Node 20.19 or newer, and this is ${process.versions.node}: https://nodejs.org`)
  // A name of our own: what napi-rs's own loader asks for would be taken by every package that is made with it.
  const named = process.env.RWKV_BINARY
  if (named) return open(named, 'RWKV_BINARY names it: set it to a binary of this version')
  const platform = platformOf(process)
  const built = join(__dirname, `rwkv.${platform}.node`)
  return existsSync(built) ? open(built, 'npm run build makes it anew') : openPackage(platform)
}

function openPackage(platform: string): Record<string, unknown> {
  const name = `rwkv-${platform}`
  const found = installed(name)
  if (found === undefined) throw fault(missing(name))
  if (found !== version) {
    const how = `npm install rwkv@${version} ${name}@${version} brings both in one version`
    throw fault(`${name} is version ${found}, and rwkv is version ${version}: ${how}`)
  }
  return open(name, `npm install --force ${name}@${version} installs it anew`)
}

/** Loads a binary, and says of a failure what can be done. */
function open(path: string, remedy: string): Record<string, unknown> {
  try {
    return require(path)
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? ''
    if (!/GLIBC_[\d.]+. not found/.test(reason))
      throw fault(`${path} cannot be loaded: ${reason}; ${remedy}`, error)
    const has = glibc() ?? 'none'
    throw fault(`rwkv needs glibc 2.17 or newer, and this system has ${has}: ${reason}`, error)
  }
}

/**
 * The name of a platform.
 *
 * @throws {RwkvError} `INSTALL` for one that there is no binary for.
 */
function platformOf({ platform, arch }: { platform: string; arch: string }): string {
  const kind = `${platform}-${arch}`
  const libc =
    platform === 'linux' ? (glibc() === undefined ? '-musl' : '-gnu') : platform === 'win32' ? '-msvc' : ''
  if (platforms.includes(kind + libc)) return kind + libc
  const those = '64-bit x86 and ARM, on Linux, macOS and Windows'
  throw fault(
    `there is no binary of rwkv for ${kind}: they are for ${those}; its Rust crates can be compiled for others`,
  )
}

/** The version of glibc that Node runs on; undefined where there is none. */
function glibc(): string | undefined {
  const report = process.report as unknown as Report
  // Looking at the network can take seconds, and nobody wants to know.
  report.excludeNetwork = true
  return report.getReport().header.glibcVersionRuntime
}

/** What the types of Node do not say of its report. */
interface Report {
  excludeNetwork: boolean
  getReport(): { header: { glibcVersionRuntime?: string } }
}

/** The version of a package; undefined if it is not installed. */
function installed(name: string): string | undefined {
  try {
    return require(`${name}/package.json`).version
  } catch {
    return undefined
  }
}

/** What to say if the package of this platform is not installed. */
function missing(name: string): string {
  const others = platforms.map(platform => `rwkv-${platform}`).filter(other => installed(other) !== undefined)
  const why =
    others.length > 0
      ? `installed is ${others.join(', ')}, for another system: was node_modules copied from there?`
      : 'npm leaves it out with --omit=optional, and where node_modules was made on another system'
  const what = `${name} is not installed, the package with the binary of rwkv for this system`
  return `${what} (${why}); npm install ${name}@${version} adds it`
}

function fault(message: string, cause?: unknown): RwkvError {
  return new RwkvError('INSTALL', message, { cause })
}

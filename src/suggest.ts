/** `did you mean --seed?`, if one of `names` is close enough to what was typed to be worth saying. */
export function suggestion(typed: string, names: readonly string[], prefix = ''): string | undefined {
  const close = names
    .map(name => ({ name, distance: editDistance(letters(typed), letters(name)) }))
    .filter(
      ({ name, distance }) =>
        distance <= Math.max(2, Math.floor(name.length / 3)) && distance < name.length / 2,
    )
    .sort((a, b) => a.distance - b.distance)[0]
  return close && `did you mean ${prefix}${close.name}?`
}

/** `max_tokens`, `max-tokens` and `maxTokens` are the same name in different languages. */
function letters(name: string): string {
  return name.replace(/[-_]/g, '').toLowerCase()
}

/** Levenshtein's distance: insertions, deletions and substitutions between two words. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = at(row, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, at(row, j) + 1, at(next, j - 1) + 1))
    }
    row = next
  }
  return at(row, b.length)
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY
}

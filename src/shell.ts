/**
 * A path as a shell takes it, in one line, also if its name was made to be obeyed (`$(rm -rf ~)`).
 *
 * Where there is a POSIX shell: as it is if it has no special character, else between single quotes, which
 * leave nothing special; with control characters as `$'…'` of POSIX.1-2024 (bash, zsh, ksh), because a
 * terminal would not show them. On Windows between double quotes, as cmd.exe and PowerShell both read them,
 * with a backtick before what PowerShell replaces there; cmd.exe then finds no such file, and does nothing
 * else. (Between percent signs it puts a variable of that name, which nothing prevents.)
 *
 * A path that begins with a dash would be an option, so it becomes `./-…`.
 */
export function quote(path: string, platform = process.platform): string {
  if (platform === 'win32') return windows(path.replace(/^-/, '.\\-'))
  return posix(path.replace(/^-/, './-'))
}

function posix(path: string): string {
  if (/^[\w./][\w@%+=:,./-]*$/.test(path)) return path
  if (!/[\p{Cc}\p{Bidi_Control}]/u.test(path)) return `'${path.replaceAll("'", `'\\''`)}'`
  // An exclamation mark would be the history of an interactive shell.
  const escaped = path.replace(/[\p{Cc}\p{Bidi_Control}'\\!]/gu, character =>
    [...Buffer.from(character)].map(byte => `\\${byte.toString(8).padStart(3, '0')}`).join(''),
  )
  return `$'${escaped}'`
}

function windows(path: string): string {
  if (/^[\w./\\][\w+:./\\-]*$/.test(path)) return path
  // PowerShell takes typographic quotes for quotes.
  const escaped = path.replace(/[`$"\u201c-\u201f]/g, '`$&')
  // At the end a backslash would belong to the quote.
  return `"${escaped.replace(/\\+$/, '$&$&')}"`
}

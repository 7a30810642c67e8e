import { relative } from 'node:path'

// Numbers, times and names as people read them, the same in every locale.

/** `12345.6` → `12,346`. */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** `874752` → `875 K`, `1536000` → `1.54 M`, `41000` → `41.0 K`: three digits and a unit. */
export function short(value: number): string {
  for (const [limit, unit] of [
    [1e9, ' G'],
    [1e6, ' M'],
    [1e3, ' K'],
  ] as const) {
    if (value >= limit * 0.9995) return `${(value / limit).toPrecision(3)}${unit}`
  }
  return String(Math.round(value))
}

/** `3501056` → `3.5 MB`, in units of a thousand. */
export function bytes(value: number): string {
  return value < 1000 ? `${value} bytes` : `${short(value).replace('K', 'k')}B`
}

/** `75.4` → `1:15`, `3725` → `1:02:05`: seconds as a clock shows them. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const two = (n: number) => String(n).padStart(2, '0')
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}

/** `nLayer` → `n-layer`: an option's name on the command line. */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)
}

/** A path as it is shortest to read from here. */
export function near(path: string): string {
  const short = relative('', path)
  return short.length < path.length ? short : path
}

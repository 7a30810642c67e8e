import { script as uplotScript, style as uplotStyle } from '#uplot'
import { Smooth } from '../smooth.js'
import { script } from './script.js'
import { style } from './style.js'

/** What a report shows of a training run. */
export interface Report {
  /** The run's name: its directory's. */
  readonly title: string
  /** The loss of each step, in order. */
  readonly training: readonly { readonly step: number; readonly loss: number }[]
  /** The loss over the whole validation split, in order. */
  readonly validation: readonly { readonly step: number; readonly loss: number }[]
  /** Figures for the head of the page, in the order they are shown: label, then value. */
  readonly figures: readonly (readonly [label: string, value: string])[]
  /** The run's options as they were used: name, then value. */
  readonly options: readonly (readonly [name: string, value: string])[]
  /** A text that the model wrote, and the prompt it was given. */
  readonly sample: { readonly prompt: string; readonly text: string } | undefined
}

/** More points than a screen has columns show nothing more. */
const MAX_POINTS = 4000

/** The report as one HTML page that loads nothing: styles, the plotting library and the data are in it. */
export function renderReport(report: Report): string {
  const { title, figures, options, sample } = report
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(title)} · rwkv</title>
<style>${uplotStyle}${style}</style>
</head>
<body>
<header>
<p class="kind">Training run</p>
<h1>${escapeHtml(title)}</h1>
</header>
<main>
<section class="figures">
${figures.map(([label, value]) => `<div><span>${escapeHtml(label)}</span><strong>${escapeHtml(value)}</strong></div>`).join('\n')}
</section>
<section>
<h2>Loss</h2>
<p class="note">Cross-entropy in nats a token, by step. Validation is over the whole held-out tenth of the text. Drag to zoom, double-click to zoom out.</p>
<div id="chart"></div>
<noscript><p class="note">The chart is drawn with JavaScript, which is switched off here.</p></noscript>
</section>
${sample ? sampleSection(sample.prompt, sample.text) : ''}
<section>
<h2>Options</h2>
<table class="options">
${options.map(([name, value]) => `<tr><th scope="row">${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`).join('\n')}
</table>
</section>
</main>
<script>${uplotScript}</script>
<script type="application/json" id="data">${embed(series(report))}</script>
<script type="module">${script}</script>
</body>
</html>
`
}

function sampleSection(prompt: string, text: string): string {
  return `<section>
<h2>What it writes</h2>
<blockquote><b>${escapeHtml(prompt)}</b>${escapeHtml(text)}</blockquote>
</section>`
}

/** The columns that uPlot wants: steps, then each curve's values at them, null where it has none. */
function series({ training, validation }: Report): (number | null)[][] {
  const smooth = new Smooth()
  const smoothed = training.map(({ step, loss }) => ({ step, loss, mean: smooth.add(loss) }))
  const every = Math.max(1, Math.ceil(smoothed.length / MAX_POINTS))
  const held = new Map(validation.map(({ step, loss }) => [step, loss]))
  const kept = new Map(
    smoothed.filter((point, i) => i % every === 0 || held.has(point.step)).map(point => [point.step, point]),
  )
  const steps = [...new Set([...kept.keys(), ...held.keys()])].sort((a, b) => a - b)
  const round = (value: number | undefined) => (value === undefined ? null : Number(value.toFixed(4)))
  return [
    steps,
    steps.map(step => round(kept.get(step)?.loss)),
    steps.map(step => round(kept.get(step)?.mean)),
    steps.map(step => round(held.get(step))),
  ]
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, char => ENTITIES[char] ?? char)
}

/** JSON that cannot end the script element it stands in. */
function embed(value: unknown): string {
  return JSON.stringify(value).replaceAll('<', '\\u003c')
}

// What runs in a report: it draws the curves, again when the window or the colour scheme changes.
const data = JSON.parse(document.getElementById('data').textContent)
const root = document.documentElement
const scheme = matchMedia('(prefers-color-scheme: dark)')
const isOne = data.runs.length === 1
let axis = 'step'
let isWhole = false
let charts = []

const css = name => getComputedStyle(root).getPropertyValue(name).trim()
const runColour = index => css(`--run-${index % 8}`)
const xs = (run, curve) =>
  axis === 'tokens' ? curve.step.map(step => step * run.tokens) : axis === 'seconds' ? curve.seconds : curve.step

/** Three digits and a unit: 1500000 is 1.5 M. */
function short(value) {
  for (const [limit, unit] of [[1e9, ' G'], [1e6, ' M'], [1e3, ' K']])
    if (Math.abs(value) >= limit) return `${Number((value / limit).toPrecision(3))}${unit}`
  return String(Number(value.toPrecision(4)))
}

function clock(seconds) {
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`
  const whole = Math.round(seconds)
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const two = n => String(n).padStart(2, '0')
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}

const onAxis = value =>
  axis === 'seconds' ? clock(value) : axis === 'tokens' ? short(value) : value.toLocaleString('en-US')

/** The point of a curve that has one nearest to the cursor: curves have points at different steps. */
function nearest(u, series, index, x) {
  const values = u.data[series]
  if (series === 0 || values[index] != null) return index
  let [left, right] = [index, index]
  while (left >= 0 && values[left] == null) left--
  while (right < values.length && values[right] == null) right++
  if (left < 0) return right < values.length ? right : index
  if (right >= values.length) return left
  return x - u.data[0][left] <= u.data[0][right] - x ? left : right
}

function padded(min, max) {
  if (min == null) return [0, 1]
  const margin = (max - min) * 0.05 || Math.abs(max) * 0.05 || 1
  return [min - margin, max + margin]
}

/** 1, 2 and 5 times the powers of ten within a range of logarithms; the powers alone if there are many. */
function decades(min, max) {
  const factors = max - min > 2.5 ? [1] : [1, 2, 5]
  const all = []
  for (let power = Math.floor(min); power <= max; power++)
    all.push(...factors.map(factor => power + Math.log10(factor)))
  return all.filter(value => value >= min && value <= max)
}

/** A line across the chart, with words beside it. */
function mark(u, { x, y, label, colour }) {
  const { ctx, bbox } = u
  const at = x === undefined ? u.valToPos(y, 'y', true) : u.valToPos(x, 'x', true)
  const [start, length] = x === undefined ? [bbox.top, bbox.height] : [bbox.left, bbox.width]
  if (at < start - 1 || at > start + length + 1) return
  ctx.save()
  ctx.strokeStyle = ctx.fillStyle = colour
  ctx.lineWidth = devicePixelRatio
  ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio])
  ctx.beginPath()
  if (x === undefined) {
    ctx.moveTo(bbox.left, at)
    ctx.lineTo(bbox.left + bbox.width, at)
  } else {
    ctx.moveTo(at, bbox.top)
    ctx.lineTo(at, bbox.top + bbox.height)
  }
  ctx.stroke()
  ctx.setLineDash([])
  ctx.lineWidth = 4 * devicePixelRatio
  ctx.strokeStyle = css('--card')
  ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`
  ctx.textBaseline = x === undefined ? 'bottom' : 'top'
  const gap = 5 * devicePixelRatio
  // Around the words is a border, for curves behind them.
  const write = (x, y) => {
    ctx.strokeText(label, x, y)
    ctx.fillText(label, x, y)
  }
  if (x === undefined) {
    ctx.textAlign = 'right'
    write(bbox.left + bbox.width - gap, at - gap / 2)
  } else {
    const isRight = at > bbox.left + bbox.width / 2
    ctx.textAlign = isRight ? 'right' : 'left'
    write(at + (isRight ? -gap : gap), bbox.top + gap)
  }
  ctx.restore()
}

/**
 * Draws a chart: curves with their run, colour and label; a range for y, if it is not that of the values; lines
 * across it. With `isLog` the values are logarithms to the base 10.
 */
function chart(id, { curves, height, range, isLog = false, fromZero = false, value = short, marks = () => {} }) {
  const place = document.getElementById(id)
  curves = curves.filter(({ curve }) => curve.step.length > 0)
  if (curves.length === 0) {
    place.textContent = 'Nothing is logged yet.'
    return
  }
  const grid = { stroke: css('--grid'), width: 1 }
  const font = '12px system-ui, sans-serif'
  const side = { stroke: css('--soft'), grid, ticks: { show: false }, font }
  const aligned = uPlot.join(curves.map(({ run, curve }) => [xs(run, curve), curve.y]))
  const all = aligned[0]
  let isZoomed = false
  const xRange = (u, min, max) => {
    if (min == null) return [0, 1]
    isZoomed = min > all[0] || max < all[all.length - 1]
    return min === max ? [min - 1, max + 1] : [min, max]
  }
  // Asked after that of x.
  const yRange = (u, min, max) => {
    if (range && !isWhole && !isZoomed) return range
    return fromZero ? [0, 1.05 * max || 1] : padded(min, max)
  }
  const x = { label: axis === 'seconds' ? 'Time' : axis === 'tokens' ? 'Tokens' : 'Step', value: (u, v) => v == null ? '–' : onAxis(v) }
  charts.push(
    new uPlot(
      {
        width: place.clientWidth,
        height,
        scales: { x: { time: false, range: xRange }, y: { range: yRange } },
        cursor: { points: { size: 7 }, dataIdx: nearest, sync: { key: 'report' } },
        legend: { live: true },
        axes: [
          { ...side, values: (u, all) => all.map(onAxis), space: 70, size: 30 },
          {
            ...side,
            size: 54,
            values: (u, all) => all.map(v => value(v, true)),
            ...(isLog && { splits: (u, axis, min, max) => decades(min, max) }),
          },
        ],
        hooks: { draw: [u => marks(u)] },
        series: [
          x,
          ...curves.map(({ label, colour, width, dash, curve, points }) => ({
            label,
            stroke: colour,
            width,
            dash,
            spanGaps: true,
            value: (u, v) => (v == null ? '–' : value(v)),
            points: { show: points === true && curve.step.length < 60, size: 6, fill: colour },
          })),
        ],
      },
      aligned,
      place,
    ),
  )
}

function draw() {
  for (const chart of charts) chart.destroy()
  charts = []
  for (const place of document.querySelectorAll('.chart')) place.textContent = ''
  const width = document.getElementById('loss').clientWidth
  const ofRun = (key, style) =>
    data.runs.map((run, index) => ({ run, curve: run[key], colour: runColour(index), label: run.name, ...style }))
  const faint = data.runs.some(run => run.valTrend.step.length > 0) ? '48' : ''
  const losses = isOne
    ? data.runs.flatMap(run => [
        { run, curve: run.loss, label: 'Training', colour: `${css('--train')}48`, width: 1 },
        { run, curve: run.val, label: 'Validation', colour: css('--valid') + faint, width: faint ? 1 : 2, points: true },
        { run, curve: run.trend, label: 'Training, trend', colour: css('--train'), width: 2 },
        { run, curve: run.valTrend, label: 'Validation, trend', colour: css('--valid'), width: 2 },
      ])
    : [
        ...ofRun('trend', { width: 1 }).map(curve => ({ ...curve, colour: `${curve.colour}80`, label: `${curve.label}, training` })),
        ...data.runs.map((run, index) => ({
          run,
          curve: run.valTrend.step.length > 0 ? run.valTrend : run.val,
          colour: runColour(index),
          label: run.name,
          width: 2,
          points: true,
        })),
      ]
  chart('loss', {
    curves: losses,
    height: Math.min(440, Math.max(280, width * 0.5)),
    range: data.range,
    value: (v, isTick) => (isTick ? String(Number(v.toPrecision(4))) : v.toFixed(3)),
    marks: u =>
      data.runs.forEach((run, index) => {
        if (!run.kept) return
        const { step, seconds, label } = run.kept
        const x = axis === 'tokens' ? step * run.tokens : axis === 'seconds' ? seconds : step
        mark(u, { x, label: isOne ? label : '', colour: isOne ? css('--valid') : runColour(index) })
      }),
  })
  const style = { width: 1.5 }
  const named = (key, label) => ofRun(key, style).map(curve => (isOne ? { ...curve, label, colour: css('--train') } : curve))
  const small = { height: 200 }
  chart('rate', { ...small, curves: named('rate', 'Learning rate'), value: v => (v === 0 || v >= 1e-4 ? String(Number(v.toPrecision(3))) : v.toExponential(1)) })
  const clips = [...new Set(data.runs.map(run => run.clip))]
  const isNoisy = data.runs.some(run => run.normTrend.step.length > 0)
  const norms = named('norm', 'Norm').map(curve => ({ ...curve, width: 1 }))
  const trends = named('normTrend', 'Trend')
  chart('norm', {
    ...small,
    curves: !isNoisy
      ? norms
      : isOne
        ? [...norms.map(curve => ({ ...curve, colour: `${curve.colour}48` })), ...trends]
        : norms.map((curve, index) => (trends[index].curve.step.length > 0 ? trends[index] : curve)),
    isLog: true,
    value: v => String(Number((10 ** v).toPrecision(2))),
    marks: u => clips.length === 1 && clips[0] > 0 && mark(u, { y: Math.log10(clips[0]), label: '', colour: css('--soft') }),
  })
  chart('speed', { ...small, curves: named('speed', 'Tokens a second'), fromZero: true })
  document.querySelectorAll('.run').forEach(swatch => {
    swatch.style.background = runColour(Number(swatch.dataset.run))
  })
}

document.getElementById('axis').addEventListener('change', event => {
  axis = event.target.value
  draw()
})
document.getElementById('whole').addEventListener('click', event => {
  isWhole = !isWhole
  event.target.setAttribute('aria-pressed', String(isWhole))
  draw()
})
scheme.addEventListener('change', draw)
// On paper: light, and as wide as the paper.
addEventListener('beforeprint', () => {
  root.dataset.print = ''
  draw()
})
addEventListener('afterprint', () => {
  delete root.dataset.print
  draw()
})
let width = innerWidth
addEventListener('resize', () => {
  if (innerWidth === width || 'print' in root.dataset) return
  width = innerWidth
  draw()
})
draw()

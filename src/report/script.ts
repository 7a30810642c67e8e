/** What runs in a report: it draws the chart, again when the window or the colour scheme changes. */
export const script = `
const data = JSON.parse(document.getElementById('data').textContent)
const place = document.getElementById('chart')
const scheme = matchMedia('(prefers-color-scheme: dark)')
// The first fiftieth of a run falls so far that the rest would look flat beside it: it is cut off unless
// zoomed in to.
const ceiling = data[0].length < 100 ? Infinity : data[2][Math.floor(data[0].length / 50)] ?? Infinity
const lowest = Math.min(...data.slice(1).flat().filter(loss => loss !== null))
let chart

function lossRange(u, min, max) {
  const isWhole = min <= lowest
  return uPlot.rangeNum(min, isWhole ? Math.max(min + 0.1, Math.min(max, ceiling)) : max, 0.05, false)
}

function draw() {
  const css = getComputedStyle(document.documentElement)
  const colour = name => css.getPropertyValue(name).trim()
  const axis = { stroke: colour('--soft'), grid: { stroke: colour('--grid'), width: 1 }, ticks: { show: false } }
  const loss = (u, value) => value == null ? '–' : value.toFixed(3)
  const few = data[3].filter(value => value !== null).length < 60
  chart?.destroy()
  chart = new uPlot({
    width: place.clientWidth,
    height: Math.min(420, Math.max(260, place.clientWidth * 0.5)),
    scales: { x: { time: false }, y: { range: lossRange } },
    cursor: { points: { size: 7 } },
    axes: [{ ...axis }, { ...axis, size: 48 }],
    series: [
      { label: 'Step' },
      { label: 'Training', stroke: colour('--train') + '40', width: 1, points: { show: false }, value: loss },
      { label: 'Training, smoothed', stroke: colour('--train'), width: 2, points: { show: false }, value: loss },
      { label: 'Validation', stroke: colour('--valid'), width: 2, spanGaps: true, value: loss,
        points: { show: few, size: 6, fill: colour('--valid') } },
    ],
  }, data, place)
}

draw()
scheme.addEventListener('change', draw)
let width = place.clientWidth
addEventListener('resize', () => {
  if (place.clientWidth === width) return
  width = place.clientWidth
  draw()
})
`

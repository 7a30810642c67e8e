/** What runs in a report: it draws the chart, again when the window or the colour scheme changes. */
export const script = `
const data = JSON.parse(document.getElementById('data').textContent)
const place = document.getElementById('chart')
const scheme = matchMedia('(prefers-color-scheme: dark)')
let chart

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
    scales: { x: { time: false } },
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

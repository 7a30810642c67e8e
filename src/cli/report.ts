import { stat } from 'node:fs/promises'
import { reportTable } from '../option-tables.js'
import { writeReport } from '../report.js'
import { bytes } from './format.js'
import { common, verb } from './verb.js'

/** `rwkv report` */
export const report = verb({
  name: 'report',
  summary: 'write a page on a training run, or one that compares several',
  positionals: ['RUN...'],
  options: {
    ...reportTable,
    json: common.json,
  },
  details: `
RUN is a training run's directory, which a trainer may be at work in. Of several runs the page has one chart, over steps,
tokens or time, and the options that differ; it is report.html in the current directory, unless --out names another.
With --json: {"report","runs","bytes"}.`,
  async run(runs, { out, force }, output) {
    const report = await writeReport(runs, { out, force })
    const { size } = await stat(report)
    output.object({ report, runs, bytes: size })
    output.line(`${report} (${bytes(size)})`)
    return 0
  },
})

// Runs the Rust tests and then the TypeScript ones, the second also when the first failed.

import { spawnSync } from 'node:child_process'

const suites = [
  // The benches have no tests, and what they are measured beside takes long to compile.
  ['cargo', ['test', '--workspace', '--exclude', 'rwkv-benches', '--no-fail-fast']],
  [process.execPath, ['node_modules/vitest/vitest.mjs', 'run']],
]
const failed = suites.filter(([command, args]) => spawnSync(command, args, { stdio: 'inherit' }).status !== 0)
process.exit(failed.length > 0 ? 1 : 0)

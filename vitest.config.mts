import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['__test__/**/*.test.ts'],
    // For what hangs. A test takes seconds; on a machine that is busy with much else, or emulated, many minutes.
    testTimeout: 1_800_000,
    hookTimeout: 1_800_000,
    reporters: ['default', ['json', { outputFile: '.cache/vitest.json' }]],
  },
})

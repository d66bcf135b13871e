import { defineConfig } from 'vitest/config'

/** How long a test waits for a condition: a busy machine is late, a broken program never gets there. */
const POLLS = { poll: { timeout: 15_000 } }

/** What a test needs is in its file's name; what a machine lacks is skipped by name inside the test. */
const project = (name: string, include: string[], timeoutMs: number) => ({
  test: {
    name,
    include,
    exclude: ['**/node_modules/**'],
    testTimeout: timeoutMs,
    hookTimeout: timeoutMs,
    expect: POLLS,
  },
})
const special = ['pg', 's3', 'redis', 'sim', 'cluster', 'alone'].map((kind) => `**/*.${kind}.test.ts`)
/** Tests of how much memory a process takes run after all others: a collector that gets no CPU time is late. */
const alone = project('alone', ['**/*.alone.test.ts'], 120_000)

export default defineConfig({
  test: {
    maxWorkers: 2,
    reporters: ['default'],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['{libs,apps,test,testcontainers,bench,tools}/**/*.test.ts'],
          exclude: ['**/node_modules/**', ...special],
          testTimeout: 20_000,
          expect: POLLS,
        },
      },
      project('sim', ['**/*.sim.test.ts'], 120_000),
      project('pg', ['**/*.pg.test.ts'], 240_000),
      project('s3', ['**/*.s3.test.ts'], 240_000),
      project('redis', ['**/*.redis.test.ts'], 60_000),
      project('cluster', ['**/*.cluster.test.ts'], 600_000),
      { test: { ...alone.test, sequence: { groupOrder: 1 } } },
    ],
  },
})

/**
 * Goal: a short run of `npm run chaos` holds everything it promises. Method: the program itself, with one seed, in
 * namespaces of its own where the machine lets it; with patience enough for a machine that is busy with other tests.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startProcess, temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import type { RunReport } from './run.ts'

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url))
const SECONDS = 30

test('faults every few seconds cost no acknowledged commit and no order, and leave what was before', async () => {
  await using folder = await temporaryDirectory({ prefix: 'chaostest' })
  const json = join(folder.path, 'report.json')
  const patience = ['--gap-seconds', '30', '--recovery-seconds', '120']
  const chaos = await startProcess({
    name: 'chaos',
    command: process.execPath,
    args: [MAIN, '--seconds', String(SECONDS), '--seed', '5', '--json', json, ...patience],
    stopTimeoutMs: 60_000,
    parentDeathSignal: 'SIGTERM',
  })
  const { code } = await chaos.exited
  expect({ code, output: code === 0 ? '' : chaos.output() }).toEqual({ code: 0, output: '' })
  const report = JSON.parse(await readFile(json, 'utf8')) as RunReport
  expect(report).toMatchObject({ violations: [], differing: 0, ledger: { lost: [], ghosts: [] } })
  expect(report.ledger.acknowledged).toBeGreaterThan(100)
  expect(report.faults.length).toBeGreaterThan(3)
  expect(report.pages).toBeGreaterThan(100)
})

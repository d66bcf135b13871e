/**
 * Goal: a safekeeper that is killed while it replaces a file opens its timelines again, and keeps nothing of what was
 * left. Method: the real process as number 1 of a process namespace of its own, as in a container, where every process
 * has the same number (needs root and unshare); killed after each step of its replacements in turn.
 */
import { spawnSync } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { realClock, realDisk, silentLog, realRng } from '@understory/env'
import { startProcess, temporaryDirectory } from '@understory/testcontainers'
import type { RunningProcess } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { Timelines } from '../src/timeline/timelines.ts'
import { unlimitedQuota } from '../src/timeline/node-quota.ts'
import { IDENTITY, START } from './wal-maker.ts'

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const HOLD = fileURLToPath(new URL('./hold-in-replace.ts', import.meta.url))
const AS_INIT = ['--pid', '--fork', '--kill-child', '--mount-proc']
const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
/** open, write, datasync, close and rename of both copies of the control file. */
const STEPS_COUNT = 10

async function startAsInit(dataDir: string, holdAt: number): Promise<RunningProcess> {
  return startProcess({
    name: 'safekeeper',
    command: 'unshare',
    args: [
      ...AS_INIT,
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      '--import',
      HOLD,
      MAIN,
      '--data-dir',
      dataDir,
      '--listen',
      '127.0.0.1:0',
      '--node-id',
      'sk-1',
    ],
    env: { HOLD_AT: String(holdAt) },
    ready: /"event":"started"|^held after/m,
    readyTimeoutMs: 15_000,
  })
}

test(
  'a process of the same number that was killed while it replaced a file leaves nothing in the way',
  { timeout: 120_000 },
  async ({ skip }) => {
    if (spawnSync('unshare', [...AS_INIT, 'true']).status !== 0)
      skip('unshare of the process namespace is not permitted here')
    await using directory = await temporaryDirectory({ prefix: 'init' })
    const timelines = new Timelines({
      disk: realDisk,
      log: silentLog,
      dataDir: directory.path,
      quota: unlimitedQuota(realClock),
      clock: realClock,
      rng: realRng,
    })
    await timelines.openAll()
    await timelines.create(REF, IDENTITY, START)
    await timelines.close()
    const folder = join(directory.path, 'timelines', REF.tenantId, REF.timelineId)
    const leftovers = async (): Promise<string[]> =>
      (await readdir(folder)).filter((name) => name.includes('.new-'))

    const left: string[] = []
    const steps: string[] = []
    for (let holdAt = 1; holdAt <= STEPS_COUNT; holdAt++) {
      // That it gets this far says that it removed what the one before left.
      await using killed = await startAsInit(directory.path, holdAt)
      expect(killed.output()).not.toContain('timeline_not_opened')
      steps.push(/held after (\w+)/.exec(killed.output())?.[1] ?? 'none')
      left.push(...(await leftovers()))
      expect((await leftovers()).length).toBeLessThanOrEqual(1)
      await killed.stop('SIGKILL')
    }
    const ofOne = ['open', 'write', 'datasync', 'close', 'rename']
    expect(steps).toEqual([...ofOne, ...ofOne])
    expect(new Set(left).size).toBe(8)

    await using last = await startAsInit(directory.path, 0)
    expect(last.output()).toMatch(/"timelines":1\b/)
    expect(last.output()).not.toContain('timeline_not_opened')
    expect(await leftovers()).toEqual([])
  },
)

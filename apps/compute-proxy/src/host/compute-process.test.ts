// Goal: a compute that has served SQL is started again at once, because its Postgres waits to be adopted; one that
// never comes so far after growing pauses. Method: processes that the test plays, and a clock that notes the pauses.
import type { ChildProcess } from 'node:child_process'
import { EventEmitter } from 'node:events'
import { realClock, silentLog } from '@understory/env'
import type { CheckedSpec } from '@understory/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { hostFiles } from '../postgres/layout.ts'
import { ComputeProcess } from './compute-process.ts'

const SPEC = {
  timeline: { tenantId: '1'.repeat(32), timelineId: '2'.repeat(32) },
  postgresMajor: 17,
  bootstrap: false,
  safekeepers: ['127.0.0.1:1'],
  pageservers: ['127.0.0.1:1'],
  stripeBlocks: 256,
  sqlPort: 0,
  settings: {},
  specGeneration: 1n,
  fullPageWritesOff: false,
  requireTls: false,
  membership: undefined,
} as CheckedSpec

function supervised() {
  const pausesMs: number[] = []
  const children: EventEmitter[] = []
  const compute = new ComputeProcess(
    {
      files: hostFiles('/nowhere'),
      contactTimeoutMs: 30_000,
      argv: [],
      spares: {
        start: () => {
          const child = Object.assign(new EventEmitter(), { pid: children.length + 1, kill: () => true })
          children.push(child)
          return child as unknown as ChildProcess
        },
        prepare: () => undefined,
      },
      clock: { ...realClock, sleep: async (durationMs) => void pausesMs.push(durationMs) },
      log: silentLog,
    },
    SPEC,
    false,
  )
  /** The next life, to its death. */
  const live = async (count: number, hasServed: boolean): Promise<void> => {
    await expect.poll(() => children.length).toBe(count)
    const child = children.at(-1)
    child?.emit('message', { address: '127.0.0.1:1' })
    child?.emit('message', { alive: true, isRunning: hasServed })
    child?.emit('exit', null, 'SIGKILL')
  }
  onTestFinished(async () => {
    const ended = compute.end()
    children.at(-1)?.emit('exit', 0, null)
    await ended
  })
  return { live, pausesMs, children }
}

test('a compute that served is started again at once, however often it dies', async () => {
  const { live, pausesMs, children } = supervised()
  for (let count = 1; count <= 9; count++) await live(count, true)
  await expect.poll(() => children.length).toBe(10)
  expect(pausesMs).toEqual([])
})

test('a compute that never serves is started after growing pauses, which are short again once one has served', async () => {
  const { live, pausesMs, children } = supervised()
  for (const [i, hasServed] of [false, false, false, true, false].entries()) await live(i + 1, hasServed)
  await expect.poll(() => children.length).toBe(6)
  expect(pausesMs).toEqual([100, 200, 400, 100])
})

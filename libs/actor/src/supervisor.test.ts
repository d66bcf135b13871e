/** Goal: children start, fail, rest and end as their policy says. Method: the simulated clock. */
import { fail } from '@understory/base'
import { seededRng, silentLog } from '@understory/env'
import { Schedule } from '@understory/simulation/schedule'
import { expect, test } from 'vitest'
import { Supervisor } from './supervisor.ts'

const failure = (): Promise<never> => Promise.reject(fail('unavailable', 'failed'))

function supervisor() {
  const time = new Schedule()
  const { clock } = time
  const made = new Supervisor({
    clock,
    rng: seededRng(1),
    log: silentLog,
    backoff: { baseMs: 100, pauseMsMax: 1_000 },
    idleMs: 50,
  })
  const pass = async (ms: number): Promise<void> => {
    time.at(ms, () => time.stir())
    time.stir()
    await time.run(time.nowMs + ms)
  }
  return { supervisor: made, clock, pass }
}

test('children end in reverse order, each once its work has ended', async () => {
  const { supervisor: parent, clock, pass } = supervisor()
  const events: string[] = []
  for (const name of ['a', 'b', 'c'])
    parent.start(name, {
      run: async (stop) => {
        await clock.sleep(1e6, stop).catch(() => undefined)
        await clock.sleep(10)
        events.push(`${name} ran`)
      },
      close: () => void events.push(`${name} closed`),
    })
  expect(() => parent.start('b', {})).toThrow('has been started already')
  const done = parent.stopAll()
  await pass(100)
  await done
  expect(events).toEqual(['c ran', 'c closed', 'b ran', 'b closed', 'a ran', 'a closed'])
  expect(parent.names).toEqual([])
})

test('a child whose close fails keeps no other from its own', async () => {
  const { supervisor: parent } = supervisor()
  const events: string[] = []
  parent.start('a', { close: () => void events.push('a closed') })
  parent.start('b', { close: failure })
  await expect(parent.stopAll()).rejects.toThrow('failed')
  expect(events).toEqual(['a closed'])
})

test('a failure ends the child, starts it again after growing pauses, or fails the supervisor', async () => {
  const { supervisor: parent, clock, pass } = supervisor()
  const startedMs: Record<string, number[]> = { never: [], backoff: [], escalate: [] }
  let hasFailed = false
  parent.failed.catch(() => (hasFailed = true))
  const start = (restart: 'never' | 'backoff' | 'escalate'): void =>
    parent.start(restart, {
      restart,
      run: () => {
        startedMs[restart]?.push(clock.nowMs())
        return failure()
      },
    })
  start('never')
  start('backoff')
  await pass(2_000)
  expect(hasFailed).toBe(false)
  start('escalate')
  await expect(parent.failed).rejects.toThrow('failed')
  await pass(2_000)
  expect(startedMs['never']).toHaveLength(1)
  expect(startedMs['escalate']).toHaveLength(1)
  const [first = 0, second = 0, third = 0] = startedMs['backoff'] ?? []
  expect(second - first).toBeGreaterThanOrEqual(50)
  expect(third - second).toBeGreaterThanOrEqual(100)
  await parent.stopAll()
})

test('what is not used for long rests once, until it is used again', async () => {
  const { supervisor: parent, pass } = supervisor()
  let rests = 0
  parent.start('a', { rest: () => void rests++ })
  await parent.restIdle()
  expect(rests).toBe(0)
  await pass(60)
  await parent.restIdle()
  await parent.restIdle()
  expect(rests).toBe(1)
  parent.touch('a')
  await parent.restIdle()
  expect(rests).toBe(1)
  await pass(60)
  await parent.restIdle()
  expect(rests).toBe(2)
})

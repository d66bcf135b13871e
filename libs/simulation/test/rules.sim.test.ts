/**
 * Goal: no schedule of crashes, lost and torn writes, partitions, losses, repeats, reordering and changes of membership
 * breaks I1 to I3, and a quorum that heals gets on. Method: seeds of `World` over the state machines; a failing one is
 * named, and `npm run simulate -- --seed N` replays and shrinks it.
 */
import { expect, test } from 'vitest'
import { FAULT_KINDS } from '../src/counts.ts'
import { TRANSITIONS } from '../src/coverage.ts'
import { runSchedule, shrink } from '../src/outcome.ts'
import type { Subject } from '../src/outcome.ts'
import { ToyAcceptor } from '../src/toy-acceptor.ts'
import { toyFormat } from '../src/wal.ts'

const SCHEDULES_COUNT = 1_600
const rules: Subject = {
  name: 'rules',
  makeNode: (name, host) => new ToyAcceptor(name, host),
  format: toyFormat,
  recordBytesMax: 60,
  faultsMs: 1_500,
}
/** Seconds on a free machine; another's tests may run beside it. */
const BUSY_MS = 600_000

test(
  'committed WAL survives every schedule, and a majority that heals gets on',
  { timeout: BUSY_MS },
  async () => {
    const events: number[] = []
    const faults = new Set<string>()
    const transitions = new Set<string>()
    for (let seed = 1; seed <= SCHEDULES_COUNT; seed++) {
      const outcome = await runSchedule(rules, seed)
      expect(outcome.failure, `npm run simulate -- --subject rules --seed ${seed}`).toBeUndefined()
      events.push(outcome.eventsCount)
      for (const kind of outcome.faults.keys()) faults.add(kind)
      for (const name of outcome.transitions.keys()) transitions.add(name)
      expect(outcome.plannedCount).toBeGreaterThanOrEqual(10)
    }
    expect(events.sort((a, b) => a - b)[SCHEDULES_COUNT / 2]).toBeGreaterThan(2_000)
    expect(FAULT_KINDS.filter((kind) => !faults.has(kind))).toEqual([])
    expect(TRANSITIONS.filter((name) => !transitions.has(name))).toEqual([])
  },
)

test('a seed is a schedule: the same trace every time', async () => {
  const traceOf = async (seed: number): Promise<string[]> => {
    const trace: string[] = []
    await runSchedule(rules, seed, { onTrace: (line) => trace.push(line) })
    return trace
  }
  const first = await traceOf(7)
  expect(first.length).toBeGreaterThan(20)
  expect(await traceOf(7)).toEqual(first)
  expect(await traceOf(8)).not.toEqual(first)
})

test('a failing schedule is shrunk to what makes it fail', async () => {
  /** Calls nothing durable once a process was killed. */
  const broken: Subject = {
    ...rules,
    makeNode: (name, host) => {
      const node = new ToyAcceptor(name, host)
      const isDurable = node.isDurable.bind(node)
      node.isDurable = (lsn, wal) => !host.counts.faults.has('process killed') && isDurable(lsn, wal)
      return node
    },
  }
  const { failure } = await runSchedule(broken, 1)
  expect(failure).toMatch(/^I1: no quorum/)
  const shrunk = await shrink(broken, 1, failure as string)
  expect(shrunk.only).toHaveLength(1)
  const again = await runSchedule(broken, 1, shrunk)
  expect(again.failure).toBe(shrunk.failure)
  expect(again.faults.get('process killed')).toBe(1)
})

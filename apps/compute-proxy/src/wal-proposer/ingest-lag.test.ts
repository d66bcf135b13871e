// Goal: commits are slowed by the shard that is furthest behind, and by no shard that is not known to be. Method: the
// watch with its brake on simulated time; pageservers that answer, are silent, refuse, or have stopped.
import { advance, bytesBetween, fail, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { seededRng } from '@understory/env'
import type { CallOptions, ShardStatus, TimelineRef } from '@understory/rpc'
import { ShardStatus as ShardStatusMessage } from '@understory/rpc'
import { Schedule } from '@understory/simulation/schedule'
import { expect, onTestFinished, test } from 'vitest'
import { ANSWER_HELD_MS_MAX, AnswerBrake } from './answer-brake.ts'
import { IngestLagWatch } from './ingest-lag.ts'
import { WAL_RATE_FLOOR } from './wal-rate.ts'

const KIB = 1024
const MIB = 1024 * KIB
const START = lsn(1 << 24)
const COMMIT_BYTES = 16 * KIB
const LIMIT_BYTES = 8 * MIB
const ROUND_MS = 500
const REPORT_MS_MAX = 5_000
const TIMELINE = { tenantId: '1'.repeat(32), timelineId: '2'.repeat(32) }

/** A pageserver with one shard. */
class Pageserver {
  readonly number: number
  ingestedLsn: Lsn = START
  /** `silent` never answers, until the caller's deadline. */
  mood: 'answers' | 'refuses' | 'silent' = 'answers'
  change: Partial<ShardStatus> = {}
  asked = 0
  clients = 0
  readonly #schedule: Schedule

  constructor(number: number, schedule: Schedule) {
    this.number = number
    this.#schedule = schedule
  }

  get address(): string {
    return `pageserver-${this.number}:1`
  }

  async shards(timeline: TimelineRef, options?: CallOptions): Promise<readonly ShardStatus[]> {
    this.asked++
    if (this.mood === 'refuses') throw fail('unavailable', 'connection refused')
    if (this.mood === 'silent') {
      await this.#schedule.clock.sleep(options?.deadlineMs ?? Infinity, options?.signal)
      throw fail('timeout', 'no answer')
    }
    const status = { timeline, shard: { number: this.number, count: 2, stripeBlocks: 256 } }
    return [
      ShardStatusMessage.fromPartial({ ...status, ingestedLsn: BigInt(this.ingestedLsn), ...this.change }),
    ]
  }
}

function world(limitBytes = LIMIT_BYTES) {
  const schedule = new Schedule()
  const { clock } = schedule
  const pageservers = [new Pageserver(0, schedule), new Pageserver(1, schedule)] as const
  const events: string[] = []
  const log = {
    debug: () => undefined,
    info: (event: string) => void events.push(event),
    warn: (event: string) => void events.push(event),
    error: (event: string) => void events.push(event),
    child: () => log,
  }
  let commitLsn = START
  let answeredLsn = START
  const brake = new AnswerBrake(clock, START, (at) => (answeredLsn = at))
  const watch = new IngestLagWatch({
    connect: (address) => {
      const found = pageservers.find((pageserver) => pageserver.address === address)
      if (found === undefined) throw fail('unavailable', address)
      found.clients++
      return { shards: found.shards.bind(found), close: () => found.clients-- }
    },
    spec: () => ({ timeline: TIMELINE, pageservers: pageservers.map(({ address }) => address) }),
    commitLsn: () => commitLsn,
    brake,
    limitBytes,
    clock,
    rng: seededRng(1),
    log,
  })
  watch.start()
  schedule.stir()
  onTestFinished(() => watch.stop())
  const commit = (bytes: number): void => brake.committed((commitLsn = advance(commitLsn, bytes)))
  /** All shards but these have everything. */
  const keepUp = (...behind: number[]): void => {
    for (const pageserver of pageservers)
      if (!behind.includes(pageserver.number)) pageserver.ingestedLsn = commitLsn
  }
  return {
    schedule,
    pageservers,
    watch,
    events,
    brake,
    commit,
    keepUp,
    /** A writer that commits at most so long after the answer to its last commit. */
    writes: (pauseMs: number, ...behind: number[]): void => {
      const next = (): void => {
        if (answeredLsn >= commitLsn) commit(COMMIT_BYTES)
        keepUp(...behind)
        schedule.at(pauseMs, next)
      }
      next()
    },
    after: async (ms: number): Promise<void> => void (await schedule.run(schedule.nowMs + ms)),
    answered: () => bytesBetween(START, answeredLsn),
  }
}

test('a shard that takes nothing in slows a writer smoothly to the floor, and no further', async () => {
  const limitBytes = 64 * MIB
  const { writes, after, answered, watch, events } = world(limitBytes)
  writes(5, 1)
  const perSecond: number[] = []
  for (let s = 0; s < 180; s++) {
    const before = answered()
    await after(1_000)
    perSecond.push(answered() - before)
  }
  expect(watch.view.bytes).toBeGreaterThan(limitBytes)
  expect(watch.view.walBytesPerS).toBe(WAL_RATE_FLOOR)
  for (const [second, bytes] of perSecond.entries()) {
    const next = perSecond[second + 1] ?? bytes
    // By a commit more, which fell into the next second, but for the first second of a writer that was not slowed.
    if (second > 0) expect(next).toBeLessThanOrEqual(bytes + COMMIT_BYTES)
    expect(next).toBeGreaterThanOrEqual(bytes / 3)
  }
  const lastMinute = perSecond.slice(-60).reduce((sum, bytes) => sum + bytes, 0)
  expect(lastMinute).toBeGreaterThanOrEqual(60 * WAL_RATE_FLOOR - COMMIT_BYTES)
  expect(lastMinute).toBeLessThanOrEqual(60 * WAL_RATE_FLOOR + 2 * COMMIT_BYTES)
  expect(events).toEqual(['commits_slowed'])
})

test('where a shard takes in half a megabyte a second, that is what a writer gets', async () => {
  const { writes, after, answered, schedule, pageservers } = world()
  writes(1, 1)
  const ingest = (): void => {
    const [, { ingestedLsn }] = pageservers
    pageservers[1].ingestedLsn = lsn(Math.min(ingestedLsn + 5 * KIB, START + answered()))
    schedule.at(10, ingest)
  }
  ingest()
  await after(60_000)
  const before = answered()
  await after(60_000)
  const perS = (answered() - before) / 60
  expect(perS).toBeGreaterThan(450 * KIB)
  expect(perS).toBeLessThan(550 * KIB)
})

test('the brake ends once the shard has caught up, and what was held is answered', async () => {
  const { commit, keepUp, after, answered, watch, events, brake } = world()
  keepUp(1)
  commit(LIMIT_BYTES)
  await after(ROUND_MS + 1)
  commit(64 * KIB)
  await after(ROUND_MS)
  expect(brake.heldBytes).toBe(64 * KIB)
  expect(watch.view).toMatchObject({ walBytesPerS: WAL_RATE_FLOOR, heldBytes: 64 * KIB })
  expect(watch.view.heldMs).toBeGreaterThan(0)
  keepUp()
  await after(ROUND_MS)
  expect(answered()).toBe(LIMIT_BYTES + 64 * KIB)
  expect(watch.view).toMatchObject({ bytes: 0, walBytesPerS: Infinity, heldMs: 0, heldBytes: 0 })
  expect(events).toEqual(['commits_slowed', 'commits_not_slowed'])
})

test.each([
  ['refuses', { mood: 'refuses' }],
  ['is silent', { mood: 'silent' }],
  ['has stopped', { change: { failure: 'unknown WAL' } }],
  ['is loading', { change: { loading: true } }],
  ['awaits its import', { change: { ingestedLsn: 0n } }],
  ['is elsewhere', { change: { shard: { number: 7, count: 8, stripeBlocks: 256 } } }],
] as const)('a shard that %s slows nothing, and is reported', async (_, fate) => {
  const { pageservers, commit, keepUp, after, answered, watch, events } = world()
  Object.assign(pageservers[1], fate)
  for (let s = 0; s < 60; s++) {
    commit(MIB)
    keepUp(1)
    expect(answered()).toBe((s + 1) * MIB)
    await after(1_000)
  }
  expect(watch.view).toMatchObject({ bytes: 0, walBytesPerS: Infinity, shardsBytes: [0, undefined] })
  expect(events).toEqual(['ingest_lag_unknown'])
})

test('what a pageserver said last counts for a while only: then its silence slows nothing', async () => {
  const { pageservers, commit, keepUp, after, answered, watch, events } = world()
  commit(2 * LIMIT_BYTES)
  keepUp(1)
  await after(ROUND_MS)
  pageservers[1].mood = 'silent'
  await after(REPORT_MS_MAX - ROUND_MS)
  expect(watch.view.walBytesPerS).toBe(WAL_RATE_FLOOR)
  await after(2 * ROUND_MS + 1)
  expect(watch.view).toMatchObject({ walBytesPerS: Infinity, shardsBytes: [0, undefined] })
  commit(LIMIT_BYTES)
  expect(answered()).toBe(3 * LIMIT_BYTES)
  // Once it speaks again it counts again.
  pageservers[1].mood = 'answers'
  await after(4 * ROUND_MS + ANSWER_HELD_MS_MAX / 4)
  expect(watch.view.walBytesPerS).toBe(WAL_RATE_FLOOR)
  expect(events).toEqual(['commits_slowed', 'commits_not_slowed', 'ingest_lag_unknown', 'commits_slowed'])
})

test('a pageserver that is silent does not keep the others from being heard', async () => {
  const { pageservers, commit, keepUp, after, watch } = world()
  pageservers[0].mood = 'silent'
  await after(ROUND_MS)
  commit(2 * LIMIT_BYTES)
  keepUp(1)
  await after(ROUND_MS + 1)
  expect(watch.view.walBytesPerS).toBe(WAL_RATE_FLOOR)
})

test('an idle timeline asks no pageserver, and knows at once where it stands when it writes again', async () => {
  const { pageservers, commit, keepUp, after, watch, events } = world()
  commit(MIB)
  keepUp()
  await after(2_000)
  const asked = pageservers.map((pageserver) => pageserver.asked)
  await after(600_000)
  expect(pageservers.map((pageserver) => pageserver.asked)).toEqual(asked)
  commit(MIB)
  expect(watch.view.shardsBytes).toEqual([0, 0])
  await after(ROUND_MS)
  expect(watch.view.shardsBytes).toEqual([MIB, MIB])
  expect(events).toEqual([])
})

test('with its end nothing is slowed any more, and every connection is closed', async () => {
  const { pageservers, commit, keepUp, after, answered, watch, brake } = world()
  commit(2 * LIMIT_BYTES)
  keepUp(1)
  await after(ROUND_MS)
  pageservers[0].mood = 'silent'
  await after(ROUND_MS)
  commit(MIB)
  expect(brake.heldBytes).toBe(MIB)
  const stopped = watch.stop()
  expect(answered()).toBe(2 * LIMIT_BYTES + MIB)
  await stopped
  expect(pageservers.map(({ clients }) => clients)).toEqual([0, 0])
  await after(60_000)
  expect(brake.heldBytes).toBe(0)
})

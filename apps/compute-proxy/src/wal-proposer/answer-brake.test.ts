// Goal: answers to Postgres are held for as long as their WAL takes at the rate, and no longer; none comes before its
// commit, none is lost, none is passed by another. Method: the brake on simulated time, with fates made by fast-check.
import { advance, bytesBetween, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import { Schedule } from '@understory/simulation/schedule'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ANSWER_HELD_MS_MAX, AnswerBrake } from './answer-brake.ts'
import { WAL_RATE_FLOOR } from './wal-rate.ts'

const START = lsn(1 << 24)
const HOUR_MS = 3_600_000
/** Timers have whole milliseconds. */
const TIMER_MS = 1
const CREDIT_MS = 250

interface Commit {
  readonly bytes: number
  /** Since the one before. */
  readonly afterMs: number
}
const commit: fc.Arbitrary<Commit> = fc.record({
  bytes: fc.integer({ min: 1, max: 300_000 }),
  afterMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 50 }), fc.integer({ min: 0, max: 20_000 })),
})
const commits = fc.array(commit, { minLength: 1, maxLength: 60 })
const rates = fc.double({ min: WAL_RATE_FLOOR, max: 1 << 26, noNaN: true })

interface Given {
  readonly lsn: Lsn
  readonly atMs: number
}

function world() {
  const schedule = new Schedule()
  const answers: Given[] = []
  const committed: Given[] = []
  const brake = new AnswerBrake(schedule.clock, START, (at) =>
    answers.push({ lsn: at, atMs: schedule.nowMs }),
  )
  const commitAt = (atMs: number, at: Lsn): void =>
    schedule.at(atMs, () => {
      committed.push({ lsn: at, atMs })
      brake.committed(at)
    })
  /** Plans them all. */
  const plan = (all: readonly Commit[]): void => {
    let [atMs, at] = [0, START]
    for (const { bytes, afterMs } of all) commitAt((atMs += afterMs), (at = advance(at, bytes)))
  }
  /** When the WAL up to there was answered. */
  const answeredMs = (at: Lsn): number => answers.find((answer) => answer.lsn >= at)?.atMs ?? Infinity
  return { schedule, brake, answers, committed, plan, answeredMs }
}

test('without a rate every answer is given in the moment of its commit', async () => {
  const { schedule, plan, answers, committed } = world()
  plan([
    { bytes: 10, afterMs: 0 },
    { bytes: 1 << 30, afterMs: 3 },
  ])
  await schedule.run(HOUR_MS)
  expect(answers).toEqual(committed)
})

test('every answer is a position that was committed before, in order, and the last one comes', async () => {
  await fc.assert(
    fc.asyncProperty(
      commits,
      fc.array(fc.tuple(fc.integer({ min: 0, max: 60_000 }), rates)),
      async (all, changes) => {
        const { schedule, brake, plan, answers, committed } = world()
        brake.limit(WAL_RATE_FLOOR)
        plan(all)
        for (const [atMs, rate] of changes) schedule.at(atMs, () => brake.limit(rate))
        await schedule.run(HOUR_MS)
        let before = START
        for (const answer of answers) {
          expect(answer.lsn).toBeGreaterThan(before)
          before = answer.lsn
          expect(committed.find(({ lsn: at }) => at === answer.lsn)?.atMs).toBeLessThanOrEqual(answer.atMs)
        }
        expect(before).toBe(committed.at(-1)?.lsn)
        expect(brake.heldBytes).toBe(0)
        expect(brake.heldMs).toBe(0)
      },
    ),
  )
})

test('WAL is never slower than the floor, whatever rates follow each other', async () => {
  await fc.assert(
    fc.asyncProperty(
      commits,
      fc.array(fc.tuple(fc.integer({ min: 0, max: 60_000 }), rates)),
      async (all, changes) => {
        const { schedule, brake, plan, committed, answeredMs } = world()
        brake.limit(WAL_RATE_FLOOR)
        plan(all)
        for (const [atMs, rate] of changes) schedule.at(atMs, () => brake.limit(rate))
        await schedule.run(HOUR_MS)
        let [floorMs, before] = [0, START]
        for (const { lsn: at, atMs } of committed) {
          floorMs = Math.max(floorMs, atMs) + (bytesBetween(before, at) * 1_000) / WAL_RATE_FLOOR
          before = at
          expect(answeredMs(at)).toBeLessThanOrEqual(floorMs + TIMER_MS)
        }
      },
    ),
  )
})

test('no answer is held for longer than the time for it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(commit, { minLength: 1, maxLength: 200 }), async (all) => {
      const { schedule, brake, plan, committed, answeredMs } = world()
      brake.limit(WAL_RATE_FLOOR)
      plan(all)
      await schedule.run(HOUR_MS)
      for (const { lsn: at, atMs } of committed)
        expect(answeredMs(at) - atMs).toBeLessThanOrEqual(ANSWER_HELD_MS_MAX + TIMER_MS)
    }),
  )
})

test('a commit behind a gigabyte that no commit waited for does not wait for hours', async () => {
  const { schedule, brake, plan, answeredMs } = world()
  brake.limit(WAL_RATE_FLOOR)
  plan(Array.from({ length: 10_000 }, () => ({ bytes: 100_000, afterMs: 1 })))
  await schedule.run(HOUR_MS)
  expect(answeredMs(advance(START, 1_000_000_000))).toBeLessThanOrEqual(
    10_000 + ANSWER_HELD_MS_MAX + TIMER_MS,
  )
})

test('WAL is not faster than the rate while its answers are waited for, and as fast as it', async () => {
  const LONG_MS = 5_000
  await fc.assert(
    fc.asyncProperty(
      fc.double({ min: WAL_RATE_FLOOR, max: 1 << 23, noNaN: true }),
      fc.integer({ min: 1, max: 16 }),
      fc.integer({ min: 2_000, max: 30_000 }),
      async (rate, writers, bytes) => {
        const { schedule, brake, answers } = world()
        brake.limit(rate)
        let at = START
        // Each writer commits again a millisecond after its commit was answered.
        let answered = -writers * bytes
        const again = (): void => {
          for (; answered < bytesBetween(START, answers.at(-1)?.lsn ?? START); answered += bytes)
            brake.committed((at = advance(at, bytes)))
          schedule.at(1, again)
        }
        again()
        await schedule.run(LONG_MS)
        const bytesMax = (rate * (LONG_MS + CREDIT_MS)) / 1_000
        const total = bytesBetween(START, answers.at(-1)?.lsn ?? START)
        expect(total).toBeLessThanOrEqual(bytesMax)
        // What the writers can have at all: each a commit in two milliseconds.
        const possible = (LONG_MS * writers * bytes) / 2
        expect(total).toBeGreaterThan(0.95 * Math.min((rate * LONG_MS) / 1_000, possible) - bytes)
      },
    ),
    { numRuns: 30 },
  )
})

test('a writer that is alone and thinks between its commits is not slowed below the rate', async () => {
  const { schedule, brake, plan, committed, answeredMs } = world()
  brake.limit(WAL_RATE_FLOOR)
  // Half of the rate.
  plan(Array.from({ length: 200 }, () => ({ bytes: 3_277, afterMs: 100 })))
  await schedule.run(HOUR_MS)
  for (const { lsn: at, atMs } of committed) expect(answeredMs(at)).toBe(atMs)
})

test('a long rest gives no right to more than a moment of WAL', async () => {
  const { schedule, brake, answers } = world()
  brake.limit(WAL_RATE_FLOOR)
  let at = START
  schedule.at(60_000, () => {
    for (let i = 0; i < 1_000; i++) brake.committed((at = advance(at, 1_000)))
  })
  await schedule.run(61_000)
  const answered = bytesBetween(START, answers.at(-1)?.lsn ?? START)
  expect(answered).toBeLessThanOrEqual((WAL_RATE_FLOOR * (1_000 + CREDIT_MS)) / 1_000)
  expect(answered).toBeGreaterThan(WAL_RATE_FLOOR)
})

test('what is held is answered as soon as nothing is to be slowed any more, and not after the end', async () => {
  const { schedule, brake, plan, answers } = world()
  brake.limit(WAL_RATE_FLOOR)
  plan([{ bytes: 640_000, afterMs: 0 }])
  schedule.at(2_000, () => expect([brake.heldBytes, brake.heldMs]).toEqual([640_000, 2_000]))
  schedule.at(3_000, () => brake.limit(Infinity))
  await schedule.run(HOUR_MS)
  expect(answers).toEqual([{ lsn: advance(START, 640_000), atMs: 3_000 }])

  const over = world()
  over.brake.limit(WAL_RATE_FLOOR)
  over.plan([
    { bytes: 640_000, afterMs: 0 },
    { bytes: 1, afterMs: 500 },
  ])
  over.schedule.at(100, () => over.brake.end())
  await over.schedule.run(HOUR_MS)
  expect(over.answers).toEqual([])
})

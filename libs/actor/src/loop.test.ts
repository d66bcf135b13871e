/**
 * Goal: rounds come when they should, through failures and wake-ups. Method: the simulated clock, times looked at
 * exactly.
 */
import { fail } from '@understory/base'
import { seededRng, silentLog } from '@understory/env'
import { Schedule } from '@understory/simulation/schedule'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Loop } from './loop.ts'
import { ProblemReport } from './problem-report.ts'

function logged(events: string[]) {
  const note = (level: string) => (event: string, fields?: { readonly problem?: unknown }) =>
    void events.push(`${level} ${event} ${String(fields?.problem)}`)
  return { ...silentLog, warn: note('warn'), error: note('error') }
}

test('rounds follow each other after the pause that each asks for, or after growing ones when they fail', async () => {
  const time = new Schedule()
  const { clock } = time
  const events: string[] = []
  const problems = new ProblemReport({ clock, log: logged(events), event: 'round_failed' })
  const outcomes: (number | undefined | Error)[] = [
    undefined,
    7,
    fail('unavailable', 'away'),
    fail('unavailable', 'away'),
    fail('unavailable', 'away'),
    undefined,
    fail('unavailable', 'away'),
    undefined,
  ]
  const startedMs: number[] = []
  const loop = new Loop({
    clock,
    rng: seededRng(1),
    pauseMs: 100,
    backoff: { baseMs: 1_000, pauseMsMax: 10_000 },
    problems,
    round: async () => {
      startedMs.push(clock.nowMs())
      const outcome = outcomes[startedMs.length - 1]
      if (outcome instanceof Error) throw outcome
      return outcome
    },
  })
  loop.start()
  time.stir()
  await time.run(1e9, () => startedMs.length === outcomes.length)
  await loop.stop()
  const pauses = startedMs.slice(1).map((ms, i) => ms - (startedMs[i] as number))
  expect(pauses.slice(0, 2)).toEqual([100, 7])
  for (const [i, baseMs] of [1_000, 2_000, 4_000].entries()) {
    expect(pauses[2 + i]).toBeGreaterThanOrEqual(baseMs / 2)
    expect(pauses[2 + i]).toBeLessThanOrEqual(baseMs)
  }
  expect(pauses[5]).toBe(100)
  // A success in between begins with short pauses again.
  expect(pauses[6]).toBeLessThanOrEqual(1_000)
  expect(events).toEqual(Array(2).fill('warn round_failed away'))
})

test('a wake-up is never lost: a round starts at once, or right after the one that runs', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(500), { maxLength: 10 }), fc.nat(40), async (wakesMs, takesMs) => {
      const time = new Schedule()
      const { clock } = time
      const rounds: { readonly startedMs: number; endedMs: number }[] = []
      const problems = new ProblemReport({ clock, log: silentLog, event: 'round_failed' })
      const loop = new Loop({
        clock,
        rng: seededRng(1),
        pauseMs: 1e6,
        problems,
        round: async () => {
          const round = { startedMs: clock.nowMs(), endedMs: Infinity }
          rounds.push(round)
          await clock.sleep(takesMs)
          round.endedMs = clock.nowMs()
        },
      })
      loop.start()
      for (const ms of wakesMs)
        time.at(ms, () => {
          time.stir()
          loop.wake()
        })
      time.stir()
      await time.run(1_000)
      for (const ms of wakesMs) {
        const running = rounds.find(({ startedMs, endedMs }) => startedMs < ms && ms < endedMs)
        const wanted = running?.endedMs ?? ms
        expect(rounds.some(({ startedMs }) => startedMs === wanted)).toBe(true)
      }
      const stopped = loop.stop()
      time.stir()
      await time.run(1e9)
      await stopped
    }),
    { numRuns: 100 },
  )
})

test('a problem is logged when it begins and every few minutes while it lasts', () => {
  let nowMs = 0
  const events: string[] = []
  const clock = { ...new Schedule().clock, nowMs: () => nowMs }
  const problems = new ProblemReport({ clock, log: logged(events), event: 'e', repeatMs: 1_000 })
  for (nowMs = 0; nowMs <= 2_500; nowMs += 100) problems.report('x')
  expect(events).toHaveLength(3)
  problems.report(fail('unavailable', 'y'))
  expect(events.at(-1)).toBe('warn e y')
  expect(problems.current).toBe('y')
  expect([problems.clear(), problems.clear()]).toEqual([true, false])
  problems.report(fail('unavailable', 'y'))
  expect(events).toHaveLength(5)
})

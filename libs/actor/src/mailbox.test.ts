/**
 * Goal: one job at a time, in order, each with its own outcome, even where jobs fail. Method: random jobs on the
 * simulated clock.
 */
import { fail } from '@understory/base'
import { Schedule } from '@understory/simulation/schedule'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { KeyedMailbox } from './keyed-mailbox.ts'
import { Mailbox } from './mailbox.ts'

const JOB = fc.record({
  sentMs: fc.nat(50),
  takesMs: fc.option(fc.nat(20), { nil: undefined }),
  fails: fc.boolean(),
})

test('jobs run one after another in the order sent, and each sender gets the outcome of its own', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(JOB, { maxLength: 30 }), async (jobs) => {
      const schedule = new Schedule()
      const { clock } = schedule
      const times: [number, number][] = []
      const mailbox = new Mailbox({ name: 'test', clock, observe: (...ms) => times.push(ms) })
      const sent: number[] = []
      const started: number[] = []
      const outcomes = new Map<number, string>()
      let runningCount = 0
      jobs.forEach(({ sentMs, takesMs, fails }, i) =>
        schedule.at(sentMs, () => {
          schedule.stir()
          sent.push(i)
          const startedBefore = started.length
          const result = mailbox.run(() => {
            started.push(i)
            expect(++runningCount).toBe(1)
            const end = (): string => {
              runningCount--
              if (fails) throw new Error(`failed ${i}`)
              return `done ${i}`
            }
            return takesMs === undefined ? end() : clock.sleep(takesMs).then(end)
          })
          expect(started).toHaveLength(startedBefore)
          result.then(
            (value) => outcomes.set(i, value),
            (error: Error) => outcomes.set(i, error.message),
          )
        }),
      )
      await schedule.run(10_000)
      expect(started).toEqual(sent)
      expect(mailbox.size).toBe(0)
      expect(Object.fromEntries(outcomes)).toEqual(
        Object.fromEntries(jobs.map(({ fails }, i) => [i, `${fails ? 'failed' : 'done'} ${i}`])),
      )
      expect(times.map(([, ranMs]) => ranMs)).toEqual(sent.map((i) => jobs[i]?.takesMs ?? 0))
      for (const [waitedMs] of times) expect(waitedMs).toBeGreaterThanOrEqual(0)
    }),
    { numRuns: 200 },
  )
})

test('it is bounded: what would wait behind too many is refused, and what waits is not harmed', async () => {
  const mailbox = new Mailbox({ name: 'small', jobsMax: 2 })
  const gate = Promise.withResolvers<void>()
  const first = mailbox.run(() => gate.promise)
  await Promise.resolve()
  const rest = [mailbox.run(() => 1), mailbox.run(() => 2)]
  await expect(mailbox.run(() => 3)).rejects.toMatchObject({ code: 'unavailable' })
  expect(mailbox.size).toBe(3)
  gate.resolve()
  await first
  expect(await Promise.all(rest)).toEqual([1, 2])
  expect(await mailbox.run(() => 4)).toBe(4)
})

test('once closed, nothing starts any more, what runs ends, and every caller gets the reason', async () => {
  const mailbox = new Mailbox({ name: 'closing' })
  const gate = Promise.withResolvers<string>()
  const running = mailbox.run(() => gate.promise)
  await Promise.resolve()
  const waiting = mailbox.run(() => expect.unreachable())
  mailbox.close(fail('unavailable', 'over'))
  mailbox.close(fail('unavailable', 'too late'))
  await expect(waiting).rejects.toThrow('over')
  await expect(mailbox.run(() => expect.unreachable())).rejects.toThrow('over')
  const idle = mailbox.idle()
  gate.resolve('ended')
  expect(await running).toBe('ended')
  await idle
  expect(mailbox.size).toBe(0)
})

test('with a mailbox for each key, a job waits for those of its own key alone', async () => {
  const mailboxes = new KeyedMailbox({ name: 'keyed' })
  const gate = Promise.withResolvers<void>()
  const order: string[] = []
  const slow = mailboxes.run('a', () => gate.promise.then(() => order.push('a1')))
  const behind = mailboxes.run('a', () => order.push('a2'))
  await mailboxes.run('b', () => order.push('b'))
  expect(order).toEqual(['b'])
  const idle = mailboxes.idle().then(() => order.push('idle'))
  gate.resolve()
  await Promise.all([slow, behind, idle])
  expect(order).toEqual(['b', 'a1', 'a2', 'idle'])
  await mailboxes.run('a', () => order.push('again'))
  expect(order.at(-1)).toBe('again')
})

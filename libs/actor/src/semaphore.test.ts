/**
 * Goal: never more than allowed at once, in order, and a cancelled job takes no permit. Method: random jobs on the
 * simulated clock.
 */
import { Schedule } from '@understory/simulation/schedule'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Semaphore } from './semaphore.ts'

const JOB = fc.record({
  sentMs: fc.nat(30),
  takesMs: fc.nat(20),
  fails: fc.boolean(),
  cancelledAfterMs: fc.option(fc.nat(30), { nil: undefined }),
})

test('no more than allowed run at once, in the order sent; a cancelled one leaves the queue', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 3 }),
      fc.array(JOB, { maxLength: 20 }),
      async (count, jobs) => {
        const time = new Schedule()
        const semaphore = new Semaphore(count)
        const sent: number[] = []
        const started: number[] = []
        const cancelled = new Set<number>()
        let runningCount = 0
        jobs.forEach(({ sentMs, takesMs, fails, cancelledAfterMs }, i) =>
          time.at(sentMs, () => {
            time.stir()
            sent.push(i)
            const stop = new AbortController()
            if (cancelledAfterMs !== undefined)
              time.at(cancelledAfterMs, () => {
                time.stir()
                stop.abort()
              })
            semaphore
              .run(async () => {
                started.push(i)
                expect(++runningCount).toBeLessThanOrEqual(count)
                await time.clock.sleep(takesMs)
                runningCount--
                if (fails) throw new Error('failed')
              }, stop.signal)
              .catch((error: { code?: string }) =>
                error.code === 'cancelled' ? cancelled.add(i) : undefined,
              )
          }),
        )
        await time.run(10_000)
        expect(runningCount).toBe(0)
        expect(started).toEqual(sent.filter((i) => !cancelled.has(i)))
        // Every permit is back.
        const after: number[] = []
        for (let i = 0; i < count + 1; i++)
          void semaphore.run(async () => {
            after.push(i)
            await time.clock.sleep(1)
          })
        time.stir()
        await time.run(time.nowMs)
        expect(after).toHaveLength(count)
      },
    ),
    { numRuns: 200 },
  )
})

test('one that is cancelled before it asks takes no turn', async () => {
  await expect(new Semaphore(1).run(() => 1, AbortSignal.abort())).rejects.toMatchObject({
    code: 'cancelled',
  })
})

test.each([0, 1, 2, 3, 4, 5, 6])(
  'one that is cancelled %i steps after a permit is free takes none from others',
  async (steps) => {
    const semaphore = new Semaphore(1)
    const gate = Promise.withResolvers<void>()
    const stop = new AbortController()
    const first = semaphore.run(() => gate.promise)
    const second = semaphore.run(() => undefined, stop.signal).catch(() => undefined)
    const third = semaphore.run(() => 'ran')
    gate.resolve()
    for (let i = 0; i < steps; i++) await Promise.resolve()
    stop.abort()
    expect(await Promise.all([first, second, third])).toEqual([undefined, undefined, 'ran'])
  },
)

/** Goal: never more than allowed at once, each in its turn, and a cancelled one takes nobody's place. */
import { expect, test } from 'vitest'
import { Slots } from './slots.ts'

test('no more than allowed work at once, in order; who is cancelled leaves the queue', async () => {
  const slots = new Slots(2)
  const { signal } = new AbortController()
  const third = new AbortController()
  const began: number[] = []
  const ends = [0, 1, 2, 3, 4].map(() => Promise.withResolvers<void>())
  const runs = ends.map(({ promise }, i) =>
    slots.run(i === 2 ? third.signal : signal, () => {
      began.push(i)
      return i === 1 ? promise.then(() => Promise.reject(new Error('failed'))) : promise
    }),
  )
  const outcomes = Promise.allSettled(runs)
  await Promise.resolve()
  expect(began).toEqual([0, 1])
  third.abort()
  await expect(runs[2]).rejects.toMatchObject({ code: 'cancelled' })
  ends[1]?.resolve()
  await expect(runs[1]).rejects.toThrow('failed')
  await Promise.resolve()
  expect(began).toEqual([0, 1, 3])
  ends[0]?.resolve()
  await runs[0]
  await Promise.resolve()
  expect(began).toEqual([0, 1, 3, 4])
  ends[3]?.resolve()
  ends[4]?.resolve()
  expect((await outcomes).map(({ status }) => status)).toEqual([
    'fulfilled',
    'rejected',
    'rejected',
    'fulfilled',
    'fulfilled',
  ])
})

// Goal: whoever asks for a turn gets one, in order, and never more than so many at once.
import { expect, test } from 'vitest'
import { Turns } from './turns.ts'

test('turns are taken in order, those who fail give theirs back, and nobody who asks again overtakes', async () => {
  const turns = new Turns(2)
  const order: string[] = []
  let runningCount = 0
  const asker = async (name: string): Promise<void> => {
    for (let round = 0; round < 3; round++) {
      await turns
        .run(async () => {
          order.push(name)
          expect(++runningCount).toBeLessThanOrEqual(2)
          await new Promise((resolve) => setImmediate(resolve))
          runningCount--
          if (round === 1) throw new Error('failed')
        })
        .catch(() => undefined)
    }
  }
  const names = ['a', 'b', 'c', 'd', 'e']
  await Promise.all(names.map(asker))
  for (let round = 0; round < 3; round++)
    expect(order.slice(round * 5, round * 5 + 5).toSorted()).toEqual(names)
})

// Goal: long work never holds the event loop for more than a slice, and all who wait get their turns.
// Method: a clock and a loop that are moved by hand.
import { expect, test } from 'vitest'
import { LoopTurns } from './loop-turns.ts'

test('one of the waiting tasks continues in each turn, in the order in which they came', async () => {
  let nowMs = 0
  const callbacks: (() => void)[] = []
  const turns = new LoopTurns({ nowMs: () => nowMs }, (callback) => callbacks.push(callback))
  const log: string[] = []
  const work = async (name: string): Promise<void> => {
    for (let step = 0; step < 12; step++) {
      if (turns.isOver) await turns.next()
      log.push(name)
      nowMs += 2
    }
  }
  const all = Promise.all(['a', 'b', 'c'].map(work))
  const slices: string[] = []
  for (let turn = 0; turn < 100; turn++) {
    // The resumed task runs until it waits again.
    for (let i = 0; i < 50; i++) await Promise.resolve()
    slices.push(log.splice(0).join(''))
    expect(callbacks.length).toBeLessThanOrEqual(1)
    callbacks.shift()?.()
  }
  await all
  // Before the first turn one works alone; after that none does more than its slice of 5 ms allows.
  const worked = slices.filter((slice) => slice !== '')
  for (const slice of worked) expect(slice).toMatch(/^(a{1,3}|b{1,3}|c{1,3})$/)
  expect(worked.join('').length).toBe(36)
  // Fair: between two slices of one the others had theirs.
  const order = worked.map((slice) => slice[0])
  for (let i = 2; i < 6; i++) expect(order[i]).not.toBe(order[i - 1])
})

/** Goal: a waiter continues with the change that it waits for, and no later one is lost. Method: by hand. */
import { expect, test } from 'vitest'
import { Signal } from './signal.ts'

test('each notification wakes those who wait then, once', async () => {
  const signal = new Signal()
  const woken: string[] = []
  void signal.next().then(() => woken.push('a'))
  void signal.next().then(() => woken.push('b'))
  signal.notify()
  void signal.next().then(() => woken.push('c'))
  await new Promise((resolve) => setImmediate(resolve))
  expect(woken).toEqual(['a', 'b'])
})

test('a condition is asked at once and after each notification, until it holds or the wait is stopped', async () => {
  const signal = new Signal()
  let value = 0
  await signal.until(() => value === 0)
  const reached = signal.until(() => value === 2)
  let isReached = false
  void reached.then(() => (isReached = true))
  for (value = 1; value <= 2; value++) {
    expect(isReached).toBe(false)
    signal.notify()
    await new Promise((resolve) => setImmediate(resolve))
  }
  value = 2
  signal.notify()
  await reached
  const stop = new AbortController()
  const stopped = signal.until(() => false, stop.signal)
  stop.abort()
  await stopped
  await signal.next(stop.signal)
})

// Goal: a failure that comes after a stop does not end the process. Method: promises that fail then.
import { expect, onTestFinished, test, vi } from 'vitest'
import { orStopped } from './stoppable.ts'

test.each(['before', 'while it waits'])('a failure after a stop that came %s is handled', async (when) => {
  const unhandled = vi.fn<(reason: unknown) => void>()
  process.on('unhandledRejection', unhandled)
  onTestFinished(() => void process.off('unhandledRejection', unhandled))
  const stop = new AbortController()
  const work = Promise.withResolvers<void>()
  if (when === 'before') stop.abort()
  const waiting = orStopped(work.promise, stop.signal)
  stop.abort()
  await expect(waiting).rejects.toThrow('is being stopped')
  work.reject(new Error('too late'))
  await new Promise((resolve) => setImmediate(resolve))
  expect(unhandled).not.toHaveBeenCalled()
})

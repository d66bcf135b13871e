/** Jobs for the pool's own tests. */
import { isMainThread } from 'node:worker_threads'
import { BugError, fail } from '@understory/base'
import { type JobHandlers, Transferred, serveJobs } from '@understory/env'

export interface SumJobs {
  sum: { request: readonly number[]; response: number }
  fill: { request: { buffer: ArrayBuffer; value: number }; response: { buffer: ArrayBuffer } }
  refused: { request: null; response: never }
  bug: { request: null; response: never }
  exit: { request: null; response: never }
  /** Resolves once another thread has set the flag. */
  wait: { request: SharedArrayBuffer; response: string }
}

export const sumHandlers: JobHandlers<SumJobs> = {
  sum: (numbers) => numbers.reduce((total, number) => total + number, 0),
  fill: ({ buffer, value }) => {
    new Uint8Array(buffer).fill(value)
    return new Transferred({ buffer }, [buffer])
  },
  refused: () => {
    throw fail('bad_page', 'page is torn', { detail: 'block 7', hint: 'Look at it.' })
  },
  bug: () => {
    throw new BugError('2 is not 3')
  },
  exit: () => process.exit(isMainThread ? 0 : 9),
  wait: (flag) => {
    Atomics.wait(new Int32Array(flag), 0, 0)
    return 'done'
  },
}

serveJobs<SumJobs>(sumHandlers)

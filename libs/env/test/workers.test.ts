// The pool keeps its promises: typed results, errors that survive the crossing, a bounded queue, dead threads replaced.
import { expect, test } from 'vitest'
import { type Workers, inlineWorkers, realWorkers } from '@understory/env'
import { type SumJobs, sumHandlers } from './sum-worker.ts'

const script = new URL('./sum-worker.ts', import.meta.url)
const makers: [string, () => Workers<SumJobs>][] = [
  ['threads', () => realWorkers<SumJobs>({ script, threadsCount: 2 })],
  ['inline', () => inlineWorkers(sumHandlers)],
]

test.each(makers)('%s: jobs are answered and refusals keep their code', async (_name, make) => {
  await using workers = make()
  const sums = await Promise.all([1, 2, 3, 4, 5].map((n) => workers.run('sum', [n, 10])))
  expect(sums).toEqual([11, 12, 13, 14, 15])
  const { buffer } = await workers.run('fill', { buffer: new ArrayBuffer(4), value: 7 })
  expect([...new Uint8Array(buffer)]).toEqual([7, 7, 7, 7])
  await expect(workers.run('refused', null)).rejects.toMatchObject({
    name: 'UnderstoryError',
    code: 'bad_page',
    message: 'page is torn',
    detail: 'block 7',
    hint: 'Look at it.',
  })
  await expect(workers.run('bug', null)).rejects.toMatchObject({ name: 'BugError', message: '2 is not 3' })
  expect(await workers.run('sum', [1])).toBe(1)
  expect([workers.queuedCount, workers.runningCount]).toEqual([0, 0])
})

test('transferred buffers move', async () => {
  await using workers = realWorkers<SumJobs>({ script, threadsCount: 1 })
  const buffer = new ArrayBuffer(8192)
  const filling = workers.run('fill', { buffer, value: 1 }, { transfer: [buffer] })
  expect(buffer.detached).toBe(true)
  expect((await filling).buffer.byteLength).toBe(8192)
})

test('a thread that dies fails its own job only, and is replaced', async () => {
  await using workers = realWorkers<SumJobs>({ script, threadsCount: 1 })
  const dying = workers.run('exit', null)
  const waiting = workers.run('sum', [1, 2])
  await expect(dying).rejects.toMatchObject({
    code: 'unavailable',
    message: 'a thread of "sum-worker.ts" ended while it ran "exit"',
    detail: 'exit code 9',
  })
  expect(await waiting).toBe(3)
})

test('a script that cannot start fails the jobs', async () => {
  await using workers = realWorkers<SumJobs>({
    script: new URL('./none.ts', import.meta.url),
    threadsCount: 1,
  })
  for (let job = 0; job < 3; job++) {
    await expect(workers.run('sum', [job])).rejects.toMatchObject({ code: 'unavailable' })
  }
})

test('a full queue refuses, a cancelled job leaves it, closing fails what is left', async () => {
  const workers = realWorkers<SumJobs>({ script, threadsCount: 1, queueCountMax: 1 })
  const flag = new SharedArrayBuffer(4)
  const running = workers.run('wait', flag)
  const controller = new AbortController()
  const cancelled = workers.run('sum', [1], { signal: controller.signal })
  await expect(workers.run('sum', [2])).rejects.toMatchObject({ code: 'unavailable' })
  controller.abort()
  await expect(cancelled).rejects.toMatchObject({ code: 'cancelled' })
  expect(workers.queuedCount).toBe(0)
  const left = workers.run('sum', [3])
  Atomics.store(new Int32Array(flag), 0, 1)
  Atomics.notify(new Int32Array(flag), 0)
  expect(await running).toBe('done')
  expect(await left).toBe(3)
  const stuck = workers.run('wait', new SharedArrayBuffer(4))
  const behind = workers.run('sum', [4])
  const outcomes = Promise.allSettled([stuck, behind])
  await workers.close()
  expect(await outcomes).toMatchObject([
    { status: 'rejected', reason: { code: 'cancelled' } },
    { status: 'rejected', reason: { code: 'cancelled' } },
  ])
  await expect(workers.run('sum', [5])).rejects.toMatchObject({ code: 'cancelled' })
})

test('a request that cannot be cloned fails alone', async () => {
  await using workers = realWorkers<SumJobs>({ script, threadsCount: 1 })
  await expect(workers.run('sum', [(() => 1) as unknown as number])).rejects.toThrow('could not be cloned')
  expect(await workers.run('sum', [5])).toBe(5)
})

// Goal: a server outlives its proxy by its grace and no longer, unless another proxy takes the lease by then (I2).
// Method: the real guard beside a program that stands for a server; a proxy that dies is a lease that is released.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '@understory/base'
import { realClock } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { GUARDED, makeLease, takeLease } from './lease.ts'
import { isProcessRunning } from './processes.ts'

const guardedArguments = (parent: number, lease: string, graceMs: number, script = GUARDED) => [
  '-c',
  script,
  'sh',
  String(parent),
  lease,
  String(graceMs / 1_000),
  'sleep',
  '600',
]

async function startGuarded(graceMs: number) {
  const folder = await temporaryDirectory()
  const path = join(folder.path, 'lease')
  const lease = await makeLease(path)
  const child = spawn('sh', guardedArguments(process.pid, path, graceMs), { stdio: 'ignore' })
  const exited = once(child, 'exit').then(([, signal]) => signal as string)
  onTestFinished(async () => {
    lease.release()
    child.kill('SIGKILL')
    await folder[Symbol.asyncDispose]()
  })
  const guard = await expect
    .poll(() => childOf(child))
    .toBeGreaterThan(0)
    .then(() => childOf(child))
  return { path, lease, child, exited, guard }
}

async function childOf({ pid }: ChildProcess): Promise<number> {
  for (const name of await readdir('/proc')) {
    const stat = /^\d+$/.test(name) ? await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '') : ''
    if (Number(stat.slice(stat.lastIndexOf(')')).split(' ')[2]) === pid) return Number(name)
  }
  return 0
}

test('a server whose proxy is gone is ended after its grace, and its guard with it', async () => {
  const { lease, exited, guard } = await startGuarded(300)
  const releasedMs = performance.now()
  lease.release()
  expect(await exited).toBe('SIGQUIT')
  expect(performance.now() - releasedMs).toBeGreaterThan(290)
  await expect.poll(() => isProcessRunning(guard), { timeout: 10_000 }).toBe(false)
})

test('a proxy that takes the lease in time keeps the server, and its own death begins another grace', async () => {
  const { path, lease, child, exited } = await startGuarded(1_000)
  const other = await startGuarded(1_000)
  lease.release()
  const next = present(await takeLease(path, realClock), 'lease')
  // By the end of a server whose grace began later, this one's grace is over, too.
  other.lease.release()
  expect(await other.exited).toBe('SIGQUIT')
  expect(child.exitCode ?? child.signalCode).toBeNull()
  next.release()
  expect(await exited).toBe('SIGQUIT')
})

test('the lease of a server without a guard is not to be had', async () => {
  const { path, lease, child, exited, guard } = await startGuarded(60_000)
  process.kill(guard, 'SIGKILL')
  await expect.poll(() => isProcessRunning(guard)).toBe(false)
  lease.release()
  expect(await takeLease(path, realClock)).toBeUndefined()
  child.kill('SIGKILL')
  await exited
})

test('a guard ends with its server', async () => {
  const { lease, child, exited, guard } = await startGuarded(60_000)
  child.kill('SIGKILL')
  await exited
  lease.release()
  await expect.poll(() => isProcessRunning(guard)).toBe(false)
})

test('a shell whose proxy ended before it began starts nothing', async () => {
  const child = spawn('sh', guardedArguments(1, '/nonexistent', 60_000), { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  expect(await once(child, 'exit')).toEqual([1, null])
})

/** The signal that ends the server of a script whose lease is released, with a grace of 300 ms, before it begins. */
async function endWithoutProxy(script: string): Promise<unknown> {
  await using folder = await temporaryDirectory()
  const path = join(folder.path, 'lease')
  const lease = await makeLease(path)
  lease.release()
  const child = spawn('sh', guardedArguments(process.pid, path, 300, script), { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [, signal] = (await once(child, 'exit')) as [number | null, string | null]
  return signal
}

test('a server is ended where its proxy is gone before its guard opens the lease', async () => {
  expect(await endWithoutProxy(GUARDED)).toBe('SIGQUIT')
})

test('a guard that cannot read /proc does not leave the server alone', async () => {
  expect(await endWithoutProxy(GUARDED.replaceAll('/proc/$guard/', '/nonexistent/'))).toBe('SIGQUIT')
  expect(await endWithoutProxy(GUARDED.replaceAll('/proc/self/', '/nonexistent/'))).toBe('SIGKILL')
})

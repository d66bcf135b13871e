// Goal: what is left of an old Postgres is ended, and nothing else. Method: real processes that only wait.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdir, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import type { Postmaster } from './launcher.ts'
import { hostFiles } from './layout.ts'
import { GUARDED } from './lease.ts'
import { endOldPostgres, endPostmaster } from './postgres.ts'

/** A process that runs under the name of `program`, in `cwd`. */
async function waiting(program: string, cwd: string) {
  if (program !== '/bin/sleep') await copyFile('/bin/sleep', program)
  const child = spawn(program, ['600'], { cwd, stdio: 'ignore' })
  await once(child, 'spawn')
  const exited = once(child, 'exit').then(([, signal]) => signal as NodeJS.Signals | null)
  return { child, exited }
}

test('processes of Postgres on the data directory, and starts of it, are ended, others there and elsewhere are not', async () => {
  await using folder = await temporaryDirectory()
  const root = await realpath(folder.path)
  const files = hostFiles(root)
  const elsewhere = join(root, 'elsewhere')
  for (const path of [files.pgdata, elsewhere]) await mkdir(path)
  const postgres = join(root, 'postgres')
  const old = await waiting(postgres, files.pgdata)
  const initdb = await waiting(join(root, 'initdb'), files.pgdata)
  const starting = await waiting(join(root, 'setpriv'), files.pgdata)
  const shell = spawn('sh', ['-c', 'read -r _', GUARDED], { cwd: files.pgdata, stdio: 'pipe' })
  const shellExited = once(shell, 'exit')
  const lookingAround = await waiting('/bin/sleep', files.pgdata)
  const neighbour = spawn(postgres, ['600'], { cwd: elsewhere, stdio: 'ignore' })
  try {
    await endOldPostgres({ files, clock: realClock, log: silentLog })
    expect(await old.exited).toBe('SIGQUIT')
    expect(await initdb.exited).toBe('SIGQUIT')
    expect(await starting.exited).toBe('SIGQUIT')
    expect(await shellExited).toEqual([null, 'SIGQUIT'])
    expect(lookingAround.child.exitCode ?? lookingAround.child.signalCode).toBeNull()
    expect(neighbour.exitCode ?? neighbour.signalCode).toBeNull()
  } finally {
    const children = [old.child, initdb.child, starting.child, shell, lookingAround.child, neighbour]
    for (const child of children) child.kill('SIGKILL')
  }
})

test('a postmaster that does not react to the signal is killed', async () => {
  const child = spawn('/bin/sh', ['-c', "trap '' QUIT; echo ready; while :; do sleep 1; done"], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  await once(child.stdout, 'data')
  const postmaster: Postmaster = {
    pid: present(child.pid, 'pid'),
    exited: once(child, 'exit').then(([, signal]) => ({ kind: 'signalled', signal: String(signal) })),
    isRunning: () => child.exitCode === null && child.signalCode === null,
    signal: (name) => void child.kill(name),
  }
  await endPostmaster(postmaster, realClock)
  expect(await postmaster.exited).toEqual({ kind: 'signalled', signal: 'SIGKILL' })
})

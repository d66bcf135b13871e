// Goal: the log of a Postgres that writes without end stays bounded, and what a superuser left running is gone before
// root works on folders that he may write to. Method: programs named postgres, and real processes of a compute's user.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, rmdir, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { realClock, silentLog } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, test, vi } from 'vitest'
import { childLauncher } from './child-launcher.ts'
import { chooseUser, namedUsers, ownRange } from './compute-users.ts'
import { LOG_BYTES_MAX } from './launcher.ts'
import { hostFiles } from './layout.ts'
import { allowStart } from './postgres.ts'

test('a log that has grown is put aside, and Postgres continues at its start', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(folder.path)
  await mkdir(files.pgdata)
  await writeFile(
    join(folder.path, 'postgres'),
    '#!/bin/sh\nhead -c "$1" /dev/zero; until [ -e go ]; do sleep 0.05; done; echo more\n',
  )
  await chmod(join(folder.path, 'postgres'), 0o755)
  const sizes = () =>
    Promise.all([files.log, `${files.log}.1`].map((path) => stat(path).then(({ size }) => size)))
  const launcher = childLauncher({
    bin: folder.path,
    owner: undefined,
    environment: { PATH: process.env['PATH'] ?? '' },
    adoptionGraceMs: 0,
    clock: realClock,
    log: silentLog,
  })
  await allowStart(files)
  await writeFile(files.log, 'of an earlier start')
  const server = await launcher.start(files, [String(LOG_BYTES_MAX + 1)])
  await expect.poll(async () => (await stat(files.log)).size).toBe(LOG_BYTES_MAX + 1)
  await launcher.boundLog(files)
  expect(await sizes()).toEqual([0, LOG_BYTES_MAX + 1])
  await writeFile(join(files.pgdata, 'go'), '')
  await server.exited
  await launcher.boundLog(files)
  expect(await sizes()).toEqual(['more\n'.length, LOG_BYTES_MAX + 1])
})

test('a log that cannot be put aside is reported once, and does not fail the compute', async () => {
  await using folder = await temporaryDirectory()
  const files = hostFiles(folder.path)
  const warn = vi.fn<(event: string) => void>()
  const launcher = childLauncher({
    bin: folder.path,
    owner: undefined,
    environment: {},
    adoptionGraceMs: 0,
    clock: realClock,
    log: { ...silentLog, warn },
  })
  await writeFile(files.log, '')
  await truncate(files.log, LOG_BYTES_MAX + 1)
  await mkdir(`${files.log}.1`)
  await launcher.boundLog(files)
  await launcher.boundLog(files)
  expect(warn.mock.calls.map(([event]) => event)).toEqual(['postgres_log_not_bounded'])
  await rmdir(`${files.log}.1`)
  await launcher.boundLog(files)
  expect((await stat(files.log)).size).toBe(0)
})

test.runIf(process.geteuid?.() === 0)(
  'a start ends what the last one left running, before it removes anything of its user',
  async () => {
    await using folder = await temporaryDirectory()
    await chmod(folder.path, 0o711)
    const files = hostFiles(folder.path)
    await mkdir(files.pgdata)
    const uid = chooseUser(folder.path, ownRange(), namedUsers())
    const owner = { uid, gid: uid }
    await writeFile(join(folder.path, 'postgres'), '#!/bin/sh\nexit 0\n', { mode: 0o755 })
    const environment = { PATH: process.env['PATH'] ?? '' }
    const parts = { bin: folder.path, owner, environment, clock: realClock, log: silentLog }
    const launcher = childLauncher({ ...parts, adoptionGraceMs: 0 })
    const left = spawn('sleep', ['600'], { ...owner, cwd: '/', stdio: 'ignore' })
    const ended = once(left, 'exit')
    try {
      await once(left, 'spawn')
      await allowStart(files)
      const server = await launcher.start(files, [])
      await expect.poll(() => left.signalCode).toBe('SIGKILL')
      await server.exited
    } finally {
      left.kill('SIGKILL')
      await ended
    }
  },
)

// Goal: a real Postgres does not outlive both its proxy and its guard, and is found again by a later life of its proxy
// (I2). Method: the launcher of a compute host, whose guard is killed, or whose lease ends.
import { chmod, mkdir, readFile, readdir } from 'node:fs/promises'
import { present } from '@understory/base'
import { realClock, silentLog } from '@understory/env'
import { initdbArguments } from '@understory/pgdata'
import { postgresBinaries, temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { childLauncher } from '../src/postgres/child-launcher.ts'
import { chooseUser, namedUsers, ownRange } from '../src/postgres/compute-users.ts'
import { hostFiles } from '../src/postgres/layout.ts'
import { allowStart } from '../src/postgres/postgres.ts'
import { isProcessRunning } from '../src/postgres/processes.ts'

async function start(major: 16 | 17 | 18) {
  const folder = await temporaryDirectory()
  await chmod(folder.path, 0o711)
  const files = hostFiles(folder.path)
  await mkdir(files.own, { mode: 0o700 })
  const uid = process.geteuid?.() === 0 ? chooseUser(folder.path, ownRange(), namedUsers()) : undefined
  const launcher = childLauncher({
    bin: (await postgresBinaries(major)).bin,
    owner: uid === undefined ? undefined : { uid, gid: uid },
    environment: { PATH: process.env['PATH'] ?? '' },
    adoptionGraceMs: 60_000,
    clock: realClock,
    log: silentLog,
  })
  onTestFinished(async () => {
    await launcher.endOld(files)
    await folder[Symbol.asyncDispose]()
  })
  await launcher.initdb(files, initdbArguments(major))
  await allowStart(files)
  const settings = [
    'listen_addresses=',
    `unix_socket_directories=${files.sockets}`,
    'fsync=off',
    'restart_after_crash=off',
  ]
  const postmaster = await launcher.start(files, [
    '-D',
    files.pgdata,
    ...settings.flatMap((setting) => ['-c', setting]),
  ])
  await expect
    .poll(() => readFile(files.log, 'utf8'), { timeout: 30_000 })
    .toContain('database system is ready to accept connections')
  return { files, launcher, postmaster }
}

/** Children of a process whose program is a shell. */
async function guardsOf(pid: number): Promise<number[]> {
  const guards: number[] = []
  for (const name of await readdir('/proc')) {
    const stat = /^\d+$/.test(name) ? await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '') : ''
    if (stat.includes('(sh) ') && Number(stat.slice(stat.lastIndexOf(')')).split(' ')[2]) === pid)
      guards.push(Number(name))
  }
  return guards
}

test.each([16, 17, 18] as const)(
  'PostgreSQL %d ends where its guard is killed',
  async (major) => {
    const { postmaster } = await start(major)
    const [guard] = await guardsOf(postmaster.pid)
    process.kill(present(guard, 'guard'), 'SIGKILL')
    expect((await postmaster.exited).kind).toBe('exited')
    expect(postmaster.isRunning()).toBe(false)
  },
  60_000,
)

test('the next life of the proxy finds it by what is remembered, ends it, and knows that it ended cleanly', async () => {
  const { files, launcher, postmaster } = await start(17)
  const identity = present(await launcher.identify(postmaster), 'identity')
  for (const wrong of [{ pid: process.pid }, { startTime: '1' }, { bootId: 'another' }])
    expect(await launcher.findOld(files, { ...identity, ...wrong })).toBeUndefined()
  const old = present(await launcher.findOld(files, identity), 'the old postmaster')
  expect(await old.keep()).toBe(true)
  expect(old.isRunning()).toBe(true)
  old.signal('SIGINT')
  expect(await old.exited).toEqual({ kind: 'clean' })
  expect(await launcher.findOld(files, identity)).toBeUndefined()
  expect(isProcessRunning(identity.pid)).toBe(false)
}, 60_000)

// Goal: the sidecar container starts Postgres for a token alone, and its end and its orders are noticed. Method: the
// real script in a real shell, with a program named postgres that only waits.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { existsSync, readFileSync, readlinkSync } from 'node:fs'
import { chmod, copyFile, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { realClock, silentLog } from '@understory/env'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { podFiles } from './layout.ts'
import type { ComputeFiles } from './layout.ts'
import { SidecarLauncher } from './sidecar-launcher.ts'
import { allowStart } from './postgres.ts'

/** A shell's child cannot trap what its parent ignores; Postgres, as this one, sets its own handlers. */
const WAITING = `#!${process.execPath}
const { readFileSync, writeFileSync } = require('node:fs')
process.stderr.write('args: ' + process.argv.slice(2).join(' ') + '\\n')
if (process.argv[2] === '--single') {
  writeFileSync('../single', readFileSync(0))
  process.exit(0)
}
process.on('SIGINT', () => process.exit(0))
process.on('SIGQUIT', () => process.exit(3))
writeFileSync('../serving', '')
setInterval(() => {}, 1000)
`

interface Pod {
  readonly files: ComputeFiles
  readonly launcher: SidecarLauncher
  readonly container: ChildProcess
  readonly containerEnded: Promise<number | null>
  readonly stopAsked: Promise<void>
}

/** Its handlers are set. */
async function serving({ shared }: ComputeFiles): Promise<void> {
  while (!existsSync(join(shared, 'serving'))) await realClock.sleep(5)
}

async function startPod(): Promise<Pod> {
  const folder = await temporaryDirectory()
  const root = join(folder.path, "it's here")
  const files = podFiles({ shared: join(root, 'shared'), orders: join(root, 'orders'), own: root })
  await mkdir(files.pgdata, { recursive: true })
  await mkdir(join(folder.path, 'bin'))
  await writeFile(join(folder.path, 'bin/postgres'), WAITING)
  await chmod(join(folder.path, 'bin/postgres'), 0o755)
  const asked = Promise.withResolvers<void>()
  const launcher = new SidecarLauncher({
    files,
    clock: realClock,
    log: silentLog,
    onStopAsked: () => asked.resolve(),
  })
  await launcher.open()
  const container = spawn('sh', [join(files.orders, 'run.sh'), files.shared], {
    env: { ...process.env, PATH: `${join(folder.path, 'bin')}:${process.env['PATH']}` },
    stdio: 'ignore',
  })
  const containerEnded = new Promise<number | null>((resolve) => container.once('exit', resolve))
  onTestFinished(async () => {
    launcher.finish()
    launcher.cancelWaits()
    await containerEnded
    await folder[Symbol.asyncDispose]()
  })
  return { files, launcher, container, containerEnded, stopAsked: asked.promise }
}

test('a start takes the token away, hands arguments over as they are, and reports how it ended', async () => {
  const { files, launcher } = await startPod()
  expect(launcher.isWanted).toBe(false)
  await allowStart(files)
  const server = await launcher.start(files, ['-c', "a=it's $HOME"])
  expect(launcher.isWanted).toBe(true)
  expect(existsSync(files.startToken)).toBe(false)
  await serving(files)
  server.signal('SIGINT')
  expect(await server.exited).toEqual({ kind: 'clean' })
  expect(await readFile(files.log, 'utf8')).toBe("args: -c a=it's $HOME\n")
})

test('without a token nothing is started', async () => {
  const { files, launcher } = await startPod()
  await expect(launcher.start(files, [])).rejects.toThrow('it has no start token')
  await allowStart(files)
  const server = await launcher.start(files, [])
  await serving(files)
  server.signal('SIGQUIT')
  expect(await server.exited).toEqual({ kind: 'exited', code: 3 })
})

test('a server in single-user mode reads what it is given and ends', async () => {
  const { files, launcher } = await startPod()
  await allowStart(files)
  const { exited } = await launcher.start(files, ['--single', 'postgres'], 'create role x\n')
  expect(await exited).toEqual({ kind: 'clean' })
  expect(await readFile(join(files.shared, 'single'), 'utf8')).toBe('create role x\n')
})

test('an order to stop goes to the proxy, and the server runs on until that has decided', async () => {
  const { files, launcher, container, containerEnded, stopAsked } = await startPod()
  await allowStart(files)
  const server = await launcher.start(files, [])
  container.kill('SIGTERM')
  await stopAsked
  launcher.cancelWaits()
  process.kill(server.pid, 0)
  await serving(files)
  server.signal('SIGINT')
  expect(await server.exited).toEqual({ kind: 'clean' })
  await launcher.endOld()
  launcher.finish()
  expect(await containerEnded).toBe(0)
})

test('a container that is killed takes its server with it, and is the end of the pod', async () => {
  const { files, launcher, container, stopAsked } = await startPod()
  await allowStart(files)
  const server = await launcher.start(files, [])
  // As the kernel kills all of a container.
  container.kill('SIGKILL')
  process.kill(server.pid, 'SIGKILL')
  await stopAsked
  expect(await server.exited).toEqual({ kind: 'gone', where: 'container' })
  await launcher.endOld()
  await allowStart(files)
  await expect(launcher.start(files, [])).rejects.toThrow('the container of Postgres has ended')
})

/** The program of a process; empty where it has ended. */
function programOf({ pid }: ChildProcess): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`)
  } catch {
    return ''
  }
}

/** A Postgres of an earlier life of the proxy, which does not end at the first signal. */
async function stubbornOld({ shared, pgdata }: ComputeFiles): Promise<ChildProcess> {
  const program = join(shared, '../postgres')
  await copyFile('/bin/sleep', program)
  const old = spawn('sh', ['-c', `trap '' QUIT; exec "$0" 600`, program], { cwd: pgdata, stdio: 'ignore' })
  onTestFinished(() => void old.kill('SIGKILL'))
  await expect.poll(() => programOf(old)).toMatch(/\/postgres$/)
  await expect.poll(() => existsSync(join(shared, 'answers/runner'))).toBe(true)
  return old
}

test('nothing of an old Postgres runs once it was ended', async () => {
  const { files, launcher } = await startPod()
  const old = await stubbornOld(files)
  await launcher.endOld()
  expect(programOf(old)).toBe('')
  // Each of the rounds before SIGKILL looks through all processes of the machine.
}, 120_000)

test('a container that is killed while it ends an old Postgres is waited for no longer', async () => {
  const { files, launcher, container } = await startPod()
  await stubbornOld(files)
  const ended = launcher.endOld()
  await expect.poll(() => readFileSync(join(files.orders, 'request'), 'utf8')).toContain('kind=end_old')
  container.kill('SIGKILL')
  await ended
})

test('a cluster that the init container made is used once', async () => {
  const { files, launcher, stopAsked } = await startPod()
  await writeFile(join(files.pgdata, 'PG_VERSION'), '17\n')
  await writeFile(join(files.shared, 'initdb-done'), '')
  await launcher.initdb(files)
  await expect(launcher.initdb(files)).rejects.toThrow('no new cluster')
  await stopAsked
})

test('a program whose proxy has died since then does not run on', async () => {
  const { files } = await startPod()
  await allowStart(files)
  const dead = spawn('true')
  await new Promise((resolve) => dead.once('exit', resolve))
  const request = `id=late\nkind=start\nproxy=${dead.pid}\nserve() {\n  cd pgdata && exec postgres\n}\n`
  await writeFile(join(files.orders, 'request.draft'), request)
  await rename(join(files.orders, 'request.draft'), join(files.orders, 'request'))
  await expect
    .poll(() => existsSync(join(files.shared, 'answers/ended.late')), { timeout: 10_000 })
    .toBe(true)
})

test('a data directory is made empty, and gets its files as Postgres would have them', async () => {
  const { files, launcher } = await startPod()
  await writeFile(join(files.pgdata, 'old'), '')
  await launcher.emptyPgdata()
  expect(existsSync(join(files.pgdata, 'old'))).toBe(false)
  await launcher.install(files, new Map([['pg_hba.conf', 'local all all trust\n']]))
  expect(await readFile(join(files.pgdata, 'pg_hba.conf'), 'utf8')).toBe('local all all trust\n')
  // Also while a server runs, whose rules turn out to be unreadable.
  await allowStart(files)
  const server = await launcher.start(files, [])
  await launcher.install(files, new Map([['pg_hba.conf', 'other\n']]))
  expect(await readFile(join(files.pgdata, 'pg_hba.conf'), 'utf8')).toBe('other\n')
  await serving(files)
  server.signal('SIGINT')
  expect(await server.exited).toEqual({ kind: 'clean' })
})

test.each(['-1', '0', '1', 'x', '', '1e3'])('"%s" is refused as a process to signal', async (text) => {
  const { files, launcher, stopAsked } = await startPod()
  const runner = join(files.shared, 'answers/runner')
  await expect.poll(() => existsSync(runner)).toBe(true)
  await writeFile(runner, text)
  await stopAsked
  await expect(launcher.start(files, [])).rejects.toThrow('the container of Postgres has ended')
})

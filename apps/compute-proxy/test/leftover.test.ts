// Goal: no Postgres is left on a folder whose compute is gone, or frozen (I2, I4). Method: real folders, and a process
// under the name of Postgres.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, copyFile, mkdir, readFile, readdir, realpath, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { lockFolder, realClock, silentLog } from '@understory/env'
import type { Clock } from '@understory/env'
import { encodeSpec } from '@understory/protocol'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test } from 'vitest'
import { lockRoot } from '../src/commands/root-lock.ts'
import { Host } from '../src/host/host.ts'
import { hostFiles } from '../src/postgres/layout.ts'

const MAIN = resolve(import.meta.dirname, '..', 'src', 'main.ts')
const TIMELINE = '2'.repeat(32)

/** A process on the data directory of a compute in `root`. */
async function leavePostgres(folder: string, root: string) {
  const { pgdata } = hostFiles(root)
  await mkdir(pgdata, { recursive: true })
  await copyFile('/bin/sleep', join(folder, 'postgres'))
  const child = spawn(join(folder, 'postgres'), ['600'], { cwd: pgdata, stdio: 'ignore' })
  const exited = once(child, 'exit')
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child, 'spawn')
  return { child, exited }
}

test('where the compute before keeps its folder, its Postgres is ended', async () => {
  await using folder = await temporaryDirectory()
  const root = await realpath(folder.path)
  const { child, exited } = await leavePostgres(root, root)
  await using lock = await lockFolder(root)
  let nowMs = 0
  let looks = 0
  const clock = Object.create(realClock, {
    nowMs: { value: () => nowMs },
    sleep: {
      value: async (ms: number) => {
        nowMs += ms
        // Time passes for the one that waits, and not for the end of the process.
        if (++looks < 10) expect(child.signalCode).toBeNull()
        await new Promise((next) => setTimeout(next, 1))
      },
    },
  }) as Clock
  await expect(lockRoot(root, clock, silentLog)).rejects.toThrow('is in use')
  expect((await exited)[1]).toMatch(/SIG/)
  await lock.release()
})

test('a compute that is removed leaves no Postgres behind', async () => {
  await using folder = await temporaryDirectory()
  const dataDirectory = await realpath(folder.path)
  const root = join(dataDirectory, 'computes', TIMELINE)
  const { exited } = await leavePostgres(dataDirectory, root)
  const host = new Host({
    nodeId: 'host-1',
    dataDirectory,
    binaries: {},
    adoptionGraceMs: 5_000,
    contactTimeoutMs: 30_000,
    ingestLagLimitMib: 512,
    hasMetrics: false,
    users: undefined,
    environment: process.env,
    logLevel: 'error',
    clock: realClock,
    log: silentLog,
  })
  await host.load()
  await host.remove(TIMELINE)
  expect((await exited)[1]).toBe('SIGQUIT')
  await expect(access(root)).rejects.toThrow('ENOENT')
  await host.stop()
})

test('a host whose data directory is behind a link names it as the kernel does', async () => {
  await using folder = await temporaryDirectory()
  const at = (name: string): string => join(folder.path, name)
  await mkdir(at('data'))
  await mkdir(at('bin'))
  await symlink(at('data'), at('link'))
  // No server listens at these addresses.
  const spec = encodeSpec({
    timeline: { tenantId: '1'.repeat(32), timelineId: TIMELINE },
    postgresMajor: 17,
    bootstrap: true,
    safekeepers: ['127.0.0.1:1'],
    pageservers: ['127.0.0.1:1'],
    stripeBlocks: 256,
    sqlPort: 0,
    settings: {},
    specGeneration: 1n,
    fullPageWritesOff: false,
    requireTls: false,
    membership: undefined,
  })
  await writeFile(at('data/computes.json'), JSON.stringify({ version: 1, computes: [spec] }))
  const options = {
    'node-id': 'host-1',
    'data-dir': at('link'),
    'postgres-bin-17': at('bin'),
    listen: '127.0.0.1:0',
  }
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value])
  const host = spawn(process.execPath, [MAIN, 'host', ...args], { stdio: 'inherit' })
  const exited = once(host, 'exit')
  onTestFinished(async () => {
    host.kill('SIGTERM')
    await exited
  })
  const root = join(await realpath(at('data')), 'computes', TIMELINE)
  const commandOf = async (): Promise<string[]> => {
    for (const name of await readdir('/proc')) {
      const commandLine = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
      if (commandLine.includes(`/computes/${TIMELINE}`) && commandLine.includes(folder.path))
        return commandLine.split('\0')
    }
    return []
  }
  await expect.poll(commandOf, { timeout: 20_000 }).toContain(root)
}, 60_000)

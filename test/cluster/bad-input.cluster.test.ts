/**
 * Goal: a request that cannot be carried out is refused with one clear line that says what and what to do, with a
 * fitting exit code or gRPC status, and damages nothing (I10). Method: one living cluster; every app and the command
 * get nonsense, a safekeeper's disk is filled, and in the end the cluster works and storage has every page.
 */
import { spawnSync } from 'node:child_process'
import { mkdir, readFile, readdir, rm, statfs, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { UnderstoryError, advance, formatLsn, isErrorCode, parseLsn, present } from '@understory/base'
import {
  PLAIN_CLIENT,
  PageserverServiceClient,
  SafekeeperServiceClient,
  callServerStream,
  callUnary,
  createClient,
  openBidi,
} from '@understory/rpc'
import type { GetPagesRequest, GetPagesResponse, TimelineRef } from '@understory/rpc'
import { TENANT_PASSWORD, runCommand, temporaryDirectory } from '@understory/testcontainers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runCli, runProgram, startRoad, until } from './cluster-support.ts'
import type { ProgramResult, Road } from './cluster-support.ts'

const NOT_FOUND = 5
const OUT_OF_RANGE = 11
const MIB = 1024 * 1024
const FAR_LSN = '7/0'

let road: Road
const mounted: string[] = []

beforeAll(async () => {
  road = await startRoad()
  await road.loadTpcb()
})
afterAll(async () => {
  await road?.stop()
  for (const path of mounted) await runCommand({ name: 'umount', command: 'umount', args: [path] })
  await road?.[Symbol.asyncDispose]()
})

/** Logs are JSON lines; what is for people must be one line. */
function expectOneLine({ stderr }: ProgramResult, pattern: RegExp): void {
  const lines = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{"'))
  expect(lines).toEqual([expect.stringMatching(pattern)])
}

const APPS = {
  safekeeper: ['--data-dir', 'DATA', '--broker', 'BROKER'],
  pageserver: ['--data-dir', 'DATA', '--broker', 'BROKER', '--object-store', 'STORE'],
  'control-plane': ['--object-store', 'STORE', '--metrics-listen', '127.0.0.1:0'],
  'compute-proxy': ['--data-dir', 'DATA', '--broker', 'BROKER'],
} as const
type App = keyof typeof APPS

/** Runs the app, with folders of its own by default. */
async function runApp(
  app: App,
  given: readonly string[],
  places: { data?: string; store?: string } = {},
): Promise<ProgramResult> {
  await using folder = await temporaryDirectory({ prefix: 'app' })
  const values: Readonly<Record<string, string>> = {
    DATA: places.data ?? join(folder.path, 'data'),
    STORE: places.store ?? join(folder.path, 'store'),
    BROKER: `grpc://${road.cluster.endpoint}`,
  }
  const command = app === 'compute-proxy' ? ['host'] : []
  return runProgram(`apps/${app}/src/main.ts`, [
    ...command,
    ...APPS[app].map((word) => values[word] ?? word),
    ...given,
  ])
}

describe.each(Object.keys(APPS) as App[])('%s', (app) => {
  test('a wrong flag, a value that cannot be, and a missing one: exit code 2', async () => {
    const wrong = await runApp(app, ['--listne', '127.0.0.1:0'])
    expect(wrong.code).toBe(2)
    expectOneLine(wrong, /"--listne" is not an option of.*--help/)
    const impossible = await runApp(app, ['--listen', 'here'])
    expect(impossible.code).toBe(2)
    expectOneLine(impossible, /option --listen cannot be "here": it must be host:port/)
    const bare = await runProgram(`apps/${app}/src/main.ts`, app === 'compute-proxy' ? ['host'] : [])
    expect(bare.code).toBe(2)
    expectOneLine(bare, /option --\S+ is missing/)
  })

  test('a port in use', async () => {
    const { address } = present(road.cluster.safekeepers[0], 'safekeeper')
    const result = await runApp(app, ['--listen', address])
    expect(result.code).toBe(1)
    expectOneLine(result, new RegExp(`could not listen on ${address}.*another port`))
  })

  test('a folder that is none', async () => {
    const file = join(road.folder, `file-${app}`)
    await writeFile(file, 'kept')
    const places = app === 'control-plane' ? { store: file } : { data: file }
    const result = await runApp(app, ['--listen', '127.0.0.1:0'], places)
    expect(result.code).toBe(1)
    expectOneLine(result, new RegExp(`"?${file}.*\\. [A-Z]`))
    expect(await readFile(file, 'utf8')).toBe('kept')
  })
})

test('a metrics port in use', async () => {
  const { address } = present(road.cluster.safekeepers[0], 'safekeeper')
  const result = await runApp('control-plane', ['--listen', '127.0.0.1:0', '--metrics-listen', address])
  expect(result.code).toBe(1)
  expectOneLine(result, new RegExp(`could not listen on ${address}.*another port`))
})

test('a data directory of a process that runs', async () => {
  const { dataDirectory } = present(road.cluster.safekeepers[0], 'safekeeper')
  const result = await runApp('safekeeper', ['--listen', '127.0.0.1:0'], { data: dataDirectory })
  expect(result.code).toBe(1)
  expectOneLine(result, /is used by another|in use|is locked/)
})

describe('the command line', () => {
  test('an unknown tenant, and an unknown timeline', async () => {
    for (const words of [
      ['tenant', 'show'],
      ['tenant', 'fpw', 'off'],
      ['timeline', 'list'],
      ['timeline', 'verify'],
      ['timeline', 'show'],
    ]) {
      const result = await runCli(road.cluster, ...words, 'absent')
      expect(result.code).toBe(1)
      expectOneLine(result, /^understory: tenant "absent" does not exist\. .*tenant list/)
    }
    const timeline = await runCli(road.cluster, 'timeline', 'verify', road.tenant, 'nothing')
    expect(timeline.code).toBe(1)
    expectOneLine(
      timeline,
      /^understory: timeline "nothing" of tenant "road" does not exist\. .*timeline list/,
    )
    const error = await refused(road.client.getTenant('absent'))
    expect(error).toMatchObject({ code: 'unknown_tenant', cause: { code: NOT_FOUND } })
  })

  test('a tenant that cannot be made', async () => {
    const again = await runCli(road.cluster, 'tenant', 'create', road.tenant)
    expect(again.code).toBe(1)
    expectOneLine(again, /^understory: tenant "road" already exists\. Choose another name/)
    const name = await runCli(road.cluster, 'tenant', 'create', 'no/good')
    expect(name.code).toBe(1)
    expectOneLine(name, /^understory: .*"no\/good"/)
    const managed = await runCli(road.cluster, 'tenant', 'create', 'other', '--set', 'fsync=on')
    expect(managed.code).toBe(1)
    expectOneLine(managed, /^understory: setting "fsync" is managed by Understory/)
    for (const [setting, why] of [
      ['FSYNC=off', /setting "FSYNC" is managed by Understory/],
      ['//=1', /"\/\/" is not the name of a setting/],
      ["a\nfsync = 'off'\nb=1", /is not the name of a setting/],
      ["work_mem=4MB'\nfsync = 'off", /the value of setting "work_mem" has a control character/],
    ] as const) {
      const refusedSetting = await runCli(road.cluster, 'tenant', 'create', 'other', '--set', setting)
      expect(refusedSetting.code).toBe(1)
      expect(refusedSetting.stderr).toMatch(why)
    }
    const version = await runCli(road.cluster, 'tenant', 'create', 'other', '--pg', '15')
    expect(version.code).toBe(2)
    expect(version.stderr).toMatch(/from 16 to 18/)
    expect((await runCli(road.cluster, 'tenant', 'list')).stdout).not.toMatch(/other|no\/good/)
  })

  test('a Postgres that does not come up is waited for as long as asked, and the way on is said', async () => {
    const { computeHost } = road.cluster
    await computeHost.kill()
    const result = await runCli(road.cluster, 'tenant', 'create', 'late', '--timeout', '3')
    // Before anything is expected: the tests behind this one need it.
    await computeHost.start()
    expect(result.code).toBe(1)
    expect(result.stderr).toMatch(/waited 3000 ms.*continues: `understory timeline show late`/)
    expect((await runCli(road.cluster, 'tenant', 'delete', 'late', '--stop-compute')).code).toBe(0)
  })

  test('a Postgres that cannot come up is not waited for: the reason is said at once', async () => {
    const create = ['tenant', 'create', 'lame', '--set', 'shared_preload_libraries=nowhere']
    const result = await runCli(road.cluster, ...create, '--timeout', '600')
    expect(result.code).toBe(1)
    expect(result.stderr).toMatch(/Postgres of tenant "lame" does not come up: .+/)
    expect(result.stderr).toMatch(/remove the tenant and create it with other settings/)
    expect((await runCli(road.cluster, 'tenant', 'delete', 'lame', '--stop-compute')).code).toBe(0)
  })

  test('positions that are none, that are not there, and that are within a record', async () => {
    const directory = join(road.folder, 'backup')
    const backup = (lsn: string) =>
      runCli(road.cluster, 'timeline', 'basebackup', road.tenant, '--output', directory, '--lsn', lsn)
    const malformed = await backup('16/XYZ')
    expect(malformed.code).toBe(2)
    expect(malformed.stderr).toMatch(/malformed lsn "16\/XYZ".*16\/B374D848/)
    for (const lsn of [FAR_LSN, '0/10']) {
      const outside = await backup(lsn)
      expect(outside.code).toBe(1)
      expectOneLine(
        outside,
        new RegExp(`^understory: lsn ${lsn} is not within the timeline\\. Choose one from .* to `),
      )
    }
    const [mark] = await road.query("select pg_logical_emit_message(true, 'mark', repeat('x', 1000)) as lsn")
    const within = advance(parseLsn(String(mark?.['lsn'])), -504)
    const inside = await backup(formatLsn(within))
    expect(inside.code).toBe(1)
    expectOneLine(inside, /^understory: .*record/)
    expect(await readdir(directory).catch(() => [])).toEqual([])
  })

  test('an output directory that has something in it is left alone', async () => {
    const directory = join(road.folder, 'taken')
    await mkdir(directory)
    await writeFile(join(directory, 'mine'), 'kept')
    const result = await runCli(road.cluster, 'timeline', 'basebackup', road.tenant, '--output', directory)
    expect(result.code).toBe(1)
    expectOneLine(result, new RegExp(`^understory: .*"${directory}".*empty`))
    expect(await readdir(directory)).toEqual(['mine'])
  })

  test('wrong words, and a control plane that is not there', async () => {
    expect((await runCli(road.cluster, 'tenant', 'fpw', 'sideways', road.tenant)).code).toBe(2)
    expect((await runCli(road.cluster, 'tennant')).code).toBe(2)
    const nowhere = await runProgram('apps/cli/src/main.ts', ['--endpoint', '127.0.0.1:1', 'tenant', 'list'])
    expect(nowhere.code).toBe(1)
    expectOneLine(nowhere, /^understory: the control plane at 127\.0\.0\.1:1 is not reachable/)
  })
})

describe('over the network', () => {
  const unknown: TimelineRef = { tenantId: '0'.repeat(31) + '1', timelineId: '0'.repeat(31) + '2' }

  test('an unknown timeline is NOT_FOUND', async () => {
    const shard = { number: 0, count: 2, stripeBlocks: 256 }
    const pageserver = createClient(
      PLAIN_CLIENT,
      PageserverServiceClient,
      present(road.cluster.pageservers[0], 'pageserver').address,
    )
    const safekeeper = createClient(
      PLAIN_CLIENT,
      SafekeeperServiceClient,
      present(road.cluster.safekeepers[0], 'safekeeper').address,
    )
    const expected = { code: 'unknown_timeline', cause: { code: NOT_FOUND } }
    try {
      const state = callUnary(pageserver.getControlState.bind(pageserver), {
        timeline: unknown,
        shard,
        lsn: 0n,
      })
      expect(await refused(state)).toMatchObject(expected)
      const pages = openBidi<GetPagesRequest, GetPagesResponse>(pageserver.getPages.bind(pageserver))
      await pages.send({ timeline: unknown, shard, requests: Buffer.alloc(0) })
      expect(await refused(drain(pages.messages))).toMatchObject(expected)
      expect(
        await refused(callUnary(safekeeper.getWalStatus.bind(safekeeper), { timeline: unknown })),
      ).toMatchObject(expected)
    } finally {
      pageserver.close()
      safekeeper.close()
    }
  })

  test('positions outside are OUT_OF_RANGE', async () => {
    const { timeline, spec } = await road.timeline()
    const ref = timeline?.timeline
    const shard = { number: 0, count: spec?.pageservers.length ?? 0, stripeBlocks: spec?.stripeBlocks ?? 0 }
    const pageserver = createClient(
      PLAIN_CLIENT,
      PageserverServiceClient,
      (await road.pageserverOf(0)).address,
    )
    const safekeeper = createClient(
      PLAIN_CLIENT,
      SafekeeperServiceClient,
      present(road.cluster.safekeepers[0], 'safekeeper').address,
    )
    const expected = { code: 'out_of_range', cause: { code: OUT_OF_RANGE } }
    try {
      const before = callUnary(pageserver.getControlState.bind(pageserver), {
        timeline: ref,
        shard,
        lsn: 16n,
      })
      expect(await refused(before)).toMatchObject(expected)
      const range = {
        timeline: ref,
        startLsn: BigInt(await road.flushLsn()),
        endLsn: BigInt(parseLsn(FAR_LSN)),
        term: 0n,
      }
      expect(
        await refused(drain(callServerStream(safekeeper.readWal.bind(safekeeper), range))),
      ).toMatchObject(expected)
    } finally {
      pageserver.close()
      safekeeper.close()
    }
  })
})

test('a SQL port in use is reported by the compute, which continues when it is free', async () => {
  const taken = createServer()
  const port = await new Promise<number>((resolve, reject) => {
    taken.once('error', reject)
    taken.listen(0, '127.0.0.1', () => {
      const address = taken.address()
      resolve(typeof address === 'object' && address !== null ? address.port : 0)
    })
  })
  try {
    await road.client.createTenant({ name: 'port', password: TENANT_PASSWORD, sqlPort: port })
    const failure = await until('the port to be reported', async () => {
      // Before the compute answers, the reconciler's own problem may be shown for a moment.
      const { compute } = await road.timeline('port')
      return compute?.failure.includes(String(port)) === true ? compute.failure : undefined
    })
    expect(failure).toContain('in use')
    expect(failure).not.toContain('\n')
  } finally {
    await new Promise((resolve) => taken.close(resolve))
  }
  // A failure that lasts ends a wait for SQL, and is shown until the next attempt.
  await until('the compute to continue', async () =>
    (await road.timeline('port')).compute?.failure === '' ? true : undefined,
  )
  expect(await road.query('select 1 as one', 'port')).toEqual([{ one: 1 }])
})

test.skipIf(!canMount())(
  'a full disk of one safekeeper (needs the right to mount): the quorum continues, and it comes back with room',
  async () => {
    const victim = present(road.cluster.safekeepers[2], 'safekeeper')
    const { timeline } = await road.timeline()
    const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, victim.address)
    const status = () => callUnary(client.getWalStatus.bind(client), { timeline: timeline?.timeline })
    try {
      await victim.stop()
      await moveOntoSmallDisk(victim.dataDirectory, 8 * MIB)
      await victim.start()
      const { stats } = await road.underLoad(async (load) => {
        await road.query(
          'create table bulk as select g, repeat(md5(g::text), 30) t from generate_series(1, 20000) g',
        )
        // It tries again and again, and each try may find another file without room.
        const full = /could not .*ENOSPC.*Free some space/
        await until('the safekeeper to run out of disk', async () =>
          full.test((await status().catch(() => undefined))?.failure ?? '') ? true : undefined,
        )
        await load.moreCommits(100)
        await until('status and list to report it', async () => {
          const { safekeepers } = await road.timeline()
          const failure = safekeepers.find(({ address }) => address === victim.address)?.failure ?? ''
          const shown = await runCli(road.cluster, 'timeline', 'show', road.tenant)
          return full.test(failure) && shown.stdout.includes('Free some space') ? true : undefined
        })

        await victim.stop()
        await leaveRoom(victim.dataDirectory, 512 * MIB)
        await victim.start()
        const goal = await road.flushLsn()
        await until('the safekeeper to catch up', async () => {
          const now = await status().catch(() => undefined)
          return now !== undefined && now.flushLsn >= BigInt(goal) ? true : undefined
        })
        expect((await status()).failure).toBe('')
      })
      expect(stats.connectionsLost).toBe(0)
    } finally {
      client.close()
    }
  },
)

test('nothing of all this damaged anything', async () => {
  await road.underLoad((load) => load.moreCommits(50))
  await road.expectVerified()
})

async function refused(promise: Promise<unknown>): Promise<UnderstoryError> {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  expect(error).toBeInstanceOf(UnderstoryError)
  expect(isErrorCode(error, 'timeout')).toBe(false)
  return error as UnderstoryError
}

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

function canMount(): boolean {
  if (process.getuid?.() !== 0) return false
  // In a mount name space of its own, which goes with the command.
  return (
    spawnSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', '/mnt']).status === 0
  )
}

/** Moves a folder's files onto a disk of its own with `roomBytes` left. */
async function moveOntoSmallDisk(path: string, roomBytes: number): Promise<void> {
  const aside = `${path}.aside`
  await runCommand({ name: 'mv', command: 'mv', args: [path, aside] })
  await mkdir(path)
  await runCommand({ name: 'mount', command: 'mount', args: ['-t', 'tmpfs', '-o', 'size=2g', 'none', path] })
  mounted.push(path)
  await runCommand({ name: 'cp', command: 'cp', args: ['-a', '--sparse=always', `${aside}/.`, path] })
  await rm(aside, { recursive: true })
  await leaveRoom(path, roomBytes)
}

async function leaveRoom(path: string, roomBytes: number): Promise<void> {
  const { bsize, blocks, bfree } = await statfs(path)
  const sizeBytes = (blocks - bfree) * bsize + roomBytes
  await runCommand({ name: 'mount', command: 'mount', args: ['-o', `remount,size=${sizeBytes}`, path] })
}

/**
 * Goal: a compute-proxy that dies costs its clients less than a second of commits, and neither a connection nor a
 * rebuild; and no Postgres is adopted where anything is in doubt (I2, I4). Method: SIGKILL of real processes under
 * load. While its host is frozen the proxy is not started again, so that something can happen in between.
 */
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { lsnFromBigint, offsetInSegment, segmentOf } from '@understory/base'
import { WAL_SEGMENT_BYTES, walFileName } from '@understory/postgres/wal'
import type { GetComputeStatusResponse } from '@understory/rpc'
import { tenantLogin } from '@understory/testcontainers'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'
import { gone, isAlive, prepareSuccessor } from './successor.ts'

/** Several kills, each of what the one before adopted. */
const KILLS = 3
/** The longest wait of a commit on a machine that does nothing else; this one may have other work. */
const GAP_MS_MAX = 5_000

let road: Road

beforeAll(async () => {
  road = await startRoad()
  await road.loadTpcb()
  await road.query('create table ticks (i bigint generated always as identity primary key)')
})
afterAll(() => road?.[Symbol.asyncDispose]())

async function connected(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: await road.connectionString() })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

/** Commits one after the other over one connection, and notes when each was acknowledged. */
class Ticker {
  readonly commitsMs: number[] = []
  readonly #client: pg.Client
  readonly #stop = new AbortController()
  readonly #running: Promise<void>

  constructor(client: pg.Client) {
    this.#client = client
    this.#running = this.#run()
    this.#running.catch(() => undefined)
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await this.#client.query('insert into ticks default values')
      this.commitsMs.push(performance.now())
    }
  }

  async moreCommits(count: number): Promise<void> {
    const goal = this.commitsMs.length + count
    await Promise.race([
      this.#running,
      until(`${count} more commits`, () => (this.commitsMs.length >= goal ? true : undefined)),
    ])
  }
  /** Longest time between two commits. */
  longestGapMs(): number {
    return this.commitsMs.reduce((longest, at, i) => Math.max(longest, at - (this.commitsMs[i - 1] ?? at)), 0)
  }
  async end(): Promise<void> {
    this.#stop.abort()
    await this.#running
    await this.#client.end()
  }
}

const eventsOf = (event: string): Record<string, unknown>[] =>
  road.cluster.computeHost
    .log()
    .split('\n')
    .filter((line) => line.includes(`"event":"${event}"`))
    .map((line) => JSON.parse(line) as Record<string, unknown>)

/**
 * Waits for the process that becomes the next compute-proxy, one for each start that went before; returns what runs.
 */
async function readyToBeKilled(): Promise<GetComputeStatusResponse> {
  const compute = await road.runningCompute()
  await until('a spare process', () => {
    const [started, spare] = [eventsOf('started'), eventsOf('spare_ready')].map((lines) =>
      lines.at(-1)?.['time']?.toString(),
    )
    return started !== undefined && spare !== undefined && spare > started ? true : undefined
  })
  return compute
}

/** Another process of the compute runs. */
const nextProxy = (before: GetComputeStatusResponse): Promise<GetComputeStatusResponse> =>
  until('another compute-proxy', async () => {
    const compute = await road.runningCompute()
    return compute.pid === before.pid ? undefined : compute
  })

test('a proxy that is killed under load adopts its Postgres: no rebuild, no lost connection, a short gap', async () => {
  const rebuilds = eventsOf('pgdata_rebuilt').length
  const gapsMs: number[] = []
  const { stats } = await road.underLoad(async (load) => {
    const ticker = new Ticker(await connected())
    await ticker.moreCommits(20)
    for (let kill = 0; kill < KILLS; kill++) {
      const before = await readyToBeKilled()
      ticker.commitsMs.splice(0, ticker.commitsMs.length - 1)
      process.kill(before.pid, 'SIGKILL')
      const after = await nextProxy(before)
      await ticker.moreCommits(20)
      gapsMs.push(Math.round(ticker.longestGapMs()))
      expect(after).toMatchObject({
        postmasterPid: before.postmasterPid,
        startLsn: before.startLsn,
        postgresStarts: 0,
      })
      expect(after.term).toBeGreaterThan(before.term)
    }
    await load.moreCommits(50)
    await ticker.end()
  })
  process.stdout.write(`gaps without a commit, ms: ${gapsMs.join(', ')}\n`)
  expect(stats.connectionsLost).toBe(0)
  expect(eventsOf('pgdata_rebuilt')).toHaveLength(rebuilds)
  expect(eventsOf('elected').filter(({ election }) => election === 'adopt')).toHaveLength(KILLS)
  expect(Math.max(...gapsMs)).toBeLessThan(GAP_MS_MAX)
  await road.ingested()
  await road.expectVerified()
})

test('an adopted Postgres stops cleanly, and is rebuilt when it is lost', async () => {
  const before = await readyToBeKilled()
  process.kill(before.pid, 'SIGKILL')
  const adopted = await nextProxy(before)
  expect(adopted.postmasterPid).toBe(before.postmasterPid)
  process.kill(adopted.postmasterPid, 'SIGKILL')
  const rebuilt = await until('another Postgres', async () => {
    const compute = await road.runningCompute()
    return compute.postmasterPid === adopted.postmasterPid ? undefined : compute
  })
  await readyToBeKilled()
  process.kill(rebuilt.pid, 'SIGKILL')
  expect((await nextProxy(rebuilt)).postmasterPid).toBe(rebuilt.postmasterPid)
  await road.cluster.computeHost.stop()
  const [last] = eventsOf('postgres_stopped').slice(-1)
  expect(last).toMatchObject({ clean: true })
  await road.cluster.computeHost.start()
  await road.query('insert into ticks default values')
})

/**
 * Kills the proxy while its host is frozen, has `during` happen, and gives what runs then, which is another Postgres.
 */
async function rebuiltAfter(
  during: (before: GetComputeStatusResponse) => Promise<void>,
): Promise<{ readonly before: GetComputeStatusResponse; readonly after: GetComputeStatusResponse }> {
  const before = await road.runningCompute()
  const { pid: host } = road.cluster.computeHost
  process.kill(host, 'SIGSTOP')
  try {
    process.kill(before.pid, 'SIGKILL')
    await during(before)
  } finally {
    process.kill(host, 'SIGCONT')
  }
  const after = await nextProxy(before)
  expect(after.postmasterPid).not.toBe(before.postmasterPid)
  expect(after.postgresStarts).toBe(1)
  return { before, after }
}

test('a Postgres that is not adopted ends by itself after its grace, and takes no commit until then', async () => {
  const client = await connected()
  const killedMs = performance.now()
  await rebuiltAfter(async ({ postmasterPid }) => {
    const commit = client.query('insert into ticks default values').then(
      () => 'committed',
      () => 'not acknowledged',
    )
    await gone('the Postgres without a proxy', postmasterPid)
    process.stdout.write(`ended after ${Math.round(performance.now() - killedMs)} ms\n`)
    expect(performance.now() - killedMs).toBeGreaterThan(4_000)
    expect(await commit).toBe('not acknowledged')
  })
})

test('a Postgres that died with its proxy is rebuilt', async () => {
  await rebuiltAfter(async ({ postmasterPid }) => {
    process.kill(postmasterPid, 'SIGKILL')
    await gone('Postgres', postmasterPid)
  })
})

test('a Postgres whose WAL is not what the safekeepers have is rebuilt', async () => {
  await road.query('insert into ticks default values')
  const { after } = await rebuiltAfter(async ({ dataDirectory, commitLsn }) => {
    // One byte of the last page that is committed.
    const at = lsnFromBigint(commitLsn) - 64
    const name = walFileName(1, segmentOf(at as never, WAL_SEGMENT_BYTES), WAL_SEGMENT_BYTES)
    const file = await open(join(dataDirectory, 'pg_wal', name), 'r+')
    try {
      const byte = Buffer.alloc(1)
      await file.read(byte, 0, 1, offsetInSegment(at as never, WAL_SEGMENT_BYTES))
      byte[0] = (byte[0] as number) ^ 0xff
      await file.write(byte, 0, 1, offsetInSegment(at as never, WAL_SEGMENT_BYTES))
    } finally {
      await file.close()
    }
  })
  expect(eventsOf('local_wal_differs')).toHaveLength(1)
  expect(after.term).toBeGreaterThan(0n)
})

test('a Postgres is not adopted where another compute was elected in between: it is fenced and ended', async () => {
  const before = await road.runningCompute()
  await using successor = await prepareSuccessor(road, road.tenant)
  const { pid: host } = road.cluster.computeHost
  process.kill(host, 'SIGSTOP')
  process.kill(before.pid, 'SIGKILL')
  await successor.take()
  const { term, connectionString } = await successor.status()
  process.kill(host, 'SIGCONT')
  await gone('the old Postgres', before.postmasterPid)
  await until('the first to give way', () => (eventsOf('compute_fenced').length > 0 ? true : undefined))
  const client = new pg.Client({ connectionString: tenantLogin(connectionString) })
  await client.connect()
  try {
    await client.query('insert into ticks default values')
  } finally {
    await client.end()
  }
  expect(await successor.status()).toMatchObject({ term, postgresStarts: 1 })
  expect(isAlive(before.postmasterPid)).toBe(false)
})

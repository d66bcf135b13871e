/**
 * Goal: writers are slowed while a shard is far behind, to the floor and not below it, and no longer than that; a shard
 * of which nothing is heard slows no commit. No acknowledged commit is lost and no client notices more.
 * Method: a cluster of real processes with a small limit, one shard whose folder is immutable, so that it stalls, and
 * pageservers that are killed or frozen, under a load that wants far more WAL than the floor.
 */
import { describeError, present } from '@understory/base'
import type { IngestLag } from '@understory/rpc'
import { runCommand } from '@understory/testcontainers'
import { shardPrefix } from '@understory/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { join } from 'node:path'
import pg from 'pg'
import { runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const KIB = 1024
const MIB = 1024 * KIB
const LIMIT_MIB = 16
const FLOOR_BYTES_PER_S = 64 * KIB
const WRITERS_COUNT = 4
/** Of random bytes in one commit. */
const ROW_BYTES = 8 * KIB
/** WAL of the writers that waits for an answer at once, with room for what Postgres writes besides. */
const OUTSTANDING_BYTES = 4 * WRITERS_COUNT * ROW_BYTES
const WINDOW_MS = 20_000
/** In one commit; rows that are stored as they are. */
const bulk = (mib: number): string =>
  `insert into bulk select repeat(md5(i::text), 32) from generate_series(1, ${mib * KIB}) i`

let road: Road

beforeAll(async () => {
  road = await startRoad({
    flags: {
      pageserver: ['--open-layer-mib', '1'],
      'compute-proxy': ['--ingest-lag-limit-mib', String(LIMIT_MIB)],
    },
    // No checkpoint makes the WAL of one window more than that of another.
    settings: { checkpoint_timeout: '1h', max_wal_size: '4GB' },
  })
  await road.loadTpcb()
  await road.query('create table bulk (t text)')
  await road.query('create table filled (b bytea)')
  await road.query(`alter table filled alter b set storage external`)
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** Clients that commit one after another until the end. */
async function whileWriting(during: () => Promise<void>): Promise<void> {
  let isOver = false
  const row = `insert into filled select decode(repeat(md5(random()::text), ${ROW_BYTES / 16}), 'hex')`
  const connectionString = await road.connectionString()
  const writers = Array.from({ length: WRITERS_COUNT }, async () => {
    const client = new pg.Client({ connectionString })
    await client.connect()
    try {
      while (!isOver) await client.query(row)
    } finally {
      await client.end()
    }
  })
  try {
    await Promise.race([during(), Promise.all(writers)])
  } finally {
    isOver = true
    await Promise.all(writers)
  }
}

async function lag(): Promise<IngestLag> {
  return present((await road.runningCompute()).ingestLag, 'the lag of a compute that runs')
}

const lagWith = (what: string, isSo: (now: IngestLag) => boolean): Promise<IngestLag> =>
  until(what, async () => {
    const now = await lag()
    return isSo(now) ? now : undefined
  })

/** WAL that was committed in the window, and how long that was. */
async function measure(windowMs: number): Promise<{ readonly bytes: number; readonly seconds: number }> {
  const [fromLsn, fromMs] = [await road.flushLsn(), performance.now()]
  await until('the end of the window', () => (performance.now() - fromMs >= windowMs ? true : undefined))
  const seconds = (performance.now() - fromMs) / 1_000
  return { bytes: (await road.flushLsn()) - fromLsn, seconds }
}

const chattr = (flag: '+i' | '-i', path: string): Promise<string> =>
  runCommand({ name: 'chattr', command: 'chattr', args: [flag, path] })

test('a shard that cannot write slows writers to the floor and not below it, until it continues', async (context) => {
  const { dataDirectory } = await road.pageserverOf(0)
  const [first] = await road.shards()
  const { timeline, shard } = present(first, 'shard 0')
  const owner = { ...present(timeline, 'timeline'), shard: present(shard, 'shard') }
  const folder = join(dataDirectory, shardPrefix(owner))
  const problem = await chattr('+i', folder).then(
    () => undefined,
    (error: unknown) => error,
  )
  if (problem !== undefined) return context.skip(`chattr +i does not work here: ${describeError(problem)}`)
  const before = await road.runningCompute()
  const { stats } = await road.underLoad(async () => {
    await using _ = { [Symbol.asyncDispose]: async () => void (await chattr('-i', folder)) }
    await whileWriting(async () => {
      await lagWith('the limit to be reached', ({ walBytesPerS, bytes, limitBytes }) => {
        expect(walBytesPerS === 0n).toBe(bytes <= limitBytes / 2n)
        return bytes >= limitBytes
      })
      expect(await lag()).toMatchObject({
        walBytesPerS: BigInt(FLOOR_BYTES_PER_S),
        limitBytes: BigInt(LIMIT_MIB * MIB),
        unknownShards: [],
      })
      const { bytes, seconds } = await measure(WINDOW_MS)
      process.stderr.write(`at the floor: ${(bytes / seconds / KIB).toFixed(1)} KiB of WAL a second\n`)
      expect(bytes).toBeGreaterThanOrEqual(seconds * FLOOR_BYTES_PER_S - OUTSTANDING_BYTES)
      expect(bytes).toBeLessThan(2 * seconds * FLOOR_BYTES_PER_S)
      await expectShown()
      // WAL that no client waits for is not held back, and its commit not for long.
      await road.query(bulk(2 * LIMIT_MIB))
      await chattr('-i', folder)
      await lagWith('the shard to catch up', ({ walBytesPerS }) => walBytesPerS === 0n)
      const after = await measure(WINDOW_MS / 4)
      process.stderr.write(
        `after it: ${(after.bytes / after.seconds / KIB).toFixed(1)} KiB of WAL a second\n`,
      )
      expect(after.bytes).toBeGreaterThan(4 * after.seconds * FLOOR_BYTES_PER_S)
    })
  })
  expect(stats.connectionsLost).toBe(0)
  const { term, postgresStarts } = await road.runningCompute()
  expect({ term, postgresStarts }).toEqual({ term: before.term, postgresStarts: before.postgresStarts })
  await road.ingested()
  await road.expectVerified()
})

/** By CLI and Postgres. */
async function expectShown(): Promise<void> {
  const { stdout } = await runCli(road.cluster, 'timeline', 'show', road.tenant)
  expect(stdout).toMatch(
    /^ingest lag: [\d.]+ MiB of 16 MiB; commits are slowed to 64 KiB of WAL a second \(held for \d+ ms now\)$/m,
  )
  const [row] = await road.query(
    `select extract(epoch from write_lag) > 0.1 as write, extract(epoch from flush_lag) > 0.1 as flush,
     extract(epoch from replay_lag) > 0.1 as replay, sync_state from pg_stat_replication`,
  )
  expect(row).toEqual({ write: true, flush: true, replay: true, sync_state: 'sync' })
}

test.each(['SIGKILL', 'SIGSTOP'] as const)(
  'a pageserver that is gone by %s slows no commit',
  async (signal) => {
    await road.ingested()
    const node = await road.pageserverOf(0)
    const { pid } = node
    if (signal === 'SIGKILL') await node.kill()
    else process.kill(pid, signal)
    try {
      await lagWith('the shard to be unknown', ({ unknownShards }) => unknownShards.includes(0))
      // Two times the limit, in parts of an eighth that the other shard takes in one by one.
      for (let i = 0; i < 16; i++) {
        await road.query(bulk(LIMIT_MIB / 8))
        await lagWith('the other shard to keep up', ({ bytes, ...now }) => {
          expect(now).toMatchObject({ walBytesPerS: 0n, heldMs: 0, heldBytes: 0n, unknownShards: [0] })
          return bytes < MIB
        })
      }
      await whileWriting(async () => {
        const { bytes, seconds } = await measure(WINDOW_MS / 4)
        expect(bytes).toBeGreaterThan(4 * seconds * FLOOR_BYTES_PER_S)
      })
      const { stdout } = await runCli(road.cluster, 'timeline', 'show', road.tenant)
      expect(stdout).toMatch(/^ingest lag: .*; not known of shard 0$/m)
    } finally {
      if (signal === 'SIGKILL') await node.start()
      else process.kill(pid, 'SIGCONT')
    }
    await road.ingested()
    await lagWith(
      'the lag to be known again',
      ({ bytes, unknownShards }) => bytes === 0n && unknownShards.length === 0,
    )
  },
)

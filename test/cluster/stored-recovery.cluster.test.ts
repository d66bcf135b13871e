/**
 * Goal: when every safekeeper is gone with its disk, the database continues with the WAL that the object store has,
 * where an operator says so: every commit up to there, none of it in half, and pages of discarded WAL are never read.
 * Method: real processes under load; safekeepers, and then pageservers too, are killed and their folders deleted.
 */
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { lsnFromBigint, parseLsn } from '@understory/base'
import type { ClusterNode } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const FLAGS = { safekeeper: ['--offload-quiet-s', '1'] }

test('all safekeepers lost: refused while one is left, then on from the object store', async () => {
  await using road = await startRoad({ flags: FLAGS })
  await begin(road)
  const kept = await commitMarks(road, 40)
  await stored(road)

  const early = await recover(road, '--accept-lost-commits')
  expect(early.code).toBe(1)
  expect(early.stderr).toMatch(/safekeeper "\S+" has the timeline.*--from/)

  await loseAfterMore(road)
  const unsure = await recover(road)
  expect(unsure.code).toBe(1)
  expect(unsure.stderr).toMatch(/commits that the object store does not have would be lost/)
  const none = await recoverWhenSettled(road)
  expect(none.code).toBe(1)
  expect(none.stderr).toMatch(/needs 3 safekeepers, and 0 are there/)

  const ingested = await shardEnds(road)
  for (const node of road.cluster.safekeepers) await node.start()
  await resume(road, kept)
  expect(Math.max(...ingested)).toBeGreaterThan(Number(parseLsn(await rolledBackTo(road))))
  expect(road.cluster.controlPlane.log()).toMatch(
    /"level":"error","event":"safekeepers_recovered_from_store"/,
  )

  // And once more, with the WAL that came after it: the segment that was cut is stored again, whole.
  await road.query(
    'create table filler as select repeat(md5(i::text), 30) t from generate_series(1, 40000) i',
  )
  const more = [...kept, ...(await commitMarks(road, 10, 1_000))]
  await stored(road)
  for (const node of [...road.cluster.safekeepers, ...road.cluster.pageservers]) await forget(node)
  for (const node of [...road.cluster.safekeepers, ...road.cluster.pageservers]) await node.start()
  await resume(road, more)
  expect(await road.query('select count(*)::int from filler')).toMatchObject([{ count: 40_000 }])
})

test('all safekeepers and pageservers lost seconds after the import: the WAL since its start is taken in again', async () => {
  await using road = await startRoad({ flags: FLAGS })
  await road.query(CREATE_MARKS)
  const kept = await commitMarks(road, 40)
  await stored(road)
  const imports = events(road, 'imported')
  expect(imports.length).toBeGreaterThan(1)
  for (const { startLsn, endLsn } of imports) expect(parseLsn(startLsn!)).toBeLessThan(parseLsn(endLsn!))
  // Layers beyond what is stored: the WAL is not offloaded while commits continue.
  const stop = new AbortController()
  const commits = commitUntil(road, stop.signal)
  await road.flushShards()
  const nodes = [...road.cluster.safekeepers, ...road.cluster.pageservers]
  await Promise.all(nodes.map((node) => node.kill()))
  stop.abort()
  await commits
  for (const node of nodes) await rm(node.dataDirectory, { recursive: true })

  for (const node of nodes) await node.start()
  await recovered(road, kept)
  const logged = events(road, 'shard_rolled_back', 'shard_attached')
  const back = logged.filter(({ event }) => event === 'shard_rolled_back')
  expect(back.length).toBe(imports.length)
  for (const rolledBack of back) {
    expect(rolledBack['layersGone']).toBeGreaterThan(0)
    const attached = logged
      .slice(logged.indexOf(rolledBack) + 1)
      .find(({ shard }) => shard === rolledBack['shard'])
    expect(attached).toMatchObject({ ingestedLsn: imports[0]?.['startLsn'] })
  }
  await road.expectVerified()
})

const CREATE_MARKS = 'create table mark (n int primary key, half int not null)'

/** The events of these kinds in the pageservers' logs, each in its order. */
const events = (road: Road, ...kinds: string[]): Record<string, string>[] =>
  road.cluster.pageservers
    .flatMap((node) => node.log().split('\n'))
    .filter((line) => kinds.some((kind) => line.includes(`"event":"${kind}"`)))
    .map((line) => JSON.parse(line) as Record<string, string>)

/** One after the other, until the server is gone. */
async function commitUntil(road: Road, signal: AbortSignal): Promise<void> {
  await road
    .withClient(async (client) => {
      for (let n = 100_000; !signal.aborted; n++) await client.query(`insert into mark values (${n}, 3)`)
    })
    .catch((error: unknown) => {
      if (!signal.aborted) throw error
    })
}

async function begin(road: Road): Promise<void> {
  await road.loadTpcb()
  await road.query(CREATE_MARKS)
}

/** Each is one transaction of two rows, `n` and `-n`; returns those that were acknowledged. */
async function commitMarks(road: Road, count: number, from = 1): Promise<readonly number[]> {
  const done: number[] = []
  await road.withClient(async (client) => {
    for (let n = from; n < from + count; n++) {
      await client.query(`insert into mark values (${n}, 1), (${-n}, 2)`)
      done.push(n)
    }
  })
  return done
}

/** Waits until the object store has all that is committed. */
async function stored(road: Road): Promise<void> {
  const lsn = await road.flushLsn()
  await until('the WAL to be offloaded', async () => ((await storedEnd(road)) >= lsn ? true : undefined))
}

/** End of the last partial segment. */
async function storedEnd(road: Road): Promise<number> {
  const names = await readdir(join(road.cluster.objectStore, 'wal'), { recursive: true }).catch(() => [])
  const ends = names.flatMap((name) => {
    const end = /\.partial\.([0-9a-f]{16})$/.exec(name)?.[1]
    return end === undefined ? [] : [Number.parseInt(end, 16)]
  })
  return Math.max(0, ...ends)
}

/** Makes commits that are not offloaded any more, which the shards take in, and then removes all safekeepers. */
async function loseAfterMore(road: Road): Promise<void> {
  await road.query('insert into mark select i, 3 from generate_series(100000, 100500) i')
  await road.ingested()
  for (const node of road.cluster.safekeepers) await forget(node)
}

async function forget(node: ClusterNode): Promise<void> {
  await node.kill()
  await rm(node.dataDirectory, { recursive: true })
}

const shardEnds = async (road: Road): Promise<readonly number[]> =>
  (await road.shards()).map(({ ingestedLsn }) => Number(lsnFromBigint(ingestedLsn)))

async function rolledBackTo(road: Road): Promise<string> {
  const lines = road.cluster.pageservers.map((node) => node.log()).join('\n')
  return /"event":"shard_rolled_back".*?"to":"([0-9A-F/]+)"/.exec(lines)?.[1] ?? ''
}

const recover = (road: Road, ...flags: string[]) =>
  runCli(
    road.cluster,
    'safekeeper',
    'recover',
    '--tenant',
    road.tenant,
    '--from-object-store',
    '--timeout',
    '60',
    ...flags,
  )

/** Once the control plane knows which safekeepers are there. */
const recoverWhenSettled = (road: Road) =>
  until('every safekeeper to be known as here or gone', async () => {
    const result = await recover(road, '--accept-lost-commits')
    const nodes = await road.client.listNodes()
    const count = nodes.filter(({ kind }) => kind === 'safekeeper').length
    const isSettled = count === 0 || count === road.cluster.safekeepers.length
    return /does not answer|needs 3 safekeepers, and [12]/.test(result.stderr) || !isSettled
      ? undefined
      : result
  })

/** Recovers, looks at what there is, and continues with it. */
async function resume(road: Road, kept: readonly number[]): Promise<void> {
  await recovered(road, kept)
  await road.underLoad((load) => load.moreCommits(50))
  await road.expectVerified()
}

/** Recovers, and looks at what there is. */
async function recovered(road: Road, kept: readonly number[]): Promise<void> {
  const done = await recoverWhenSettled(road)
  expect({ code: done.code, stderr: done.code === 0 ? '' : done.stderr }).toEqual({ code: 0, stderr: '' })
  expect(done.stdout).toMatch(/from the object store/)
  await road.client.waitForSql(road.tenant, { timeoutMs: 60_000 })
  const rows = await road.query('select n, half from mark where abs(n) < 100000 order by n')
  const numbers = new Set(rows.map((row) => Number(row['n'])))
  for (const n of kept) expect([n, numbers.has(n), numbers.has(-n)]).toEqual([n, true, true])
  for (const n of numbers) expect([n, numbers.has(-n)]).toEqual([n, true])
}

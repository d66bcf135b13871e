/**
 * Goal: the road is the same on S3 and Redis as on a directory and the embedded broker. Method: one cluster on real
 * servers of both, where this machine has them: its pageservers lose their directories, Redis loses everything and is
 * away for a while, S3 is away for a while.
 */
import { readdir, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { present } from '@understory/base'
import { minioMissing, redisMissing, startMinio, startRedis } from '@understory/testcontainers'
import type { RedisServer, S3Server } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loseCompute, runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const hasMinio = (await minioMissing()) === undefined
const hasRedis = (await redisMissing()) === undefined

let minio: S3Server | undefined
let redis: RedisServer | undefined
let road: Road | undefined

beforeAll(async () => {
  minio = hasMinio ? await startMinio() : undefined
  await minio?.createBucket('understory')
  redis = hasRedis ? await startRedis() : undefined
  if (minio === undefined && redis === undefined) return
  road = await startRoad({
    ...(minio === undefined
      ? {}
      : { objectStore: minio.url('understory', 'cluster'), environment: minio.environment }),
    ...(redis === undefined ? {} : { broker: redis.url }),
  })
  await road.loadTpcb()
})
afterAll(async () => {
  try {
    await road?.[Symbol.asyncDispose]()
  } finally {
    await redis?.[Symbol.asyncDispose]()
    await minio?.[Symbol.asyncDispose]()
  }
})

test.skipIf(!hasMinio)('pageservers whose directories are deleted serve from S3 (needs MinIO)', async () => {
  const cluster = present(road, 'cluster')
  await cluster.underLoad((load) => load.moreCommits(200))
  await cluster.flushShards()
  await cluster.query('update pgbench_tellers set tbalance = tbalance + 1')
  for (const node of cluster.cluster.pageservers) {
    await node.kill()
    await rm(node.dataDirectory, { recursive: true })
  }
  for (const node of cluster.cluster.pageservers) await node.start()
  await cluster.ingested()
  await cluster.expectVerified()
  await cluster.underLoad((load) => loseCompute(cluster, load))
  expect((await cluster.expectVerified()).pagesFromStorage).toBeGreaterThan(0n)
  // Nothing went into a directory instead.
  expect(await readdir(join(cluster.folder, 'data'))).not.toContain('objects')
})

test.skipIf(!hasMinio)(
  'commits continue while S3 is away, and what they made reaches it afterwards (needs MinIO)',
  async () => {
    const cluster = present(road, 'cluster')
    const { stats } = await cluster.underLoad(async (load) => {
      await minio?.kill()
      await load.moreCommits(200)
      await minio?.start()
    })
    expect(stats.connectionsLost).toBe(0)
    // None has stopped for it.
    await cluster.ingested()
    await cluster.flushShards()
    await cluster.expectVerified()
  },
)

test.skipIf(!hasRedis)(
  'a Redis that forgets everything, or is away, costs no commit and no connection (needs Redis)',
  async () => {
    const cluster = present(road, 'cluster')
    await cluster.allNodesKnown()
    const { stats } = await cluster.underLoad(async (load) => {
      await flushAll(present(redis, 'redis').port)
      await load.moreCommits(50)
      await cluster.allNodesKnown()
      await redis?.kill()
      await load.moreCommits(50)
      await redis?.start()
      await cluster.allNodesKnown()
    })
    expect(stats.connectionsLost).toBe(0)
    await cluster.expectVerified()
  },
)

test.skipIf(!hasRedis)('a compute is rebuilt while Redis is away (needs Redis)', async () => {
  const cluster = present(road, 'cluster')
  await cluster.underLoad(async (load) => {
    await redis?.kill()
    await loseCompute(cluster, load)
    await load.moreCommits(50)
    await redis?.start()
  })
  await cluster.expectVerified()
})

test.skipIf(!hasRedis)(
  'while Redis is away a lost host gets its compute back, switches and metrics continue (needs Redis)',
  async () => {
    const cluster = present(road, 'cluster')
    const { client } = cluster
    const { computeHost, metricsUrl } = cluster.cluster
    const metrics = async (): Promise<string> => (await fetch(metricsUrl)).text()
    const brokerAway = async (value: 0 | 1): Promise<true | undefined> =>
      new RegExp(`^understory_control_broker_away\\b.* ${value}$`, 'm').test(await metrics()) || undefined
    const rows = 'select count(*) from pgbench_history'
    await redis?.kill()
    await until('the control plane to miss Redis', () => brokerAway(1))
    const before = await cluster.query(rows)
    // Its Postgres ends with it, and from an empty folder only the control plane can say what it has to run.
    await computeHost.kill()
    await rm(computeHost.dataDirectory, { recursive: true })
    await computeHost.start()
    expect(await cluster.query(rows)).toEqual(before)
    await client.switchFullPageWrites(cluster.tenant, 'off')
    await client.waitForFullPageWrites(cluster.tenant)
    expect(await metrics()).toMatch(/^understory_control_computes\{[^}]*phase="open"[^}]*\} 1$/m)
    expect(await metrics()).toMatch(/^understory_control_safekeepers_away\{.* 0$/m)
    await redis?.start()
    await until('the control plane to find Redis again', () => brokerAway(0))
    await cluster.expectVerified()
  },
)

test.skipIf(!hasMinio || !hasRedis)(
  'a cluster that was stopped starts again with everything in it (needs MinIO and Redis)',
  async () => {
    const cluster = present(road, 'cluster')
    const history = await cluster.query('select count(*) from pgbench_history')
    await cluster.stop()
    await cluster.start()
    expect(await cluster.query('select count(*) from pgbench_history')).toEqual(history)
    const cli = await runCli(cluster.cluster, 'timeline', 'verify', cluster.tenant)
    expect(cli.stdout).toMatch(/^0 differing$/m)
    expect(cli.code).toBe(0)
  },
)

/** FLUSHALL as a person would type it. */
async function flushAll(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1')
  socket.write('FLUSHALL\r\n')
  const [answer] = (await socket.take(1).toArray()) as [Buffer]
  socket.destroy()
  expect(answer.toString()).toBe('+OK\r\n')
}

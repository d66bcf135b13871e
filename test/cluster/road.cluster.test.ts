/**
 * Goal: acknowledged commits outlive the loss of any one process, and full_page_writes is switched under load without
 * notice to any client. Method: one cluster of real processes; each act runs a small load whose clients keep a ledger,
 * does its harm with SIGKILL, continues until the load works again, and then finds no commit lost and none that no
 * client made.
 */
import { FullPageWrites } from '@understory/rpc'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loseCompute, startRoad, until } from './cluster-support.ts'
import type { ClusterNode } from '@understory/testcontainers'
import type { Road } from './cluster-support.ts'

/** Twice the threshold of 32 records: the bound that ingest keeps. */
const CHAIN_RECORDS_MAX = 64

let road: Road

beforeAll(async () => {
  road = await startRoad({ settings: { checkpoint_timeout: '30s', max_wal_size: '2GB' } })
  await road.loadTpcb()
})
afterAll(() => road?.[Symbol.asyncDispose]())

test('commits survive SIGKILL of Postgres together with its proxy', async () => {
  const before = await road.runningCompute()
  await road.underLoad((load) => loseCompute(road, load))
  const after = await road.runningCompute()
  expect(after.term).toBeGreaterThan(before.term)
  expect(after.startLsn).toBeGreaterThan(before.startLsn)
})

test('commits survive SIGKILL of Postgres alone', async () => {
  const { postmasterPid } = await road.runningCompute()
  await road.underLoad(async (load) => {
    process.kill(postmasterPid, 'SIGKILL')
    await load.disconnected()
  })
  expect((await road.runningCompute()).postmasterPid).not.toBe(postmasterPid)
})

test('any one safekeeper may be killed: commits continue, no connection is lost, and it catches up', async () => {
  const { stats } = await road.underLoad(async (load) => {
    for (const victim of road.cluster.safekeepers) {
      await victim.kill()
      await load.moreCommits(50)
      await victim.start()
      // Only when it takes part again may the next one go.
      const goal = await road.flushLsn()
      await until(`${victim.nodeId} to catch up`, async () => {
        const { safekeepers } = await road.timeline()
        const row = safekeepers.find(({ address }) => address === victim.address)
        return row?.alive === true && row.flushLsn >= BigInt(goal) ? true : undefined
      })
    }
  })
  expect(stats.connectionsLost).toBe(0)
})

test('a pageserver may be killed: commits continue, and it ingests what it missed', async () => {
  const { stats } = await road.underLoad(async (load) => {
    for (const victim of road.cluster.pageservers) {
      await victim.kill()
      await load.moreCommits(50)
      await victim.start()
      await road.ingested()
    }
  })
  expect(stats.connectionsLost).toBe(0)
})

test('without a majority of safekeepers nothing is committed, and nothing is lost', async () => {
  const [first, second] = road.cluster.safekeepers as [ClusterNode, ClusterNode]
  const { stats } = await road.underLoad(async (load) => {
    await Promise.all([first.kill(), second.kill()])
    // A commit that would take milliseconds waits.
    await until('a commit to wait for a second', async () => {
      const waiting = await road.query(
        "select 1 from pg_stat_activity where wait_event = 'SyncRep' and clock_timestamp() - query_start > interval '1 s'",
      )
      return waiting.length > 0 ? true : undefined
    })
    // Reads are served, with every commit that was acknowledged, and no commit comes while they are.
    const counts = async () => {
      const [row] = await road.query('select count(*)::int as n from pgbench_history')
      return { acknowledged: load.progress.committed, visible: row?.['n'] as number }
    }
    const seen = await counts()
    expect(seen.visible).toBeGreaterThanOrEqual(seen.acknowledged)
    expect(await counts()).toEqual(seen)
    await first.start()
    await load.moreCommits(50)
    await second.start()
  })
  expect(stats.connectionsLost).toBe(0)
})

test('the compute and a safekeeper may be lost at once', async () => {
  const [victim] = road.cluster.safekeepers as [ClusterNode]
  await road.underLoad(async (load) => {
    await Promise.all([victim.kill(), loseCompute(road, load)])
    await load.moreCommits(50)
    await victim.start()
  })
})

test('the control plane may be killed: commits continue, and it knows everything again', async () => {
  const { stats } = await road.underLoad(async (load) => {
    await road.cluster.controlPlane.kill()
    await load.moreCommits(50)
    await road.cluster.controlPlane.start()
    await road.allNodesKnown()
    expect((await road.client.getTenant(road.tenant)).name).toBe(road.tenant)
    await road.runningCompute()
  })
  expect(stats.connectionsLost).toBe(0)
})

test('commits survive SIGKILL of the compute host', async () => {
  const before = await road.runningCompute()
  await road.underLoad(async (load) => {
    await road.cluster.computeHost.kill()
    await load.disconnected()
    await road.cluster.computeHost.start()
  })
  expect((await road.runningCompute()).pid).not.toBe(before.pid)
})

test('full_page_writes goes off and on again under load without a restart or a lost connection', async () => {
  const { client, tenant } = road
  const before = await road.runningCompute()
  const imagesBefore = sum((await road.ingested()).map(({ generatedImages }) => generatedImages))
  const { stats } = await road.underLoad(async (load) => {
    await client.switchFullPageWrites(tenant, 'off')
    // A control plane that dies on the way continues where it was.
    await road.cluster.controlPlane.kill()
    await road.cluster.controlPlane.start()
    const off = await client.waitForFullPageWrites(tenant)
    expect(off).toMatchObject({ wanted: 'off', phase: 'off', problem: '' })
    expect(off.steps.every(({ done }) => done)).toBe(true)
    expect(await road.query('show full_page_writes')).toEqual([{ full_page_writes: 'off' }])
    // A checkpoint, after which Postgres would write images again.
    await road.query('checkpoint')
    await load.moreCommits(1_000)
    // A pageserver ingests again the WAL that it had not made durable, and keeps the bound.
    await (await road.pageserverOf(0)).kill()
    await (await road.pageserverOf(0)).start()
    await load.moreCommits(500)
    const shards = await road.ingested()
    expect(shards.every(({ imageGeneration }) => imageGeneration?.enabled === true)).toBe(true)
    expect(Math.max(...shards.map(({ chainMax }) => chainMax))).toBeLessThanOrEqual(CHAIN_RECORDS_MAX)
    expect(sum(shards.map(({ generatedImages }) => generatedImages))).toBeGreaterThan(imagesBefore)

    await client.switchFullPageWrites(tenant, 'on')
    const on = await client.waitForFullPageWrites(tenant)
    expect(on).toMatchObject({ wanted: 'on', phase: 'on', problem: '' })
    expect(await road.query('show full_page_writes')).toEqual([{ full_page_writes: 'on' }])
  })
  expect(stats.connectionsLost).toBe(0)
  const { postgresStarts, pid, postmasterPid } = await road.runningCompute()
  expect({ postgresStarts, pid, postmasterPid }).toEqual({
    postgresStarts: before.postgresStarts,
    pid: before.pid,
    postmasterPid: before.postmasterPid,
  })
})

test('full_page_writes stays off through the loss of the compute', async () => {
  const { client, tenant } = road
  await client.switchFullPageWrites(tenant, 'off')
  await client.waitForFullPageWrites(tenant)
  await road.underLoad((load) => loseCompute(road, load))
  expect(await road.query('show full_page_writes')).toEqual([{ full_page_writes: 'off' }])
  expect(await client.getFullPageWrites(tenant)).toMatchObject({ wanted: 'off', phase: 'off', problem: '' })
})

test('pageservers that read the WAL before the switch once more do not cause another switch', async () => {
  const { client, tenant, cluster } = road
  for (const wanted of ['on', 'off'] as const) {
    await client.switchFullPageWrites(tenant, wanted)
    await client.waitForFullPageWrites(tenant)
    if (wanted === 'on') await road.flushShards()
  }
  await road.ingested()
  const settled = await client.getFullPageWrites(tenant)
  await Promise.all([...cluster.pageservers, ...cluster.safekeepers].map((node) => node.kill()))
  await Promise.all(cluster.pageservers.map((node) => node.start()))
  // Without safekeepers they stay at what was flushed, where the setting is on. Attaching them, the control plane looks
  // at them.
  await until('the shards to be back, behind the switch', async () => {
    const shards = await road.shards().catch(() => [])
    return (
      shards.some(({ fullPageWrites }) => fullPageWrites === FullPageWrites.FULL_PAGE_WRITES_ON) || undefined
    )
  })
  await Promise.all(cluster.safekeepers.map((node) => node.start()))
  await road.underLoad((load) => load.moreCommits(50))
  await road.ingested()
  expect(await client.getFullPageWrites(tenant)).toEqual(settled)
})

test('after all of it storage has every page that Postgres has', async () => {
  await road.expectVerified()
})

test('a cluster that was stopped starts again on its data directory with everything in it', async () => {
  const digest = `select md5(string_agg(aid || ',' || abalance, ';' order by aid)) from pgbench_accounts`
  const [before, history] = [
    await road.query(digest),
    await road.query('select count(*) from pgbench_history'),
  ]
  await road.stop()
  await road.start()
  expect(await road.query(digest)).toEqual(before)
  expect(await road.query('select count(*) from pgbench_history')).toEqual(history)
  expect(await road.client.getFullPageWrites(road.tenant)).toMatchObject({ wanted: 'off', phase: 'off' })
  await road.underLoad((load) => load.moreCommits(50))
  await road.expectVerified()
})

const sum = (values: readonly bigint[]): bigint => values.reduce((total, value) => total + value, 0n)

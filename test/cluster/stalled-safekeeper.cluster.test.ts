/**
 * Goal: one safekeeper that lives and answers but takes no more WAL costs nothing: commits continue, every shard
 * continues, and a compute that is lost then comes back in the usual time. Method: a cluster of real processes, each
 * time with a safekeeper whose timeline folder is immutable, or that is at its quota; it is the one that a shard
 * follows.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, lsnFromBigint, present } from '@understory/base'
import { runCommand, temporaryDirectory } from '@understory/testcontainers'
import type { ClusterNode } from '@understory/testcontainers'
import { expect, test } from 'vitest'
import { loseCompute, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

/**
 * A compute that is lost with every safekeeper there is back in a few seconds; this is far from the patience of a
 * rebuild.
 */
const BACK_MS_MAX = 60_000
const BULK = `insert into bulk select repeat('x', 500) from generate_series(1, 60000)`

/** The one that shard 0 follows first. */
async function followed(road: Road): Promise<ClusterNode> {
  const { spec } = await road.timeline()
  const address = present(spec, 'spec').safekeepers[0]
  return present(
    road.cluster.safekeepers.find((node) => node.address === address),
    `safekeeper ${address}`,
  )
}

async function folderOfTimeline(road: Road, node: ClusterNode): Promise<string> {
  const { tenantId, timelineId } = present((await road.timeline()).timeline?.timeline, 'timeline')
  return join(node.dataDirectory, 'timelines', tenantId, timelineId)
}

const chattr = (flag: '+i' | '-i', path: string): Promise<string> =>
  runCommand({ name: 'chattr', command: 'chattr', args: [flag, path] })

/** Under load: every shard gets the committed WAL though `victim` takes no more, and so does a rebuilt compute. */
async function expectNothingLost(road: Road, victim: ClusterNode): Promise<void> {
  await road.query('create table bulk (t text)')
  const { check } = await road.underLoad(async (load) => {
    await until(`${victim.nodeId} to take no more WAL`, async () => {
      await road.query(BULK)
      const { safekeepers } = await road.client.getSafekeepers(road.tenant)
      return safekeepers.find(({ node }) => node === victim.nodeId)?.failure || undefined
    })
    await road.query(BULK)
    await road.ingested()
    await load.moreCommits(50)
    await loseCompute(road, load)
    const lostMs = performance.now()
    await load.moreCommits(1)
    const backMs = performance.now() - lostMs
    process.stderr.write(`the compute was back after ${backMs.toFixed(0)} ms without ${victim.nodeId}\n`)
    expect(backMs).toBeLessThan(BACK_MS_MAX)
  })
  expect(check.acknowledged).toBeGreaterThan(0)
  await road.ingested()
  const { flushLsn } = present(
    (await road.timeline()).safekeepers.find(({ address }) => address === victim.address),
    victim.nodeId,
  )
  expect(lsnFromBigint(flushLsn)).toBeLessThan(await road.flushLsn())
  await road.expectVerified()
}

test('a safekeeper whose timeline folder is read-only', async (context) => {
  await using road = await startRoad()
  await road.loadTpcb()
  const victim = await followed(road)
  const folder = await folderOfTimeline(road, victim)
  const problem = await chattr('+i', folder).then(
    () => undefined,
    (error: unknown) => error,
  )
  if (problem !== undefined) return context.skip(`chattr +i does not work here: ${describeError(problem)}`)
  // Before the road's own folder is removed, also after a failure.
  await using _ = { [Symbol.asyncDispose]: async () => void (await chattr('-i', folder)) }
  await expectNothingLost(road, victim)
  expect(victim.log()).toContain('"event":"timeline_failed"')
  expect(victim.log()).toMatch(/"event":"subscription_ended".*"reason":"failed"/)
})

test('a safekeeper at its quota', async () => {
  // A store that takes no WAL: it keeps all it has.
  await using store = await temporaryDirectory({ prefix: 'no-store' })
  await writeFile(join(store.path, 'wal'), '')
  const flags = ['--timeline-quota-mib', '64', '--object-store', store.path]
  await using road = await startRoad({
    plan: (nodeId) => (nodeId === 'safekeeper-1' ? { flags } : {}),
  })
  await road.loadTpcb()
  const victim = present(
    road.cluster.safekeepers.find(({ nodeId }) => nodeId === 'safekeeper-1'),
    'safekeeper-1',
  )
  await expectNothingLost(road, victim)
  expect(victim.log()).toContain('"event":"timeline_out_of_space"')
})

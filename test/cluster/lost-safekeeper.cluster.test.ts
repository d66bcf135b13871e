/**
 * Goal: a safekeeper that is lost for good is replaced without a request. Method: a cluster of real processes with
 * one safekeeper more than needed, under load; one is killed and its disk emptied.
 */
import { rm } from 'node:fs/promises'
import { present } from '@understory/base'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const REPLACE_AFTER_MS = 3_000

let road: Road

beforeAll(async () => {
  road = await startRoad({
    safekeepers: 4,
    flags: { 'control-plane': ['--replace-after-ms', String(REPLACE_AFTER_MS)] },
  })
  await road.loadTpcb()
})
afterAll(() => road?.[Symbol.asyncDispose]())

async function members(): Promise<ClusterNode[]> {
  const { safekeepers } = await road.client.getSafekeepers(road.tenant)
  return safekeepers
    .filter(({ role }) => role === 'member')
    .map(({ node }) =>
      present(
        road.cluster.safekeepers.find(({ nodeId }) => nodeId === node),
        node,
      ),
    )
}

test('a safekeeper that is lost with its disk is replaced by the spare one', async () => {
  const [victim] = (await members()) as [ClusterNode]
  await road.underLoad(async (load) => {
    const lostMs = performance.now()
    await victim.kill()
    await rm(victim.dataDirectory, { recursive: true })
    await until('the lost one to be replaced', async () => {
      const { change } = await road.client.getSafekeepers(road.tenant)
      return change?.done === true && change.remove.includes(victim.nodeId) ? true : undefined
    })
    const tookMs = performance.now() - lostMs
    process.stderr.write(
      `${victim.nodeId} was replaced ${tookMs.toFixed(0)} ms after it was lost (${REPLACE_AFTER_MS} of them waited)\n`,
    )
    expect(tookMs).toBeGreaterThan(REPLACE_AFTER_MS)
    await load.moreCommits(100)
  })
  const { change, safekeepers } = await road.client.getSafekeepers(road.tenant)
  expect(change).toMatchObject({ reason: 'lost_node', done: true })
  expect(safekeepers.find(({ node }) => node === victim.nodeId)?.role).toBe('left')
  // Without a disk it is a new one, and free for the next that is lost.
  await victim.start()
  await road.allNodesKnown()
})

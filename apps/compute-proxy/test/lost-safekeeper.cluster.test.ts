/**
 * Goal: a safekeeper that is lost for good, or whose copy is damaged, is made whole without anybody asking. Method: a
 * cluster of real processes with one safekeeper more than needed, under load; disks are emptied, bits flipped.
 */
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { lsnFromBigint, present } from '@understory/base'
import { SafekeeperServiceClient, callUnary, createClient } from '@understory/rpc'
import type { GetWalStatusResponse } from '@understory/rpc'
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

async function walStatus(node: ClusterNode): Promise<GetWalStatusResponse> {
  const { timeline } = await road.timeline()
  const client = createClient(SafekeeperServiceClient, node.address)
  try {
    return await callUnary(client.getWalStatus.bind(client), { timeline: timeline?.timeline })
  } finally {
    client.close()
  }
}
/** Waits until it has everything that is flushed now and takes part. */
async function caughtUp(node: ClusterNode): Promise<void> {
  const goal = await road.flushLsn()
  await until(`${node.nodeId} to catch up`, async () => {
    const found = await walStatus(node).catch(() => undefined)
    return found !== undefined && lsnFromBigint(found.flushLsn) >= goal ? true : undefined
  })
}

test('a safekeeper with a flipped bit in its log says so, is mended from its peers and takes part again', async () => {
  const [victim] = (await members()) as [ClusterNode]
  await road.underLoad(async (load) => {
    await load.moreCommits(200)
    await victim.stop()
    const { tenantId, timelineId } = present((await road.timeline()).timeline?.timeline, 'timeline')
    const folder = join(victim.dataDirectory, 'timelines', tenantId, timelineId)
    const segments = (await readdir(folder)).filter((name) => name.length === 24).toSorted()
    await flipBit(join(folder, segments.at(0) as string), 5_000_000)
    await flipBit(join(folder, segments.at(-1) as string), 40)
    await flipBit(join(folder, 'control'), 60)
    await victim.start()
    await until('it to be mended', () =>
      victim.log().includes('"event":"timeline_repaired"') ? true : undefined,
    )
    await caughtUp(victim)
    await load.moreCommits(100)
  })
  const events = victim
    .log()
    .split('\n')
    .filter((line) => /control_file_repaired|timeline_not_opened|wal_damaged|timeline_repaired/.test(line))
  for (const line of events) process.stderr.write(`${line}\n`)
  // With another one away it is needed for every commit.
  const other = present(
    (await members()).find((node) => node !== victim),
    'another member',
  )
  await road.underLoad(async (load) => {
    await other.kill()
    await load.moreCommits(100)
    await other.start()
  })
})

async function flipBit(path: string, offset: number): Promise<void> {
  await using file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, offset)
  byte[0] = (byte[0] as number) ^ 0x10
  await file.write(byte, 0, 1, offset)
}

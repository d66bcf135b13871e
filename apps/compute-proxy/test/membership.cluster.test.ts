/**
 * Goal: the safekeepers of a timeline change under load without a lost commit and almost without a pause, whatever is
 * killed on the way. Method: a cluster of real processes with one safekeeper more than needed and a real Postgres under
 * load, whose clients keep a ledger; the time of every acknowledged commit is noted.
 */
import { present } from '@understory/base'
import type { SafekeepersView } from '@understory/sdk'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runCli, startRoad, until } from './cluster-support.ts'
import type { Load, Road } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  road = await startRoad({ safekeepers: 4 })
  await road.loadTpcb()
})
afterAll(() => road?.[Symbol.asyncDispose]())

const safekeeper = (nodeId: string): ClusterNode =>
  present(
    road.cluster.safekeepers.find((node) => node.nodeId === nodeId),
    nodeId,
  )
const view = (): Promise<SafekeepersView> => road.client.getSafekeepers(road.tenant)
async function members(): Promise<string[]> {
  return (await view()).safekeepers
    .filter(({ role }) => role === 'member')
    .map(({ node }) => node)
    .toSorted()
}
async function spare(): Promise<string> {
  const taken = await members()
  return present(
    road.cluster.safekeepers.find(({ nodeId }) => !taken.includes(nodeId)),
    'spare safekeeper',
  ).nodeId
}

/** The longest time between two acknowledged commits while `during` ran. */
async function longestPause(load: Load, during: () => Promise<void>): Promise<number> {
  const { progress } = load
  let { committed } = progress
  let lastMs = performance.now()
  let longestMs = 0
  Object.defineProperty(progress, 'committed', {
    configurable: true,
    enumerable: true,
    get: () => committed,
    set: (value: number) => {
      const nowMs = performance.now()
      longestMs = Math.max(longestMs, nowMs - lastMs)
      lastMs = nowMs
      committed = value
    },
  })
  await during()
  await load.moreCommits(20)
  Object.defineProperty(progress, 'committed', { value: committed, writable: true })
  return longestMs
}

test('a safekeeper is replaced under load: no commit is lost, and commits pause for less than a second', async () => {
  const before = await members()
  const [from] = before as [string]
  const to = await spare()
  let pauseMs = 0
  const { stats, check } = await road.underLoad(async (load) => {
    await load.moreCommits(500)
    pauseMs = await longestPause(load, async () => {
      const cli = await runCli(
        road.cluster,
        ...['safekeeper', 'replace', '--tenant', road.tenant, '--from', from, '--to', to],
      )
      expect(cli).toMatchObject({ code: 0 })
      process.stderr.write(cli.stdout)
    })
    await load.moreCommits(500)
  })
  const after = await view()
  process.stderr.write(
    `replaced ${from} by ${to} in ${after.change?.tookMs} ms: longest time between two commits ${pauseMs.toFixed(0)} ms, ` +
      `${check.acknowledged} acknowledged commits, ${check.lostCommits} lost, ${stats.connectionsLost} connections lost\n`,
  )
  expect(await members()).toEqual([...before.filter((node) => node !== from), to].toSorted())
  expect(stats.connectionsLost).toBe(0)
  expect(pauseMs).toBeLessThan(1_000)

  // The one that left is not missed, and the one that came counts: with one more away commits go on.
  const [other] = before.filter((node) => node !== from) as [string]
  await road.underLoad(async (load) => {
    await Promise.all([safekeeper(from).kill(), safekeeper(other).kill()])
    await load.moreCommits(100)
    await road.ingested()
    await Promise.all([safekeeper(from).start(), safekeeper(other).start()])
  })
})

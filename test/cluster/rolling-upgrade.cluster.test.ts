/**
 * Goal: a cluster is upgraded, and taken back, one process after the other and under load: no commit is lost, no page
 * differs, in any mix of versions. Method: the programs of the last release beside those of this checkout, on the
 * same files; the compute is killed while the versions are mixed. UNDERSTORY_UPGRADE_FROM=COMMIT begins with another
 * one.
 */
import { existsSync } from 'node:fs'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { earlierCheckout, lastRelease, temporaryDirectory } from '@understory/testcontainers'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loseCompute, startRoad } from './cluster-support.ts'
import type { Load, Road } from './cluster-support.ts'

const from = process.env['UNDERSTORY_UPGRADE_FROM'] ?? (await lastRelease())
const without = from === undefined ? ' (git does not know the last release here)' : ''

let folder: Awaited<ReturnType<typeof temporaryDirectory>> | undefined
let road: Road | undefined
let earlier = ''

beforeAll(async () => {
  if (from === undefined) return
  folder = await temporaryDirectory({ prefix: 'release' })
  earlier = await earlierCheckout(from, folder.path)
  road = await startRoad({ root: earlier })
  await road.loadTpcb()
})
afterAll(async () => {
  await road?.[Symbol.asyncDispose]()
  await folder?.[Symbol.asyncDispose]()
})

/** As docs/upgrades.md says: safekeepers, pageservers, the control plane, computes. */
const inOrder = ({ cluster }: Road): ClusterNode[] => [
  ...cluster.safekeepers,
  ...cluster.pageservers,
  cluster.controlPlane,
  cluster.computeHost,
]

async function change(cluster: Road, load: Load, node: ClusterNode, root: string | undefined): Promise<void> {
  await node.changeProgram(root)
  expect(await programOf(node)).toContain(root ?? process.cwd())
  // A compute host takes its Postgres with it; through everything else commits continue.
  await load.moreCommits(50)
  await cluster.ingested()
}

const DOCUMENTS = 'apps/control-plane/src/documents'

/** Text of every tenant's and timeline's document, by its path. */
async function documentsOf(objectStore: string): Promise<Record<string, string>> {
  const root = join(objectStore, 'control')
  const paths = (await readdir(root, { recursive: true })).filter((path) =>
    /^(tenants|timelines)\/.*\.json$/.test(path),
  )
  const texts = paths.map(async (path) => [path, await readFile(join(root, path), 'utf8')] as const)
  return Object.fromEntries(await Promise.all(texts))
}

/** Command line of its process. */
const programOf = (node: ClusterNode): Promise<string> => readFile(`/proc/${node.pid}/cmdline`, 'utf8')

async function switchBackAndForth({ client, tenant }: Road): Promise<void> {
  for (const wanted of ['off', 'on', 'off'] as const) {
    await client.switchFullPageWrites(tenant, wanted)
    await client.waitForFullPageWrites(tenant)
  }
}

test.skipIf(from === undefined)(`forward, with a lost compute between versions${without}`, async () => {
  const cluster = road as Road
  const nodes = inOrder(cluster)
  await switchBackAndForth(cluster)
  await cluster.underLoad(async (load) => {
    for (const node of nodes.slice(0, -1)) await change(cluster, load, node, undefined)
    // The old compute-proxy beside new services.
    await loseCompute(cluster, load)
    await load.moreCommits(50)
    await change(cluster, load, cluster.cluster.computeHost, undefined)
    await loseCompute(cluster, load)
    await load.moreCommits(50)
  })
  await switchBackAndForth(cluster)
  await cluster.expectVerified()
})

/** A release that writes tenant documents of version 1 cannot read what this one has migrated. */
const isControlPlaneOneWay = (): boolean => !existsSync(join(earlier, DOCUMENTS, 'timeline-document.ts'))

test.skipIf(from === undefined)(
  `a control plane that cannot go back refuses and changes nothing${without}`,
  async () => {
    const { cluster, client, tenant } = road as Road
    if (!isControlPlaneOneWay()) return
    const before = await documentsOf(cluster.objectStore)
    await cluster.controlPlane.changeProgram(earlier)
    await expect(client.getTenant(tenant)).rejects.toMatchObject({
      code: 'bad_file',
      detail: expect.stringContaining('version: Invalid input: expected 1'),
    })
    await expect(client.switchFullPageWrites(tenant, 'on')).rejects.toMatchObject({ code: 'bad_file' })
    expect(await documentsOf(cluster.objectStore)).toEqual(before)
    await cluster.controlPlane.changeProgram(undefined)
    expect((await client.getTenant(tenant)).name).toBe(tenant)
  },
)

test.skipIf(from === undefined)(`back again, in the opposite order${without}`, async () => {
  const cluster = road as Road
  const isStaying = (node: ClusterNode): boolean =>
    node === cluster.cluster.controlPlane && isControlPlaneOneWay()
  const [first, ...others] = inOrder(cluster)
    .filter((node) => !isStaying(node))
    .reverse() as [ClusterNode, ...ClusterNode[]]
  await cluster.underLoad(async (load) => {
    await change(cluster, load, first, earlier)
    for (const node of others) await change(cluster, load, node, earlier)
    await loseCompute(cluster, load)
    await load.moreCommits(50)
  })
  await switchBackAndForth(cluster)
  await cluster.expectVerified()
})

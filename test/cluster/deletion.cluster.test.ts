/**
 * Goal: a deleted tenant is gone from every disk and from the object store, with any process killed or away during it,
 * and its name is free at once. Method: a cluster of real processes with real Postgres servers; in the end every folder
 * is looked through for anything that has the timeline's id in its name.
 */
import type { Dirent } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '@understory/base'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

let road: Road

beforeAll(async () => {
  road = await startRoad({
    safekeepers: 4,
    flags: { safekeeper: ['--offload-quiet-s', '1', '--offload-take-over-s', '1'] },
  })
})
afterAll(() => road?.[Symbol.asyncDispose]())

/** Again where folders go while they are listed. */
const listing = (root: string): Promise<Dirent[]> =>
  until('a listing', () => readdir(root, { recursive: true, withFileTypes: true }).catch(() => undefined))

/** Paths below the cluster's data directory that name a timeline. */
async function traces(timelineId: string): Promise<string[]> {
  const root = join(road.folder, 'data')
  const paths = await listing(root)
  return paths
    .map(({ parentPath, name }) => join(parentPath, name).slice(root.length))
    .filter((path) => path.includes(timelineId))
}
const gone = (timelineId: string): Promise<true> =>
  until('nothing to be left of the timeline', async () => {
    const left = await traces(timelineId)
    return left.length === 0 || undefined
  })

/** A tenant with some data, all of which is in the object store too. */
async function filled(name: string): Promise<string> {
  if (name !== road.tenant) await road.createTenant(name, 17)
  await road.query(
    'create table filled as select i, repeat(md5(i::text), 8) from generate_series(1, 20000) i',
    name,
  )
  await road.flushShards(name)
  const id = present((await road.timeline(name)).timeline?.timeline?.timelineId, 'timeline')
  await until('WAL in the object store', async () => {
    const paths = await traces(id)
    return paths.some((path) => path.startsWith('/objects/wal/') && path.includes('.partial.')) || undefined
  })
  return id
}

test('a tenant is refused to go while it runs, then goes with everything, and its name is free', async () => {
  const id = await filled(road.tenant)
  const before = await traces(id)
  for (const place of [
    '/safekeeper-',
    '/pageserver-',
    '/compute-host-',
    '/objects/wal/',
    '/objects/tenants/',
    '/objects/control/',
  ])
    expect(
      before.some((path) => path.startsWith(place)),
      place,
    ).toBe(true)
  await expect(road.client.deleteTenant(road.tenant)).rejects.toMatchObject({
    code: 'precondition',
    message: 'timeline "main" of tenant "road" has a running compute',
    hint: expect.stringContaining('--stop-compute') as string,
  })
  expect(await road.query('select count(*)::int as n from filled')).toEqual([{ n: 20_000 }])

  const { code, stderr } = await runCli(road.cluster, 'tenant', 'delete', road.tenant, '--stop-compute')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  await expect(road.client.getTenant(road.tenant)).rejects.toMatchObject({ code: 'unknown_tenant' })
  expect(await road.client.listRemovals()).toEqual([])
  await gone(id)
  await expect(road.client.deleteTenant(road.tenant)).rejects.toMatchObject({ code: 'unknown_tenant' })

  await road.createTenant(road.tenant, 17)
  expect((await road.timeline()).timeline?.timeline?.timelineId).not.toBe(id)
  expect(await road.query('select 1 as one')).toEqual([{ one: 1 }])
  await road.expectVerified()
})

test('nodes that are away remove their copies when they are back; the name is free before that', async () => {
  const id = await filled('away')
  const { spec } = await road.timeline('away')
  const of = (nodes: readonly ClusterNode[], address: string | undefined): ClusterNode =>
    present(
      nodes.find((node) => node.address === address),
      `node at ${address}`,
    )
  const away = [
    of(road.cluster.safekeepers, spec?.safekeepers[0]),
    of(road.cluster.pageservers, spec?.pageservers[0]),
  ]
  for (const node of away) await node.kill()
  await road.client.deleteTenant('away', { stopCompute: true })
  await until('all others to be done', async () => {
    const [removal] = await road.client.listRemovals()
    const names = away.map(({ nodeId }) => nodeId).toSorted()
    return removal?.waitsFor.toSorted().join() === names.join() || undefined
  })
  const left = await traces(id)
  expect(left.filter((path) => !away.some(({ nodeId }) => path.startsWith(`/${nodeId}/`)))).toEqual([])
  expect(left.length).toBeGreaterThan(0)
  await expect(road.client.getTenant('away')).rejects.toMatchObject({ code: 'unknown_tenant' })
  for (const node of away) await node.start()
  await road.client.waitForRemoval('away')
  await gone(id)
})

test('a deletion ends, with any process killed in the middle of it', async () => {
  const { controlPlane, computeHost, safekeepers, pageservers } = road.cluster
  // Each is killed once the timeline's files are gone from nodes of the kind that is named: at once where none is.
  const victims = [
    [controlPlane, undefined],
    [computeHost, undefined],
    [safekeepers[0], '/compute-host-'],
    [pageservers[0], '/safekeeper-'],
    [controlPlane, '/pageserver-'],
  ] as readonly (readonly [ClusterNode, string | undefined])[]
  for (const [i, [victim, goneFrom]] of victims.entries()) {
    const name = `victim-${i}`
    await road.createTenant(name, 17)
    await road.query('create table t as select generate_series(1, 1000) as i', name)
    const id = present((await road.timeline(name)).timeline?.timeline?.timelineId, 'timeline')
    await road.client.deleteTenant(name, { stopCompute: true })
    if (goneFrom !== undefined)
      await until(`the files to be gone from ${goneFrom}`, async () => {
        const paths = await traces(id)
        return !paths.some((path) => path.startsWith(goneFrom)) || undefined
      })
    await victim.kill()
    await victim.start()
    await road.client.waitForRemoval(name)
    await gone(id)
    // The name is free, and what has it now is another's.
    await expect(road.client.getTenant(name)).rejects.toMatchObject({ code: 'unknown_tenant' })
  }
})

test('a timeline goes by itself, and its tenant stays without it', async () => {
  await road.createTenant('single', 17)
  const id = present((await road.timeline('single')).timeline?.timeline?.timelineId, 'timeline')
  await expect(road.client.deleteTimeline('single', 'main')).rejects.toMatchObject({ code: 'precondition' })
  const { code } = await runCli(road.cluster, 'timeline', 'delete', 'single', 'main', '--stop-compute')
  expect(code).toBe(0)
  await gone(id)
  expect(await road.client.listTimelines('single')).toEqual([])
  await expect(road.client.getTimeline('single')).rejects.toMatchObject({ code: 'unknown_timeline' })
  await road.client.deleteTenant('single')
  await expect(road.client.getTenant('single')).rejects.toMatchObject({ code: 'unknown_tenant' })
})

test('what a safekeeper has that is a member no more is removed, also where it was away', async () => {
  const { timeline } = await road.timeline()
  const id = present(timeline?.timeline?.timelineId, 'timeline')
  const view = await road.client.getSafekeepers(road.tenant)
  const members = view.safekeepers.map(({ node }) => node)
  const spare = present(
    road.cluster.safekeepers.find(({ nodeId }) => !members.includes(nodeId)),
    'spare safekeeper',
  )
  const leaving = present(
    road.cluster.safekeepers.find(({ nodeId }) => nodeId === members[0]),
    'member',
  )
  const copyOf = async ({ nodeId }: ClusterNode): Promise<boolean> =>
    (await traces(id)).some((path) => path.startsWith(`/${nodeId}/`))
  await leaving.kill()
  await road.client.changeSafekeepers(road.tenant, { add: [spare.nodeId], remove: [leaving.nodeId] })
  await road.client.waitForSafekeepers(road.tenant)
  expect(await copyOf(leaving)).toBe(true)
  await leaving.start()
  await until('the copy to be removed', async () => ((await copyOf(leaving)) ? undefined : true))
  expect(await copyOf(spare)).toBe(true)

  // And back again: the copy that it pulls now must not be taken for a leftover.
  await road.client.changeSafekeepers(road.tenant, { add: [leaving.nodeId], remove: [spare.nodeId] })
  await road.client.waitForSafekeepers(road.tenant)
  await until('the other copy to be removed', async () => ((await copyOf(spare)) ? undefined : true))
  expect(await copyOf(leaving)).toBe(true)
  await road.query('create table after_all as select 1 as one')
  await road.expectVerified()
})

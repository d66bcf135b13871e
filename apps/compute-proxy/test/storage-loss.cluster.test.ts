/**
 * Goal: what the object store holds is enough, and damage is told, never served. Method: one cluster with two tenants;
 * local directories are deleted, bytes of layers flipped, files cut short, and one redo function is made wrong, and
 * each time `verify` compares every page with the primary's.
 */
import { cp, mkdir, readFile, readdir, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { basename, join, relative, resolve } from 'node:path'
import { describeError, present } from '@understory/base'
import { startProcess } from '@understory/testcontainers'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loseCompute, runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const ROOT = resolve(import.meta.dirname, '..', '..', '..')
const OTHER = 'other'

let road: Road

beforeAll(async () => {
  road = await startRoad()
  await Promise.all([road.loadTpcb(), road.createTenant(OTHER, 17)])
})
afterAll(() => road?.[Symbol.asyncDispose]())

test('pageservers whose local directories are deleted serve from the object store', async () => {
  await road.underLoad((load) => load.moreCommits(200))
  await road.flushShards()
  await road.query('update pgbench_tellers set tbalance = tbalance + 1')
  for (const node of road.cluster.pageservers) {
    await node.kill()
    await rm(node.dataDirectory, { recursive: true })
  }
  for (const node of road.cluster.pageservers) await node.start()
  await road.ingested()
  expect((await road.expectVerified()).pagesIndependent).toBeGreaterThan(0n)

  // What a rebuilt compute gets comes from there too.
  await road.underLoad((load) => loseCompute(road, load))
  expect((await road.expectVerified()).pagesFromStorage).toBeGreaterThan(0n)
})

test('one flipped byte in a layer is told with the name of the file', async () => {
  await road.flushShards()
  const { node, local, object } = await largestLayer(0)
  const whole = await readFile(local)
  const flipped = withFlippedByte(whole)
  await node.stop()
  await Promise.all([writeFile(local, flipped), writeFile(object, flipped)])
  await node.start()
  expect(await whyNotVerified()).toMatch(new RegExp(`${basename(local)}" is damaged.*checksum`))
  const cli = await runCli(road.cluster, 'timeline', 'verify', road.tenant)
  expect({ code: cli.code, names: `${cli.stdout}${cli.stderr}`.includes(basename(local)) }).toEqual({
    code: 1,
    names: true,
  })

  await node.stop()
  await Promise.all([writeFile(local, whole), writeFile(object, whole)])
  await node.start()
  await road.expectVerified()
})

test('a flipped byte in the object store is told before anything of it is served, and mended by a whole object', async () => {
  await road.flushShards()
  const { node, object } = await largestLayer(1)
  const whole = await readFile(object)
  await node.kill()
  await rm(node.dataDirectory, { recursive: true })
  await writeFile(object, withFlippedByte(whole))
  await node.start()
  await until('the damage to be told', async () => {
    const { shards } = await road.timeline()
    const failure = shards.find(({ number }) => number === 1)?.failure ?? ''
    return failure.includes(basename(object)) && failure.includes('is damaged') ? true : undefined
  })
  await road.expectVerified(OTHER)

  await writeFile(object, whole)
  await node.stop()
  await node.start()
  await road.expectVerified()
})

test('a truncated layer file is told with its name, everything else is served, and it comes back from the object store', async () => {
  await road.flushShards()
  const { node, local } = await largestLayer(0)
  const { size } = await stat(local)
  await node.stop()
  await truncate(local, Math.floor(size / 2))
  await node.start()
  const told = await until('the damage to be told', async () => {
    const { shards } = await road.timeline()
    return shards.find(({ number }) => number === 0)?.failure || undefined
  })
  expect(told).toContain(basename(local))
  expect(told).toMatch(/is damaged/)
  // Commits need no pageserver, and the other tenant's shards are as whole as before.
  await road.query('update pgbench_branches set bbalance = bbalance + 1')
  await road.expectVerified(OTHER)

  await node.stop()
  await rm(local)
  await node.start()
  await road.expectVerified()
})

test('one wrong redo function makes verify differ', async () => {
  const node = await road.pageserverOf(0)
  const source = await copyWithChange('libs/postgres/src/redo/heap/redo.ts', {
    from: 'xmax.set(page.view, at, xl_heap_update.oldXmax.get(view, main))',
    to: 'xmax.set(page.view, at, xl_heap_update.oldXmax.get(view, main) + 1)',
  })
  await node.stop()
  {
    await using _ = await startPageserver(node, source)
    await road.underLoad((load) => load.moreCommits(100))
    await road.ingested()
    const result = await road.verify()
    expect(result.differing).toBeGreaterThan(0n)
    expect(result.differences[0]).toMatch(/block \d+/)
    const cli = await runCli(road.cluster, 'timeline', 'verify', road.tenant)
    expect(cli.code).toBe(1)
    expect(cli.stdout).toMatch(/^[1-9]\d* differing$/m)
  }
  // It kept records, not pages: the right program reads them right.
  await node.start()
  await road.expectVerified()
})

/** The largest layer of the shard: the import's, of which most pages were never written again. */
async function largestLayer(shard: number): Promise<{ node: ClusterNode; local: string; object: string }> {
  const node = await road.pageserverOf(shard)
  const { tenantId, timelineId } = present((await road.timeline()).timeline?.timeline, 'timeline')
  const folder = join('tenants', tenantId, 'timelines', timelineId)
  const [own] = (await readdir(join(node.dataDirectory, folder))).filter((name) =>
    name.startsWith(`shard-${shard}-`),
  )
  const directory = join(node.dataDirectory, folder, present(own, 'shard directory'))
  const layers = (await readdir(directory)).filter((name) => !name.endsWith('.json'))
  const sizes = await Promise.all(layers.map(async (name) => (await stat(join(directory, name))).size))
  const local = join(directory, present(layers[sizes.indexOf(Math.max(...sizes))], 'layer'))
  return { node, local, object: join(road.cluster.objectStore, relative(node.dataDirectory, local)) }
}

function withFlippedByte(bytes: Buffer): Buffer {
  const flipped = Buffer.from(bytes)
  const at = bytes.length >> 1
  flipped[at] = (flipped[at] as number) ^ 0x10
  return flipped
}

async function whyNotVerified(): Promise<string> {
  try {
    const { differing, differences } = await road.verify()
    expect(differing).toBeGreaterThan(0n)
    return differences.join('\n')
  } catch (error) {
    return describeError(error)
  }
}

/** The source tree with one place changed; what it imports of itself is the copy. */
async function copyWithChange(path: string, { from, to }: { from: string; to: string }): Promise<string> {
  const copy = join(road.folder, 'source')
  await mkdir(join(copy, 'node_modules', '@understory'), { recursive: true })
  for (const room of ['apps', 'libs']) await cp(join(ROOT, room), join(copy, room), { recursive: true })
  await cp(join(ROOT, 'package.json'), join(copy, 'package.json'))
  const modules = join(ROOT, 'node_modules')
  for (const name of await readdir(modules)) {
    if (name !== '@understory' && !name.startsWith('.'))
      await symlink(join(modules, name), join(copy, 'node_modules', name))
  }
  for (const name of await readdir(join(copy, 'libs'))) {
    await symlink(join(copy, 'libs', name), join(copy, 'node_modules', '@understory', name))
  }
  const text = await readFile(join(copy, path), 'utf8')
  expect(text.split(from)).toHaveLength(2)
  await writeFile(join(copy, path), text.replace(from, to))
  return copy
}

/** The node's pageserver, run from another source tree. */
function startPageserver(node: ClusterNode, source: string) {
  return startProcess({
    name: node.nodeId,
    command: process.execPath,
    args: [
      '--disable-warning=ExperimentalWarning',
      join(source, 'apps/pageserver/src/main.ts'),
      '--node-id',
      node.nodeId,
      '--listen',
      node.address,
      '--data-dir',
      node.dataDirectory,
      '--broker',
      `grpc://${road.cluster.endpoint}`,
      '--object-store',
      road.cluster.objectStore,
    ],
    ready: /"event":"started"/,
    readyTimeoutMs: 60_000,
    parentDeathSignal: 'SIGTERM',
  })
}

/**
 * Goal: the contents of the object store are enough, and damage is reported, never served. Method: one cluster with two
 * tenants; local directories are deleted, bytes of layers flipped, files cut short, and one redo function is made
 * wrong, and each time `verify` compares every page with the primary's.
 */
import { cp, mkdir, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { describeError, present } from '@understory/base'
import { startProcess } from '@understory/testcontainers'
import type { ClusterNode } from '@understory/testcontainers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loseCompute, runCli, startRoad, until } from './cluster-support.ts'
import type { Road } from './cluster-support.ts'

const ROOT = resolve(import.meta.dirname, '..', '..')
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

  // The files of a rebuilt compute come from there too.
  await road.underLoad((load) => loseCompute(road, load))
  expect((await road.expectVerified()).pagesFromStorage).toBeGreaterThan(0n)
})

test('one flipped byte in a layer is reported with the name of the file', async () => {
  await road.flushShards()
  const { node, local, object } = await largestLayer(0)
  const whole = await readFile(object)
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

test('a flipped byte in the object store is reported before anything of it is served, and once the object is whole all continues', async () => {
  await road.flushShards()
  const { node, object } = await largestLayer(1)
  const whole = await readFile(object)
  await node.kill()
  await rm(node.dataDirectory, { recursive: true })
  await writeFile(object, withFlippedByte(whole, whole.length - IN_FOOTER))
  await node.start()
  // Tried again by the control plane, it stops again.
  await until('the damage to be reported', async () => {
    const failure = await failureOf(1)
    return failure.includes(basename(object)) && /is damaged.*\(attached again/.test(failure)
      ? true
      : undefined
  })
  await road.expectVerified(OTHER)

  await writeFile(object, whole)
  await until('the shard to continue by itself', async () => ((await failureOf(1)) === '' ? true : undefined))
  expect(road.cluster.controlPlane.log()).toContain('stopped_shard_reattached')
  await road.expectVerified()
})

test('a truncated layer file comes back from the object store by itself', async () => {
  await road.flushShards()
  const { node, local, object } = await largestLayer(0)
  const whole = await readFile(object)
  await node.stop()
  await writeFile(local, whole.subarray(0, whole.length >> 1))
  await node.start()
  await road.expectVerified()
  expect(node.log()).toMatch(new RegExp(`layer_fetched_again.*${basename(local)}`))
  expect((await stat(local)).size).toBe(whole.length)
  expect(await failureOf(0)).toBe('')
})

test('a shard whose index another writer wrote under its generation continues under a new one', async () => {
  await road.flushShards()
  const { node, object } = await largestLayer(0)
  const folder = dirname(object)
  const [index] = (await readdir(folder))
    .filter((name) => name.startsWith('index_part-'))
    .toSorted()
    .slice(-1)
  const path = join(folder, present(index, 'index'))
  await writeFile(path, `${await readFile(path, 'utf8')}\n`)
  const generationOf = async (): Promise<bigint> =>
    present(
      (await road.ingested()).find(({ shard }) => shard?.number === 0),
      'shard 0',
    ).generation
  const before = await generationOf()
  await road.query('update pgbench_branches set bbalance = bbalance + 1')
  await expect(road.flushShards()).rejects.toThrow(/is being written by another/)
  await until('the shard to continue by itself', async () => ((await failureOf(0)) === '' ? true : undefined))
  await until('a new generation', async () => ((await generationOf()) > before ? true : undefined))
  expect(node.log()).toContain('shard_stopped')
  await road.flushShards()
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

async function failureOf(shard: number): Promise<string> {
  const { shards } = await road.timeline()
  return shards.find(({ number }) => number === shard)?.failure ?? ''
}

/**
 * The largest layer of the shard: the import's, of which most pages were never written again. `local` may not be there:
 * a layer that is seldom read is read from the object store.
 */
async function largestLayer(shard: number): Promise<{ node: ClusterNode; local: string; object: string }> {
  const node = await road.pageserverOf(shard)
  const { tenantId, timelineId } = present((await road.timeline()).timeline?.timeline, 'timeline')
  const folder = join('tenants', tenantId, 'timelines', timelineId)
  const [own] = (await readdir(join(node.dataDirectory, folder))).filter((name) =>
    name.startsWith(`shard-${shard}-`),
  )
  const path = join(folder, present(own, 'shard directory'))
  const objects = join(road.cluster.objectStore, path)
  const layers = (await readdir(objects)).filter((name) => !name.startsWith('index_part-'))
  const sizes = await Promise.all(layers.map(async (name) => (await stat(join(objects, name))).size))
  const largest = present(layers[sizes.indexOf(Math.max(...sizes))], 'layer')
  return { node, local: join(node.dataDirectory, path, largest), object: join(objects, largest) }
}

/** Bytes before the end of a layer that lie in its footer, which is read when it is opened. */
const IN_FOOTER = 40

function withFlippedByte(bytes: Buffer, at = bytes.length >> 1): Buffer {
  const flipped = Buffer.from(bytes)
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

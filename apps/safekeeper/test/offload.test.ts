/**
 * Goal: committed WAL comes into the object store by itself, whole and once; stored segments are released here, and
 * readers notice nothing of it. Method: safekeepers in this process with real files, over real gRPC, on one store.
 */
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { LSN_ZERO, advance, lsnFromBigint, lsnToBigint, fail, segmentOf } from '@understory/base'
import type { Lsn } from '@understory/base'
import { jsonLog, realClock, realRng } from '@understory/env'
import { localObjectStore, memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { walFileName } from '@understory/postgres/wal'
import { callServerStream, openBidi } from '@understory/rpc'
import type { SubscribeWalRequest, SubscribeWalResponse } from '@understory/rpc'
import { readShardEntries } from '@understory/storage'
import { describe, expect, test } from 'vitest'
import { rankOf } from '../src/offload/timeline-offload.ts'
import { ChunkCache, RemoteWal } from '../src/timeline/remote-wal.ts'
import { REF, committedWal, configure, create, folder, membership, start, write } from './peers.ts'
import type { Safekeeper, SafekeeperOptions, Written } from './peers.ts'
import { IDENTITY, START } from './wal-maker.ts'

const { walSegmentBytes: segmentBytes } = IDENTITY

async function until(what: string, probe: () => Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 15_000
  while (!(await probe())) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`)
    await realClock.sleep(10)
  }
}

const localStore = (at: string): Promise<ObjectStore> =>
  localObjectStore(join(at, 'objects'), { clock: realClock, rng: realRng })
const remoteOf = (store: ObjectStore): RemoteWal => new RemoteWal(store, REF, new ChunkCache())
const nameOf = (at: Lsn): string =>
  walFileName(IDENTITY.pgTimelineId, segmentOf(at, segmentBytes), segmentBytes)
const pathOf = (at: string, safekeeper: Safekeeper): string =>
  join(at, safekeeper.nodeId, 'timelines', REF.tenantId, REF.timelineId)
const localSegments = async (path: string): Promise<string[]> =>
  (await readdir(path)).filter((name) => name.length === 24).toSorted()
const keysOf = async (store: ObjectStore): Promise<string[]> => {
  const keys: string[] = []
  for await (const { key } of store.list(`wal/${REF.tenantId}/${REF.timelineId}/`))
    keys.push(key.split('/').at(-1) as string)
  return keys
}

interface Filled extends Written {
  readonly at: string
  readonly store: ObjectStore
  readonly safekeeper: Safekeeper
  readonly endLsn: Lsn
  readonly wal: Buffer
}

/** A safekeeper with `count` committed records of 7,000 bytes: 150 fill a segment. */
async function filled(
  count: number,
  makeStore: (at: string) => Promise<ObjectStore> = localStore,
  options: Pick<SafekeeperOptions, 'offload' | 'offloadLog'> = {},
): Promise<Filled> {
  const at = await folder()
  const store = await makeStore(at)
  const safekeeper = await start('sk1', at, { store, ...options })
  await create(safekeeper)
  const { maker, leader } = await write(safekeeper, 1, count)
  return { at, store, safekeeper, maker, leader, endLsn: maker.endLsn, wal: await committedWal(safekeeper) }
}

/** Follows the only shard's stream, batch by batch without a gap, up to `endLsn`. */
async function subscribed(
  { client }: Safekeeper,
  endLsn: Lsn,
): Promise<{ readonly endLsn: Lsn; readonly entriesCount: number }> {
  const stream = openBidi<SubscribeWalRequest, SubscribeWalResponse>(client.subscribeWal.bind(client))
  await stream.send({
    message: {
      $case: 'open',
      value: {
        protocolVersion: 1,
        protocolVersionMax: 0,
        timeline: REF,
        shard: { number: 0, count: 1, stripeBlocks: 256 },
        startLsn: lsnToBigint(START),
        windowBytes: 0n,
        trackCommitTimestamp: false,
      },
    },
  })
  let at = START
  let entriesCount = 0
  for await (const { startLsn, endLsn: to, entries } of stream.messages) {
    expect(lsnFromBigint(startLsn)).toBe(at)
    entriesCount += [...readShardEntries(entries)].length
    at = lsnFromBigint(to)
    if (at >= endLsn) break
    const reached = { ingestedLsn: to, remoteConsistentLsn: to }
    await stream.send({ message: { $case: 'feedback', value: reached } })
  }
  return { endLsn: at, entriesCount }
}

describe('whole segments', () => {
  test('are stored as they are, and released but for the last', async () => {
    const { at, store, safekeeper, endLsn, wal } = await filled(800)
    const path = pathOf(at, safekeeper)
    const before = await localSegments(path)
    expect(before.length).toBeGreaterThan(5)
    safekeeper.offloader?.start()
    await until('old segments are gone', async () => (await localSegments(path)).length <= 2)
    const keys = await keysOf(store)
    expect(keys).toEqual([...before.slice(0, -1), 'timeline.json'])
    const stored = await store.get(`wal/${REF.tenantId}/${REF.timelineId}/${before[0] as string}`)
    expect(Buffer.compare(stored.bytes, wal.subarray(0, segmentBytes))).toBe(0)

    // Raw bytes and a subscription from the very beginning, over what is not here any more.
    expect(Buffer.compare(await committedWal(safekeeper), wal)).toBe(0)
    // Each record has an entry.
    expect(await subscribed(safekeeper, endLsn)).toEqual({ endLsn, entriesCount: 800 })
    expect(await remoteOf(store).readTimeline()).toEqual({
      identity: IDENTITY,
      timelineStartLsn: START,
      history: [
        { term: 0, startLsn: START },
        { term: 1, startLsn: START },
      ],
    })
  })

  test('that are not here are read from the store after a start, and need it', async () => {
    const { at, store, safekeeper, wal } = await filled(800)
    const path = pathOf(at, safekeeper)
    safekeeper.offloader?.start()
    await until('old segments are gone', async () => (await localSegments(path)).length <= 2)
    await safekeeper.stop()
    // A crash between two removals leaves what is left contiguous.
    const alone = await start('sk1', at)
    await expect(committedWal(alone)).rejects.toMatchObject({ code: 'unavailable' })
    await alone.stop()
    const again = await start('sk1', at, { store })
    expect(Buffer.compare(await committedWal(again), wal)).toBe(0)
  })

  test('stay where the store cannot be reached, and go once it can', async () => {
    const inner = memoryObjectStore()
    let isDown = true
    let refusedCount = 0
    const store = new Proxy(inner, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name)
        if (typeof value !== 'function') return value
        return (...args: unknown[]) => {
          if (isDown) {
            refusedCount++
            throw fail('unavailable', 'the store is down')
          }
          return Reflect.apply(value, target, args) as unknown
        }
      },
    })
    const said: string[] = []
    const log = jsonLog({
      also: ({ level, event }) => void said.push(`${level} ${event}`),
      write: () => undefined,
    })
    const { at, safekeeper } = await filled(500, () => Promise.resolve(store), { offloadLog: log })
    const path = pathOf(at, safekeeper)
    const before = await localSegments(path)
    safekeeper.offloader?.start()
    await until('the store was asked', () => Promise.resolve(refusedCount > 0))
    expect(await localSegments(path)).toEqual(before)
    isDown = false
    await until('old segments are gone', async () => (await localSegments(path)).length <= 2)
    // No client has to come for that.
    expect(said).toEqual(['warn object_store_not_ready', 'info object_store_ready'])
  })

  test('that are damaged here do not leave, and are reported', async () => {
    const { at, store, safekeeper } = await filled(500)
    const path = pathOf(at, safekeeper)
    const file = await open(join(path, nameOf(advance(START, segmentBytes))), 'r+')
    await file.write(Buffer.from([0xff, 0xfe]), 0, 2, 500_000)
    await file.close()
    safekeeper.offloader?.start()
    const replica = safekeeper.timelines.findReplica(REF)
    await until('the damage is met', () => Promise.resolve(replica?.damageCount !== 0))
    await until('the timeline is closed', () => Promise.resolve(replica?.state.kind === 'closed'))
    expect(await keysOf(store)).toEqual([nameOf(START), 'timeline.json'])
  })
})

describe('the last segment', () => {
  test('is stored as far as it is committed after some quiet, and replaced', async () => {
    const options = { offload: { quietMs: 50 } }
    const { store, safekeeper, maker: first, endLsn, wal } = await filled(200, localStore, options)
    safekeeper.offloader?.start()
    const partial = async () => remoteOf(store).readPartial(IDENTITY, advance(START, segmentBytes))
    await until('it is there', async () => (await partial())?.endLsn === endLsn)
    expect(Buffer.compare((await partial())?.bytes ?? Buffer.alloc(0), wal.subarray(segmentBytes))).toBe(0)

    const { maker } = await write(safekeeper, 2, 30, 7_000, first.lastRecordLsn)
    await until('the longer one is there', async () => (await partial())?.endLsn === maker.endLsn)
    // The shorter one goes after it.
    await until(
      'it alone',
      async () => (await keysOf(store)).filter((key) => key.includes('.partial.')).length === 1,
    )
    const { maker: more } = await write(safekeeper, 3, 200, 7_000, maker.lastRecordLsn)
    await until('only the newest one is left', async () => {
      const partials = (await keysOf(store)).filter((key) => key.includes('.partial.'))
      return partials.length === 1 && partials[0]?.startsWith(nameOf(more.endLsn)) === true
    })
    expect((await remoteOf(store).readTimeline())?.history.at(-1)?.term).toBe(3)
  })
})

describe('what the loss of every safekeeper costs (docs/disaster-recovery.md)', () => {
  test('less than a segment, however old, while commits continue without a pause; nothing after the pause', async () => {
    const quietMs = 1_000
    const { store, safekeeper, maker, leader } = await filled(200, localStore, { offload: { quietMs } })
    safekeeper.offloader?.start()
    const gap = async (): Promise<number> => {
      const remote = remoteOf(store)
      const wholeUntil = await remote.wholeUntil(IDENTITY, START)
      const partial = await remote.readPartial(IDENTITY, wholeUntil)
      return maker.endLsn - (partial?.endLsn ?? wholeUntil)
    }
    await until('whole segments are stored', async () => (await gap()) < segmentBytes)
    const wholeUntil = await remoteOf(store).wholeUntil(IDENTITY, START)
    const firstMs = performance.now()
    let gapMax = 0
    let pauseMaxMs = 0
    // Far longer than the pause that would have it stored, in records that do not fill the segment.
    for (let lastMs = firstMs; performance.now() - firstMs < 3 * quietMs; lastMs = performance.now()) {
      pauseMaxMs = Math.max(pauseMaxMs, performance.now() - lastMs)
      const wal = maker.records(1, 100)
      await leader.append(advance(maker.endLsn, -wal.length), wal)
      await leader.flushed(maker.endLsn)
      await leader.commit(maker.endLsn)
      gapMax = Math.max(gapMax, await gap())
    }
    expect(gapMax).toBeLessThan(segmentBytes)
    // Where this machine stood still for so long, the partial segment was stored in between, and rightly so.
    if (pauseMaxMs < quietMs) {
      expect(await remoteOf(store).wholeUntil(IDENTITY, START)).toBe(wholeUntil)
      expect(await remoteOf(store).readPartial(IDENTITY, wholeUntil)).toBeUndefined()
      expect(await gap()).toBe(maker.endLsn - wholeUntil)
    }
    await until('everything is stored', async () => (await gap()) === 0)
  })
})

describe('several safekeepers', () => {
  test('take turns by timeline, and the next one steps in for one that is gone', async () => {
    const at = await folder()
    const store = await localStore(at)
    const takeOverMs = 300
    const options = { store, offload: { takeOverMs } }
    const nodes = await Promise.all(['sk1', 'sk2', 'sk3'].map((nodeId) => start(nodeId, at, options)))
    for (const node of nodes) {
      await create(node)
      await write(node, 1, 500)
      await configure(node, membership(1, nodes))
    }
    const ranks = nodes.map(({ nodeId, timelines }) => rankOf(nodeId, REF, timelines.get(REF)))
    expect(ranks.toSorted((a, b) => a - b)).toEqual([0, 1, 2])
    const last = nodes[ranks.indexOf(2)] as Safekeeper
    const startedMs = performance.now()
    last.offloader?.start()
    await until('it steps in', async () => (await keysOf(store)).includes(nameOf(START)))
    // Its turn came after that of two others.
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(2 * takeOverMs)
  })

  test('store the same: the second one finds what the first one brought', async () => {
    const at = await folder()
    const store = await localStore(at)
    const [one, two] = [await start('sk1', at, { store }), await start('sk2', at, { store })]
    for (const node of [one, two]) {
      await create(node)
      await write(node, 1, 500)
    }
    one.offloader?.start()
    two.offloader?.start()
    for (const node of [one, two])
      await until('old segments are gone', async () => (await localSegments(pathOf(at, node))).length <= 2)
    expect(Buffer.compare(await committedWal(one), await committedWal(two))).toBe(0)
  })
})

test('a reader of a segment that is released in the meantime continues from the store', async () => {
  const { at, safekeeper, wal } = await filled(800)
  const request = { timeline: REF, startLsn: lsnToBigint(START), endLsn: 0n, term: 0n }
  const { commitLsn } = safekeeper.timelines.get(REF)
  const read = safekeeper.client.readWal.bind(safekeeper.client)
  const reading = callServerStream(read, { ...request, endLsn: lsnToBigint(commitLsn) })
  const first = await reading.next()
  safekeeper.offloader?.start()
  const path = pathOf(at, safekeeper)
  await until('old segments are gone', async () => (await localSegments(path)).length <= 2)
  const parts = [first.value?.wal ?? Buffer.alloc(0)]
  for await (const part of reading) parts.push(part.wal)
  expect(Buffer.compare(Buffer.concat(parts), wal)).toBe(0)
})

test('a store call that hangs for one timeline holds up no other', async () => {
  const at = await folder()
  const inner = memoryObjectStore()
  const hanging = Promise.withResolvers<void>()
  const release = Promise.withResolvers<void>()
  const putIfAbsent: ObjectStore['putIfAbsent'] = async (key, ...rest) => {
    if (key.includes(REF.timelineId)) {
      hanging.resolve()
      await release.promise
    }
    return inner.putIfAbsent(key, ...rest)
  }
  const store = new Proxy(inner, {
    get: (target, name) => {
      if (name === 'putIfAbsent') return putIfAbsent
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value
    },
  })
  const safekeeper = await start('sk1', at, { store })
  const other = { ...REF, timelineId: 'c'.repeat(32) }
  for (const ref of [REF, other]) {
    await create(safekeeper, ref)
    await write(safekeeper, 1, 300, 7_000, LSN_ZERO, ref)
  }
  safekeeper.offloader?.start()
  await hanging.promise
  const prefix = `wal/${other.tenantId}/${other.timelineId}/`
  await until(
    'the other timeline is stored',
    async () => (await Array.fromAsync(store.list(prefix))).length >= 2,
  )
  expect(await keysOf(store)).toEqual([])
  release.resolve()
  await until('the first one is stored', async () => (await keysOf(store)).includes(nameOf(START)))
})

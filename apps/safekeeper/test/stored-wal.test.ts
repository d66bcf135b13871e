/**
 * Goal: what the object store has of a timeline's WAL ends at its last whole record, and a safekeeper that begins with
 * nothing takes it from there. Method: segments made here, in a store in memory; a safekeeper with real files.
 */
import { advance, isErrorCode, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { expect, test } from 'vitest'
import { ChunkCache, RemoteWal } from '../src/timeline/remote-wal.ts'
import { StoredSource, closeStoredWal } from '../src/recovery/stored-wal.ts'
import { REF } from './peers.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

const { walSegmentBytes: segmentBytes } = IDENTITY
const { signal } = new AbortController()

const remoteOf = (store: ObjectStore): RemoteWal => new RemoteWal(store, REF, new ChunkCache())

async function keysOf(store: ObjectStore): Promise<string[]> {
  const keys: string[] = []
  for await (const { key } of store.list('wal/')) keys.push(key.split('/').at(-1) as string)
  return keys.toSorted()
}

interface Stored {
  readonly store: ObjectStore
  readonly wal: Buffer
  /** Where records end. */
  readonly ends: readonly Lsn[]
}

/** `segments` whole ones, within a record at the end, and of the next one `partialBytes` where there are any. */
async function stored(segments: number, partialBytes = 0): Promise<Stored> {
  const maker = new WalMaker()
  const ends: Lsn[] = []
  const parts: Uint8Array[] = []
  const wholeUntil = advance(START, segments * segmentBytes)
  while (maker.endLsn <= advance(wholeUntil, partialBytes)) {
    parts.push(maker.record(7_000))
    ends.push(maker.endLsn)
  }
  const wal = Buffer.concat(parts)
  const store = memoryObjectStore()
  const remote = remoteOf(store)
  for (let i = 0; i < segments; i++) {
    const bytes = wal.subarray(i * segmentBytes, (i + 1) * segmentBytes)
    await remote.putSegment(IDENTITY, segmentOf(START, segmentBytes) + i, bytes, signal)
  }
  if (partialBytes > 0) {
    const bytes = wal.subarray(segments * segmentBytes, segments * segmentBytes + partialBytes)
    await remote.putPartial(IDENTITY, advance(wholeUntil, partialBytes), bytes, signal)
  }
  const history = [
    { term: 0, startLsn: START },
    { term: 3, startLsn: START },
  ]
  await remote.writeTimeline({ identity: IDENTITY, timelineStartLsn: START, history }, signal)
  return { store, wal, ends }
}

const lastEnd = (ends: readonly Lsn[], atMost: Lsn): Lsn => ends.filter((end) => end <= atMost).at(-1) as Lsn

async function readAll(store: ObjectStore, endLsn: Lsn): Promise<Buffer> {
  const parts: Uint8Array[] = []
  const source = new StoredSource(remoteOf(store), { endLsn, term: 1_000 })
  for await (const part of source.read(START, endLsn, signal)) parts.push(part)
  return Buffer.concat(parts)
}

test('whole segments alone: the record that the last one cuts goes, and with it the whole segment', async () => {
  const { store, wal, ends } = await stored(3)
  const endLsn = lastEnd(ends, advance(START, 3 * segmentBytes))
  expect(await closeStoredWal(remoteOf(store), signal)).toEqual({ endLsn, term: 3 })
  const keys = await keysOf(store)
  expect(keys.filter((key) => key.length === 24)).toHaveLength(2)
  expect(keys.filter((key) => key.includes('.partial.'))).toEqual([
    `${keys[1]?.slice(0, 23)}5.partial.${endLsn.toString(16).padStart(16, '0')}`,
  ])
  expect(Buffer.compare(await readAll(store, endLsn), wal.subarray(0, endLsn - START))).toBe(0)
  expect(await closeStoredWal(remoteOf(store), signal)).toEqual({ endLsn, term: 3 })
  expect(await keysOf(store)).toEqual(keys)
})

test('a partial segment counts as far as it is whole', async () => {
  const { store, wal, ends } = await stored(2, 300_000)
  const endLsn = lastEnd(ends, advance(START, 2 * segmentBytes + 300_000))
  expect(await closeStoredWal(remoteOf(store), signal)).toEqual({ endLsn, term: 3 })
  expect(Buffer.compare(await readAll(store, endLsn), wal.subarray(0, endLsn - START))).toBe(0)

  const name = (await keysOf(store)).find((key) => key.includes('.partial.')) as string
  const key = `wal/${REF.tenantId}/${REF.timelineId}/${name}`
  const bytes = Buffer.from((await store.get(key)).bytes)
  bytes[200_000] = (bytes[200_000] as number) ^ 1
  await store.put(key, bytes)
  const damaged = await closeStoredWal(remoteOf(store), signal)
  expect(damaged.endLsn).toBe(lastEnd(ends, advance(START, 2 * segmentBytes + 200_000)))
  expect((await keysOf(store)).filter((each) => each.includes('.partial.'))).toHaveLength(1)
  const there = await readAll(store, damaged.endLsn)
  expect(Buffer.compare(there, wal.subarray(0, damaged.endLsn - START))).toBe(0)
})

test('segments behind a gap go: other WAL will come there', async () => {
  const { store, ends } = await stored(4)
  const first = segmentOf(START, segmentBytes)
  const names = (await keysOf(store)).filter((key) => key.length === 24)
  await store.delete([`wal/${REF.tenantId}/${REF.timelineId}/${names[1] as string}`])
  const { endLsn } = await closeStoredWal(remoteOf(store), signal)
  expect(endLsn).toBe(lastEnd(ends, segmentStart(first + 1, segmentBytes)))
  expect((await keysOf(store)).filter((key) => key.length === 24)).toEqual([])
})

test('an empty store is reported', async () => {
  const failure = await closeStoredWal(remoteOf(memoryObjectStore()), signal).catch((error: unknown) => error)
  expect(isErrorCode(failure, 'not_found')).toBe(true)
})

test('its recovery begins a term that no node has seen', async () => {
  const { store } = await stored(3)
  const { endLsn } = await closeStoredWal(remoteOf(store), signal)
  const source = new StoredSource(remoteOf(store), { endLsn, term: 1_000 })
  const status = await source.status(signal)
  expect(status.history).toEqual([
    { term: 0, startLsn: START },
    { term: 3, startLsn: START },
    { term: 1_000, startLsn: endLsn },
  ])
  expect(status.oldestLsn).toBe(advance(START, 2 * segmentBytes))
  expect(status.commitLsn).toBe(endLsn)
})

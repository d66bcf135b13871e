// Goal: no writer overwrites what another has published under the same generation, and a lost answer is not taken for
// another writer.
// Method: two writers of one index over a store in memory, one that loses its answers.
import type { Lsn } from '@understory/base'
import { memoryObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import type { IndexPart } from '@understory/storage'
import { expect, test } from 'vitest'
import { TENANT, TIMELINE } from '../../test/support.ts'
import { RemoteIndex } from './remote-index.ts'

const OWNER = {
  tenantId: TENANT,
  timelineId: TIMELINE,
  shard: { number: 0, count: 1, stripeBlocks: 8 },
}
const partAt = (at: number, generation = 1): IndexPart => ({
  owner: OWNER,
  generation,
  postgres: { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
  imageGeneration: { enabled: false, thresholdRecords: 32 },
  startLsn: 0x1000 as Lsn,
  readableLsn: 0x1000 as Lsn,
  consistentLsn: at as Lsn,
  nextSequence: 0,
  layers: [],
})

test('of two writers of one generation the one that does not know the newest index is refused', async () => {
  const store = memoryObjectStore(() => 0)
  const [older, newer] = [new RemoteIndex(store, OWNER), new RemoteIndex(store, OWNER)]
  await older.publish(partAt(0x2000))
  // A writer that never read the index cannot replace it.
  await expect(newer.publish(partAt(0x9000))).rejects.toMatchObject({ code: 'conflict' })
  await newer.read(1)
  await newer.publish(partAt(0x5000))
  await expect(older.publish(partAt(0x3000))).rejects.toMatchObject({ code: 'conflict' })
  await expect(older.publish(partAt(0x6000))).rejects.toMatchObject({ code: 'conflict' })
  await newer.publish(partAt(0x6000))
  expect((await new RemoteIndex(store, OWNER).read(1)).consistentLsn).toBe(0x6000)
  // Under a new generation it continues, and the other is stale.
  await older.publish(partAt(0x7000, 2))
  await expect(newer.publish(partAt(0x8000))).rejects.toMatchObject({ code: 'stale' })
})

test('a writer whose answers are lost continues, whichever of its indexes is there', async () => {
  const store = memoryObjectStore(() => 0)
  let fate: 'answered' | 'stored, no answer' | 'not stored' = 'answered'
  const lossy: ObjectStore = {
    ...store,
    list: (prefix) => store.list(prefix),
    get: (key) => store.get(key),
    putIfAbsent: (key, bytes) => put(() => store.putIfAbsent(key, bytes)),
    putIfMatch: (key, etag, bytes) => put(() => store.putIfMatch(key, etag, bytes)),
  }
  async function put<T>(work: () => Promise<T>): Promise<T> {
    if (fate === 'answered') return work()
    if (fate === 'stored, no answer') await work()
    throw new Error('connection lost')
  }
  const index = new RemoteIndex(lossy, OWNER)
  let at = 0x2000
  for (const lost of ['stored, no answer', 'not stored'] as const) {
    for (const laterFate of ['stored, no answer', 'not stored', 'answered'] as const) {
      fate = lost
      await expect(index.publish(partAt((at += 8)))).rejects.toThrow('connection lost')
      fate = laterFate
      await index.publish(partAt((at += 8))).catch(() => undefined)
      fate = 'answered'
      await index.publish(partAt((at += 8)))
      expect((await new RemoteIndex(store, OWNER).read(1)).consistentLsn).toBe(at)
    }
  }
})

/** The text of `timeline.json`, letter for letter: it is read by every later release. */
import { lsn } from '@understory/base'
import { memoryObjectStore } from '@understory/object-store'
import { walTimelineKey } from '@understory/protocol'
import { expect, test } from 'vitest'
import { ChunkCache, RemoteWal } from '../src/timeline/remote-wal.ts'
import { REF } from './peers.ts'

test('a stored timeline is written as releases before did, and is read back', async () => {
  const store = memoryObjectStore()
  const remote = new RemoteWal(store, REF, new ChunkCache())
  const timeline = {
    identity: { major: 17, systemId: 2n ** 63n, pgTimelineId: 1, walSegmentBytes: 1 << 20 },
    timelineStartLsn: lsn(1 << 20),
    history: [{ term: 3, startLsn: lsn(1 << 20) }],
  } as const
  await remote.writeTimeline(timeline, AbortSignal.timeout(10_000))
  const { bytes } = await store.get(walTimelineKey(REF))
  expect(Buffer.from(bytes).toString()).toBe(
    '{"version":1,"postgres":{"major":17,"systemId":"9223372036854775808","pgTimelineId":1,' +
      '"segmentBytes":1048576},"timelineStartLsn":1048576,"history":[{"term":3,"startLsn":1048576}]}',
  )
  expect(await remote.readTimeline()).toEqual(timeline)
})

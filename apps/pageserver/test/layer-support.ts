/** For tests: the layer store of one shard over real files and a local object store. */
import { join } from 'node:path'
import { Semaphore } from '@understory/actor'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import type { Disk, Env } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import { BlockCache } from '@understory/storage'
import type { IndexPart } from '@understory/storage'
import { onTestFinished } from 'vitest'
import { LayerRoom } from '../src/layers/layer-room.ts'
import type { LayerStoreParts } from '../src/layers/layer-store.ts'
import { ObjectChunks } from '../src/layers/object-chunks.ts'
import { ShardFiles } from '../src/layers/shard-files.ts'
import { Stalls } from '../src/layers/stalls.ts'

/** Of a shard that has no layers yet. */
export const EMPTY_INDEX: IndexPart = {
  owner: {
    tenantId: 'a'.repeat(32) as TenantId,
    timelineId: 'b'.repeat(32) as TimelineId,
    shard: { number: 0, count: 1, stripeBlocks: 8 },
  },
  generation: 1,
  postgres: { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 },
  imageGeneration: { enabled: false, thresholdRecords: 32 },
  startLsn: 0x1000 as Lsn,
  readableLsn: 0x1000 as Lsn,
  consistentLsn: 0x1000 as Lsn,
  nextSequence: 0,
  layers: [],
}

export interface LayerStoreSetup {
  readonly env: Env
  /** `local` and `objects` are below it. */
  readonly directory: string
  readonly disk?: Disk
  readonly filesBytesMax?: number | undefined
}

export const cacheOf = (store: ObjectStore): Pick<LayerStoreParts, 'cache' | 'chunks'> => ({
  cache: new BlockCache(4 << 20),
  chunks: new ObjectChunks({ store, keptBytesMax: 1 << 20 }),
})

/** Parts of a `LayerStore` of `EMPTY_INDEX`'s shard. They are closed when the test ends. */
export async function layerStoreParts({
  env,
  directory,
  disk = env.disk,
  filesBytesMax,
}: LayerStoreSetup): Promise<LayerStoreParts & { readonly room: LayerRoom }> {
  const store = await localObjectStore(join(directory, 'objects'), env)
  onTestFinished(() => store.close())
  const room = new LayerRoom({ disk, clock: env.clock, filesBytesMax })
  const files = new ShardFiles(disk, room, join(directory, 'local'), EMPTY_INDEX.owner)
  await files.make()
  const stalls = new Stalls(env)
  onTestFinished(() => stalls.stop())
  return { env, files, store, ...cacheOf(store), fetchTurns: new Semaphore(2), stalls, room }
}

/** One run: shards with the data of a source take its WAL in, and settle. */
import { join } from 'node:path'
import { bytesBetween, present } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import { isPageKey } from '@understory/storage'
import type { Key } from '@understory/storage'
import type { PostgresMajor } from '@understory/testcontainers'
import type { WalBatch } from '../../apps/pageserver/src/ingest/fragments.ts'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import { attach, batchesOf, importCluster, stateOf } from '../../apps/pageserver/test/support.ts'
import { countedDisk, countedStore, nothingWritten } from '../storage/counted.ts'
import type { Written } from '../storage/counted.ts'
import { layersTouched } from '../storage/layers-touched.ts'
import type { LayersTouched } from '../storage/layers-touched.ts'
import { NODE_LIMITS, openNode, settled } from '../storage/node.ts'
import { hasFullPageWrites } from './sources.ts'
import type { Kind, Source } from './sources.ts'

/** Time and CPU since the first batch; CPU of all threads. */
interface Moment {
  readonly seconds: number
  readonly cpuSeconds: number
}

export interface IngestRun {
  readonly kind: Kind
  readonly shards: number
  readonly round: number
  readonly walMegabytes: number
  /** Every batch is in, and may be read. */
  readonly taken: Moment
  /** All of it is in layers, on the disk and in the object store. */
  readonly durable: Moment
  /** Nothing is left to be merged, and no image to be made. */
  readonly settled: Moment
  readonly disk: Written
  readonly store: Written
  readonly generatedImages: number
  /** Of the shards together. */
  readonly layers: number
  readonly layerMegabytes: number
  /** Of the pages that the WAL changed, of the first shard. */
  readonly touched: LayersTouched
}

export interface RunOptions {
  readonly source: Source
  readonly major: PostgresMajor
  readonly shards: number
  readonly round: number
  readonly historyMs: number
  /** Records on a page after which an image of it is made. */
  readonly thresholdRecords: number
  /** Empty. */
  readonly folder: string
}

const STRIPE_BLOCKS = 256
const BATCH_BYTES = 256 * 1024

export async function runIngest(options: RunOptions): Promise<IngestRun> {
  const { source, major, shards: count, round, folder, historyMs, thresholdRecords } = options
  const { kind, directory } = source
  const [disk, store] = [nothingWritten(), nothingWritten()]
  const objects = await localObjectStore(join(folder, 'objects'), realEnv(silentLog))
  await using node = await openNode(folder, {
    disk: countedDisk(disk),
    store: countedStore(objects, store),
    limits: { ...NODE_LIMITS, compaction: { ...NODE_LIMITS.compaction, historyMs } },
  })
  const images = { enabled: !hasFullPageWrites(kind), thresholdRecords }
  const shards = await attach(node, { count, stripeBlocks: STRIPE_BLOCKS }, 1, true, images, major)
  const startLsn = await importCluster(shards, directory, major)
  await settled(node, shards)
  // As safekeepers send them; they have split the WAL.
  const batches = await Promise.all(shards.map((shard) => batchesFor(shard, directory)))
  const endLsn = present(batches[0]?.at(-1), 'batch').endLsn
  Object.assign(disk, nothingWritten())
  Object.assign(store, nothingWritten())
  const moment = startWatch()
  await Promise.all(shards.map((shard, i) => feed(shard, batches[i] as WalBatch[])))
  const taken = moment()
  await Promise.all(shards.map((shard) => shard.flush()))
  const durable = moment()
  await settled(node, shards)
  await Promise.all(shards.map((shard) => shard.upload()))
  const done = moment()
  const problems = [...node.errors, ...shards.map(({ failure }) => failure)].filter(
    (text) => text !== undefined,
  )
  if (problems.length > 0) throw new Error(`shards have failed: ${problems.join('; ')}`)
  const counts = shards.map((shard) => shard.counts)
  const first = shards[0] as Shard
  return {
    kind,
    shards: count,
    round,
    walMegabytes: bytesBetween(startLsn, endLsn) / 1e6,
    taken,
    durable,
    settled: done,
    disk,
    store,
    generatedImages: counts.reduce((sum, { generatedImagesCount }) => sum + generatedImagesCount, 0),
    layers: shards.reduce((sum, { index }) => sum + index.layers.length, 0),
    layerMegabytes: counts.reduce((sum, { layerBytes }) => sum + layerBytes, 0) / 1e6,
    touched: await layersTouched(first.reader, changedPages(first)),
  }
}

async function batchesFor(shard: Shard, directory: string): Promise<WalBatch[]> {
  const { owner, reader, ingestedLsn } = shard
  return Array.fromAsync(batchesOf(directory, owner.shard, reader.settings, ingestedLsn, BATCH_BYTES))
}

async function feed(shard: Shard, batches: readonly WalBatch[]): Promise<void> {
  for (const batch of batches) await shard.take(batch)
}

function startWatch(): () => Moment {
  const startMs = performance.now()
  const cpu = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(cpu)
    return { seconds: (performance.now() - startMs) / 1000, cpuSeconds: (user + system) / 1e6 }
  }
}

function* changedPages(shard: Shard): Generator<Key, void, void> {
  const { keys } = stateOf(shard)
  for (let id = 0; id < keys.count; id++) {
    const key = keys.keyOf(id)
    if (isPageKey(key)) yield key
  }
}

/** The event loop of a pageserver that has everything to do at once. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { present } from '@understory/base'
import { realClock } from '@understory/env'
import { PAGE_FOUND, isPageKey } from '@understory/storage'
import type { Key } from '@understory/storage'
import type { PostgresMajor } from '@understory/testcontainers'
import { streamFiles } from '../../apps/pageserver/src/serve/file-stream.ts'
import { readPages } from '../../apps/pageserver/src/serve/page-reads.ts'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import type { WalBatch } from '../../apps/pageserver/src/ingest/fragments.ts'
import { attach, batchesOf, importCluster, stateOf } from '../../apps/pageserver/test/support.ts'
import { layersTouched } from '../storage/layers-touched.ts'
import type { LayersTouched } from '../storage/layers-touched.ts'
import { NODE_LIMITS, openNode, settled } from '../storage/node.ts'
import type { StorageNode } from '../storage/node.ts'
import { quantile } from '../storage/report.ts'
import { Random } from '../workloads/random.ts'
import { loopDelayOf } from './loop-delay.ts'
import type { LoopDelay, LoopMonitor } from './loop-delay.ts'
import { attachSynthetic, syntheticOwner } from './synthetic.ts'

export interface BusyFigures {
  readonly seconds: number
  readonly walMegabytes: number
  readonly streams: number
  readonly streamedMegabytes: number
  readonly attachments: number
  readonly reads: number
  readonly readP99Us: number
  /** Files of layers that were made: frozen and merged. */
  readonly layersMade: number
  readonly layersLeft: number
  readonly generatedImages: number
  readonly loopDelay: LoopDelay
  readonly touched: LayersTouched
}

const LAYOUT = { count: 1, stripeBlocks: 256 }
const IMAGES = { enabled: true, thresholdRecords: 32 }
const BATCH_BYTES = 256 * 1024
/** So that there is more to merge than with the default of 64 MiB. */
const OPEN_LAYER_BYTES_MAX = 8 * 1024 * 1024
const SETTLED_READS = 2_000

interface Counts {
  streams: number
  streamedBytes: number
  attachments: number
  readonly readsUs: number[]
}

/** `folder` has a synthetic shard, number 0, with its objects; `source` a cluster and its WAL. */
export async function measureBusy(
  folder: string,
  source: string,
  major: PostgresMajor,
  delay: LoopMonitor,
): Promise<BusyFigures> {
  await using node = await openNode(folder, {
    limits: { ...NODE_LIMITS, openLayerBytesMax: OPEN_LAYER_BYTES_MAX },
  })
  const [shard] = (await attach(node, LAYOUT, 1, true, IMAGES, major)) as [Shard]
  await importCluster([shard], source, major)
  await settled(node, [shard])
  const { owner, reader, ingestedLsn } = shard
  const batches = await Array.fromAsync(
    batchesOf(source, owner.shard, reader.settings, ingestedLsn, BATCH_BYTES),
  )
  const firstSequence = shard.index.nextSequence
  const counts: Counts = { streams: 0, streamedBytes: 0, attachments: 0, readsUs: [] }
  globalThis.gc?.()
  delay.enable()
  const startMs = performance.now()
  const fed = new AbortController()
  const feeding = feed(shard, batches).finally(() => fed.abort())
  await Promise.all([
    feeding,
    stream(shard, counts, fed.signal),
    attachAgain(node, counts, fed.signal),
    read(shard, counts, fed.signal),
  ])
  delay.disable()
  const seconds = (performance.now() - startMs) / 1000
  await settled(node, [shard])
  if (node.errors.length > 0) throw new Error(node.errors.join('; '))
  const keys = pagesOf(shard)
  return {
    seconds,
    walMegabytes: (shard.ingestedLsn - ingestedLsn) / 1e6,
    streams: counts.streams,
    streamedMegabytes: counts.streamedBytes / 1e6,
    attachments: counts.attachments,
    reads: counts.readsUs.length,
    readP99Us: quantile(counts.readsUs, 0.99),
    layersMade: shard.index.nextSequence - firstSequence,
    layersLeft: shard.index.layers.length,
    generatedImages: shard.counts.generatedImagesCount,
    loopDelay: loopDelayOf(delay),
    touched: await layersTouched(shard.reader, draw(keys, SETTLED_READS)),
  }
}

async function feed(shard: Shard, batches: readonly WalBatch[]): Promise<void> {
  for (const batch of batches) {
    await shard.take(batch)
    // As between two messages of a stream.
    await nextTurn()
  }
}

/** Data directories, as a compute asks for that starts. */
async function stream(shard: Shard, counts: Counts, end: AbortSignal): Promise<void> {
  while (!end.aborted) {
    for await (const { piece } of streamFiles(shard.reader, shard.ingestedLsn)) {
      if (end.aborted) return
      if (piece?.$case === 'file') counts.streamedBytes += piece.value.data.length
      await nextTurn()
    }
    counts.streams++
  }
}

async function attachAgain({ registry }: StorageNode, counts: Counts, end: AbortSignal): Promise<void> {
  const { tenantId, timelineId, shard } = syntheticOwner(0)
  for (let generation = 2; !end.aborted; generation++) {
    await registry.detach(tenantId, timelineId, shard)
    await registry.attach(attachSynthetic(0, generation))
    counts.attachments++
  }
}

async function read(shard: Shard, { readsUs }: Counts, end: AbortSignal): Promise<void> {
  const random = new Random(1)
  const { signal } = new AbortController()
  let keys = pagesOf(shard)
  while (!end.aborted) {
    if (readsUs.length % 1024 === 0) keys = pagesOf(shard)
    if (keys.length === 0) {
      await nextTurn()
      continue
    }
    const key = present(keys[random.between(0, keys.length - 1)], 'page')
    const beginMs = performance.now()
    const { statuses } = await readPages(shard, [{ key, lsn: shard.ingestedLsn }], realClock, signal)
    if (statuses[0] === PAGE_FOUND) readsUs.push((performance.now() - beginMs) * 1000)
    await nextTurn()
  }
}

/** Pages that WAL has changed. */
function pagesOf(shard: Shard): Key[] {
  const { keys } = stateOf(shard)
  return Array.from({ length: keys.count }, (_, id) => keys.keyOf(id)).filter(isPageKey)
}

function draw(keys: readonly Key[], count: number): Key[] {
  const random = new Random(2)
  return Array.from({ length: count }, () => present(keys[random.between(0, keys.length - 1)], 'page'))
}

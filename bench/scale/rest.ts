/** Shards at rest: what they take to load and to keep, and what a read costs then. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '@understory/base'
import { realClock } from '@understory/env'
import { BlockCache, PAGE_FOUND } from '@understory/storage'
import { readPages } from '../../apps/pageserver/src/serve/page-reads.ts'
import type { Shard } from '../../apps/pageserver/src/shard/shard.ts'
import { layersTouched } from '../storage/layers-touched.ts'
import type { LayersTouched } from '../storage/layers-touched.ts'
import { BLOCK_CACHE_BYTES, openNode } from '../storage/node.ts'
import { quantile } from '../storage/report.ts'
import { Random } from '../workloads/random.ts'
import { loopDelayOf } from './loop-delay.ts'
import type { LoopDelay, LoopMonitor } from './loop-delay.ts'
import { SYNTHETIC_LSN, syntheticKey, unchangedBlock } from './synthetic.ts'

export interface RestFigures {
  readonly shards: number
  readonly layers: number
  readonly loadSeconds: number
  /** Heap and buffers beyond those of a process without shards; the block cache is counted apart. */
  readonly residentBytes: number
  readonly blockCacheBytes: number
  readonly rssBytes: number
  readonly firstPageMs: number
  readonly pageP50Us: number
  readonly pageP99Us: number
  readonly touched: LayersTouched
  readonly loopDelay: LoopDelay
}

const READS = 500

/** `pages` of each shard. Expects `--expose-gc`. */
export async function measureRest(
  folder: string,
  shardsCount: number,
  pages: number,
  delay: LoopMonitor,
): Promise<RestFigures> {
  // Loads the code and starts the threads.
  await (await openNode(join(folder, 'empty')))[Symbol.asyncDispose]()
  const before = await residentBytes()
  const cache = new BlockCache(BLOCK_CACHE_BYTES)
  delay.enable()
  const startMs = performance.now()
  await using node = await openNode(folder, { cache })
  const loadSeconds = (performance.now() - startMs) / 1000
  const shards = node.registry.all
  const failure = shards.map((shard) => shard.failure).find((text) => text !== undefined)
  if (shards.length !== shardsCount || failure !== undefined)
    throw new Error(`${shards.length} of ${shardsCount} shards are there; ${failure ?? node.errors.join()}`)
  await published(shards)
  delay.disable()
  const after = await residentBytes()
  const blockCacheBytes = cache.sizeBytes
  const { rss } = process.memoryUsage()
  const random = new Random(1)
  const firstPageMs = (await readOne(shards, pages, random)) / 1000
  const latenciesUs: number[] = []
  for (let i = 0; i < READS; i++) latenciesUs.push(await readOne(shards, pages, random))
  const keys = Array.from({ length: READS }, () => syntheticKey(random.between(0, pages - 1)))
  const figures: RestFigures = {
    shards: shards.length,
    layers: shards.reduce((sum, { index }) => sum + index.layers.length, 0),
    loadSeconds,
    residentBytes: after - before - blockCacheBytes,
    blockCacheBytes,
    rssBytes: rss,
    firstPageMs,
    pageP50Us: quantile(latenciesUs, 0.5),
    pageP99Us: quantile(latenciesUs, 0.99),
    touched: await layersTouched(present(shards[0], 'shard').reader, keys),
    loopDelay: loopDelayOf(delay),
  }
  return figures
}

/** Each looks at the object store once after it was loaded. */
async function published(shards: readonly Shard[]): Promise<void> {
  for (const shard of shards) await shard.upload()
}

async function residentBytes(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.()
    await sleep(50)
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** Microseconds. */
async function readOne(shards: readonly Shard[], pages: number, random: Random): Promise<number> {
  const shard = present(shards[random.between(0, shards.length - 1)], 'shard')
  const block = Math.min(unchangedBlock(random.between(0, pages - 1)), pages - 1)
  const request = { key: syntheticKey(block), lsn: SYNTHETIC_LSN }
  const beginMs = performance.now()
  const { statuses } = await readPages(shard, [request], realClock, new AbortController().signal)
  if (statuses[0] !== PAGE_FOUND) throw new Error(`page ${block} has status ${statuses[0]}`)
  return (performance.now() - beginMs) * 1000
}

/** Gauges of a pageserver's shards, read whenever metrics are collected. */
import { CHAIN_BANDS } from '../telemetry/metrics.ts'
import { labelsOf } from '../telemetry/pageserver-observer.ts'
import type { PageserverTelemetry } from '../telemetry/pageserver-observer.ts'
import type { Shard } from '../shard/shard.ts'
import type { ShardRegistry } from '../shard/shard-registry.ts'

type Metrics = PageserverTelemetry['metrics']

export function recordGauges(
  metrics: Metrics,
  { all: shards, layerFilesBytes }: Pick<ShardRegistry, 'all' | 'layerFilesBytes'>,
  nowMs: number,
): void {
  metrics.layerFilesSize.observe({}, layerFilesBytes)
  const states = { serving: 0, loading: 0, stalled: 0, stopped: 0 }
  for (const shard of shards) states[stateOf(shard)]++
  for (const state of ['serving', 'loading', 'stalled', 'stopped'] as const)
    metrics.shards.observe({ state }, states[state])
  for (const shard of shards) recordShard(metrics, shard, nowMs)
}

function stateOf({ hasFailed, isLoading, stall }: Shard): 'serving' | 'loading' | 'stalled' | 'stopped' {
  if (hasFailed) return 'stopped'
  if (isLoading) return 'loading'
  return stall === undefined ? 'serving' : 'stalled'
}

function recordShard(metrics: Metrics, shard: Shard, nowMs: number): void {
  const labels = labelsOf(shard.owner)
  const { index, counts } = shard
  const { chains, images } = counts
  metrics.walIngested.observe(labels, counts.walBytes)
  metrics.ingestedLsn.observe(labels, shard.ingestedLsn)
  metrics.ingestLag.observe(labels, Math.max(0, shard.commitLsn - shard.ingestedLsn))
  metrics.remoteLag.observe(labels, Math.max(0, shard.ingestedLsn - shard.remoteConsistentLsn))
  metrics.walImages.observe(labels, counts.walImagesCount)
  metrics.chainMax.observe(labels, chains.max)
  if (Number.isFinite(images.threshold)) metrics.chainThreshold.observe(labels, images.threshold)
  const bands = chains.bands(CHAIN_BANDS.length)
  for (const [i, records] of CHAIN_BANDS.entries())
    metrics.chainPages.observe({ ...labels, records }, bands[i] as number)
  metrics.imageQueue.observe(labels, images.queuedCount)
  metrics.imageWait.observe(labels, images.waitedMs(nowMs) / 1000)
  metrics.layers.observe(labels, index.layers.length)
  metrics.layerSize.observe(labels, counts.layerBytes)
  metrics.openLayerSize.observe(labels, counts.openLayerBytes)
}

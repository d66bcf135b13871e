/** What a pageserver tells when somebody collects: how its shards stand. */
import { CHAIN_BANDS } from '../telemetry/metrics.ts'
import { labelsOf } from '../telemetry/pageserver-observer.ts'
import type { PageserverTelemetry } from '../telemetry/pageserver-observer.ts'
import type { Shard } from '../shard/shard.ts'

type Metrics = PageserverTelemetry['metrics']

export function tellShards(metrics: Metrics, shards: readonly Shard[]): void {
  const states = { serving: 0, loading: 0, stalled: 0, stopped: 0 }
  for (const shard of shards) states[stateOf(shard)]++
  for (const state of ['serving', 'loading', 'stalled', 'stopped'] as const)
    metrics.shards.observe({ state }, states[state])
  for (const shard of shards) tellShard(metrics, shard)
}

function stateOf({ hasFailed, isLoading, stall }: Shard): 'serving' | 'loading' | 'stalled' | 'stopped' {
  if (hasFailed) return 'stopped'
  if (isLoading) return 'loading'
  return stall === undefined ? 'serving' : 'stalled'
}

function tellShard(metrics: Metrics, shard: Shard): void {
  const labels = labelsOf(shard.owner)
  const { state, index, layers, images } = shard
  metrics.walIngested.observe(labels, shard.walBytes)
  metrics.ingestedLsn.observe(labels, shard.ingestedLsn)
  metrics.ingestLag.observe(labels, Math.max(0, shard.commitLsn - shard.ingestedLsn))
  metrics.remoteLag.observe(labels, Math.max(0, shard.ingestedLsn - shard.remoteConsistentLsn))
  metrics.walImages.observe(labels, state.walImagesCount)
  const { max } = state.ledger
  metrics.chainMax.observe(labels, max)
  if (Number.isFinite(images.threshold)) metrics.chainThreshold.observe(labels, images.threshold)
  const bands = state.ledger.bands(CHAIN_BANDS.length)
  for (const [i, records] of CHAIN_BANDS.entries())
    metrics.chainPages.observe({ ...labels, records }, bands[i] as number)
  metrics.imageQueue.observe(labels, images.queuedCount)
  metrics.imageWait.observe(labels, images.waitedMs(performance.now()) / 1000)
  metrics.layers.observe(labels, index.layers.length)
  metrics.layerSize.observe(labels, layers.sizeBytes)
  metrics.openLayerSize.observe(labels, state.open.sizeBytes)
}

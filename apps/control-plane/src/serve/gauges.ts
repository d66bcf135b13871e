/** The gauges of the control plane: everything it leads, as observed when they are collected. */
import { ComputeState } from '@understory/rpc'
import type { ShardStatus } from '@understory/rpc'
import { hasDrifted } from '../reconcile/fpw-switch.ts'
import { allSafekeepers } from '../reconcile/membership-change.ts'
import { FPW_PHASES } from '../telemetry/metrics.ts'
import { NODE_KINDS } from '../documents/nodes.ts'
import type { NodeView } from '../documents/nodes.ts'
import { seenFullPageWrites } from '../reconcile/fpw-switch.ts'
import type { ControlTelemetry } from '../telemetry/reconcile-observer.ts'
import type { TimelineView } from '../reconcile/timeline-view.ts'

type Metrics = ControlTelemetry['metrics']

export function recordGauges(
  metrics: Metrics,
  views: readonly TimelineView[],
  nodes: readonly NodeView[],
): void {
  for (const kind of NODE_KINDS)
    metrics.nodes.observe({ kind }, nodes.filter((node) => node.kind === kind).length)
  metrics.tenants.observe({}, new Set(views.map(({ tenant }) => tenant.tenantId)).size)
  const ready = views.filter(({ timeline }) => timeline.bootstrapped).length
  metrics.timelines.observe({ state: 'ready' }, ready)
  metrics.timelines.observe({ state: 'being_made' }, views.length - ready)
  const computes = { open: 0, starting: 0, away: 0 }
  for (const { observed } of views) computes[phaseOf(observed.compute)]++
  for (const phase of ['open', 'starting', 'away'] as const)
    metrics.computes.observe({ phase }, computes[phase])
  const announced = new Set(nodes.map(({ nodeId }) => nodeId))
  for (const view of views) recordTimeline(metrics, view, announced)
}

function phaseOf(compute: { readonly state: ComputeState } | undefined): 'open' | 'starting' | 'away' {
  if (compute === undefined) return 'away'
  return compute.state === ComputeState.COMPUTE_STATE_RUNNING ? 'open' : 'starting'
}

function recordTimeline(
  metrics: Metrics,
  { tenant, timeline, observed }: TimelineView,
  announced: ReadonlySet<string>,
): void {
  const labels = { tenant: tenant.tenantId, timeline: timeline.timelineId }
  const away = allSafekeepers(timeline).filter((node) => !announced.has(node))
  metrics.safekeepersAway.observe(labels, away.length)
  metrics.membershipGeneration.observe(labels, timeline.membershipGeneration)
  for (const state of FPW_PHASES)
    metrics.fpwState.observe({ ...labels, state }, timeline.fpw.phase === state ? 1 : 0)
  const seen = seenFullPageWrites(observed.shards[0])
  metrics.fpwDrift.observe(labels, hasDrifted(timeline.fpw, seen) ? 1 : 0)
  observed.shards.forEach((status, number) => {
    if (status !== undefined) recordShard(metrics, { ...labels, shard: String(number) }, status)
  })
}

function recordShard(
  metrics: Metrics,
  labels: { readonly tenant: string; readonly timeline: string; readonly shard: string },
  status: ShardStatus,
): void {
  metrics.shardIngestedLsn.observe(labels, Number(status.ingestedLsn))
  metrics.shardRemoteConsistentLsn.observe(labels, Number(status.remoteConsistentLsn))
  metrics.shardWal.observe(labels, Number(status.walBytes))
  metrics.shardWalImages.observe(labels, Number(status.walImages))
  metrics.shardGeneratedImages.observe(labels, Number(status.generatedImages))
  metrics.shardChainMax.observe(labels, status.chainMax)
  metrics.shardGetPages.observe(labels, Number(status.getPages))
  metrics.shardLayers.observe(labels, status.layers)
  metrics.shardLayerBytes.observe(labels, Number(status.layerBytes))
  metrics.shardStopped.observe(labels, status.failure === '' ? 0 : 1)
}

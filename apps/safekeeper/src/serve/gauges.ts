/**
 * Gauges of a safekeeper, observed at each collection: positions of its timelines, and the lag of their subscribers.
 */
import type { Lsn } from '@understory/base'
import type { TimelineRef } from '@understory/rpc'
import { labelsOf } from '../telemetry/safekeeper-observer.ts'
import type { SafekeeperTelemetry, Subscription } from '../telemetry/safekeeper-observer.ts'
import type { Timelines } from '../timeline/timelines.ts'

type Metrics = SafekeeperTelemetry['metrics']

/** `storedUntil`: end of the timeline's WAL in the object store; undefined where there is none, or it is not known. */
export function recordTimelineGauges(
  metrics: Metrics,
  timelines: Timelines,
  storedUntil: (ref: TimelineRef) => Lsn | undefined,
): void {
  let serving = 0
  const refs = timelines.list()
  for (const ref of refs) {
    const timeline = timelines.find(ref)
    if (timeline === undefined) continue
    if (timeline.failure === undefined) serving++
    const { control, flushLsn, commitLsn } = timeline.state
    const labels = labelsOf(ref)
    metrics.flushLsn.observe(labels, flushLsn)
    metrics.commitLsn.observe(labels, commitLsn)
    metrics.walUsage.observe(labels, Math.max(0, flushLsn - timeline.oldestLsn))
    metrics.term.observe(labels, control.term)
    metrics.membershipGeneration.observe(labels, control.membershipGeneration)
    const stored = storedUntil(ref)
    if (stored !== undefined) metrics.offloadLag.observe(labels, Math.max(0, commitLsn - stored))
  }
  metrics.timelines.observe({ state: 'serving' }, serving)
  metrics.timelines.observe({ state: 'stopped' }, refs.length - serving)
}

export function recordSubscriptionGauges(
  metrics: Metrics,
  timelines: Timelines,
  subscriptions: Iterable<Subscription>,
): void {
  for (const { ref, shard, ingestedLsn, remoteConsistentLsn } of subscriptions) {
    const commitLsn = timelines.find(ref)?.commitLsn
    if (commitLsn === undefined) continue
    const labels = { ...labelsOf(ref), shard: String(shard) }
    metrics.ingestLag.observe(labels, Math.max(0, commitLsn - ingestedLsn))
    metrics.remoteLag.observe(labels, Math.max(0, commitLsn - remoteConsistentLsn))
  }
}

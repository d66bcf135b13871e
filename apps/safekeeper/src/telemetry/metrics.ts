/** Metrics of a safekeeper. */
import { FINE_SECONDS, SHARD, TIMELINE, WRITE_BYTES } from '@understory/telemetry'
import type { MetricTable } from '@understory/telemetry'

/** Why a subscription ended that its subscriber still wanted. */
const SUBSCRIPTION_REFUSALS = ['failed', 'no_room', 'unknown_wal'] as const
export type SubscriptionRefusal = (typeof SUBSCRIPTION_REFUSALS)[number]

export const METRICS = {
  walReceived: {
    name: 'understory.safekeeper.wal.received',
    unit: 'By',
    kind: 'counter',
    labels: TIMELINE,
    help: 'WAL that proposers sent',
  },
  walFlushed: {
    name: 'understory.safekeeper.wal.flushed',
    unit: 'By',
    kind: 'counter',
    labels: TIMELINE,
    help: 'WAL made durable',
  },
  walSent: {
    name: 'understory.safekeeper.wal.sent',
    unit: 'By',
    kind: 'counter',
    labels: SHARD,
    help: 'bytes of batches sent to pageserver shards',
  },
  subscriptionsRefused: {
    name: 'understory.safekeeper.subscription.refused',
    unit: '{subscription}',
    kind: 'counter',
    labels: { ...SHARD, reason: SUBSCRIPTION_REFUSALS },
    help: 'subscriptions ended here because nothing more can be sent: the timeline failed, has no room for more WAL, or comes to a record of an unknown kind',
  },
  appendDuration: {
    name: 'understory.safekeeper.append.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'from an append received until its WAL is durable',
    edges: FINE_SECONDS,
  },
  fsyncDuration: {
    name: 'understory.safekeeper.fsync.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'one write and sync of a group of appends',
    edges: FINE_SECONDS,
  },
  flushSize: {
    name: 'understory.safekeeper.flush.size',
    unit: 'By',
    kind: 'histogram',
    labels: {},
    help: 'WAL of one write and sync',
    edges: WRITE_BYTES,
  },
  flushLsn: {
    name: 'understory.safekeeper.flush_lsn',
    unit: 'By',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'end of the durable WAL',
  },
  commitLsn: {
    name: 'understory.safekeeper.commit_lsn',
    unit: 'By',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'commit position known here',
  },
  walUsage: {
    name: 'understory.safekeeper.wal.usage',
    unit: 'By',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'WAL kept on the disk',
  },
  ingestLag: {
    name: 'understory.safekeeper.ingest.lag',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'committed WAL that a subscribed shard has not ingested',
  },
  remoteLag: {
    name: 'understory.safekeeper.remote.lag',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'committed WAL that a subscribed shard has not made durable in the object store',
  },
  offloadLag: {
    name: 'understory.safekeeper.offload.lag',
    unit: 'By',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'committed WAL that is not in the object store as segments; absent without an object store',
  },
  offloadSegments: {
    name: 'understory.safekeeper.offload.segments',
    unit: '{segment}',
    kind: 'counter',
    labels: { outcome: ['stored', 'failed'] },
    help: 'segments that this safekeeper stored in the object store, or tried to',
  },
  timelines: {
    name: 'understory.safekeeper.timelines',
    unit: '{timeline}',
    kind: 'gauge',
    labels: { state: ['serving', 'stopped'] },
    help: 'timelines here; a stopped one takes no more WAL',
  },
  term: {
    name: 'understory.safekeeper.term',
    unit: '{term}',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'current term',
  },
  votes: {
    name: 'understory.safekeeper.votes',
    unit: '{vote}',
    kind: 'counter',
    labels: TIMELINE,
    help: 'votes given: elections in which this safekeeper took part',
  },
  membershipGeneration: {
    name: 'understory.safekeeper.membership.generation',
    unit: '{generation}',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'membership generation known here',
  },
} as const satisfies MetricTable

/** Metrics of a compute: what its compute-proxy sees. */
import { FINE_SECONDS, LONG_SECONDS, OPEN, SHARD, TIMELINE } from '@understory/telemetry'
import type { MetricTable } from '@understory/telemetry'

export const COMPUTE_PHASES = [
  'adopting',
  'electing',
  'rebuilding',
  'bootstrapping',
  'starting',
  'running',
  'stopping',
  'stopped',
] as const
/** The phases of a compute. */
export type ComputePhase = (typeof COMPUTE_PHASES)[number]

const SAFEKEEPER = { ...TIMELINE, safekeeper: OPEN } as const

export const METRICS = {
  walReceived: {
    name: 'understory.compute.wal.received',
    unit: 'By',
    kind: 'counter',
    labels: TIMELINE,
    help: 'WAL that Postgres sent',
  },
  walCommitted: {
    name: 'understory.compute.wal.committed',
    unit: 'By',
    kind: 'counter',
    labels: TIMELINE,
    help: 'WAL that a quorum has flushed',
  },
  quorumLag: {
    name: 'understory.compute.quorum.lag',
    unit: 'By',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'WAL handed to the safekeepers that no quorum has flushed yet',
  },
  commitDuration: {
    name: 'understory.compute.commit.duration',
    unit: 's',
    kind: 'histogram',
    labels: {},
    help: 'from WAL received from Postgres until a quorum has flushed it',
    edges: FINE_SECONDS,
  },
  safekeeperLag: {
    name: 'understory.compute.safekeeper.lag',
    unit: 'By',
    kind: 'gauge',
    labels: SAFEKEEPER,
    help: 'WAL that this safekeeper has not flushed yet',
  },
  safekeeperConnected: {
    name: 'understory.compute.safekeeper.connected',
    unit: '{safekeeper}',
    kind: 'gauge',
    labels: SAFEKEEPER,
    help: '1 while this safekeeper answers, else 0',
  },
  ingestLag: {
    name: 'understory.compute.ingest.lag',
    unit: 'By',
    kind: 'gauge',
    labels: SHARD,
    help: 'committed WAL that this shard has not ingested; absent while that is not known',
  },
  ingestLagUnknown: {
    name: 'understory.compute.ingest.lag.unknown',
    unit: '{shard}',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'shards whose lag is not known: they slow no commit',
  },
  walRateLimit: {
    name: 'understory.compute.wal.rate_limit',
    unit: 'By/s',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'WAL a second to which commits are slowed because a shard is far behind; absent while they are not',
  },
  commitHeld: {
    name: 'understory.compute.commit.held',
    unit: 's',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'for so long the oldest commit that a quorum has is held back from Postgres, to slow it; 0: none is',
  },
  term: {
    name: 'understory.compute.term',
    unit: '{term}',
    kind: 'gauge',
    labels: TIMELINE,
    help: 'term of the last election won',
  },
  elections: {
    name: 'understory.compute.elections',
    unit: '{election}',
    kind: 'counter',
    labels: { ...TIMELINE, kind: ['adopt', 'rebuild'] },
    help: 'elections won',
  },
  leadsLost: {
    name: 'understory.compute.leads_lost',
    unit: '{lead}',
    kind: 'counter',
    labels: { ...TIMELINE, reason: ['fenced', 'superseded', 'stale_membership', 'no_contact'] },
    help: 'ends of a candidacy or lead that were not asked for',
  },
  membershipChanges: {
    name: 'understory.compute.membership.changes',
    unit: '{change}',
    kind: 'counter',
    labels: TIMELINE,
    help: 'memberships of the safekeepers that were taken over while running',
  },
  phase: {
    name: 'understory.compute.phase',
    unit: '{compute}',
    kind: 'gauge',
    labels: { ...TIMELINE, phase: COMPUTE_PHASES },
    help: '1 for the phase that the compute is in, 0 for the others',
  },
  startDuration: {
    name: 'understory.compute.start.duration',
    unit: 's',
    kind: 'histogram',
    labels: { kind: ['bootstrap', 'rebuild', 'adopt'] },
    help: 'from the start of the compute, or the loss of its Postgres, until SQL is served, and commits of an adopted one continue',
    edges: LONG_SECONDS,
  },
  hosted: {
    name: 'understory.compute.hosted',
    unit: '{compute}',
    kind: 'gauge',
    labels: { state: ['running', 'fenced', 'restarting'] },
    help: 'computes of this host (only a compute host has it)',
  },
} as const satisfies MetricTable

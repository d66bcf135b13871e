/** A timeline's document with what its processes say now: what the API shows and `/metrics` renders. */
import type { Lsn } from '@understory/base'
import type { GetComputeStatusResponse, ShardStatus } from '@understory/rpc'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import { shardsOf } from './observation.ts'
import type { Observation } from './observation.ts'
import type { TimelineProblems } from './timeline-problems.ts'

export interface TimelineView {
  readonly tenant: TenantDocument
  readonly timeline: TimelineDocument
  readonly observed: {
    readonly computeAddress: string | undefined
    readonly compute: GetComputeStatusResponse | undefined
    /** By shard number; undefined where the pageserver did not answer or has no such shard. */
    readonly shards: readonly (ShardStatus | undefined)[]
    /** By shard number: what keeps it from its work, empty where nothing does or nothing is known of it. */
    readonly shardProblems: readonly string[]
    /** The cause that keeps the timeline, or its compute, from its requested state; empty where none is known. */
    readonly problem: string
  }
}

/** `reconcileProblem`: what ended the last pass early, or empty. */
export function timelineView(
  tenant: TenantDocument,
  timeline: TimelineDocument,
  { computeAddress, compute, shards: answers }: Observation,
  problems: TimelineProblems,
  reconcileProblem: string,
): TimelineView {
  const shards = shardsOf(timeline, answers)
  const shardProblems = shards.map((status, number) =>
    status === undefined ? '' : problems.shards.problemOf(number, status),
  )
  const problem = reconcileProblem || problems.compute
  return { tenant, timeline, observed: { computeAddress, compute, shards, shardProblems, problem } }
}

/** A timeline's safekeepers and the change of them. */
export interface SafekeepersView {
  readonly tenant: TenantDocument
  readonly timeline: TimelineDocument
  /** The newcomer that is furthest behind, while a change is under way. */
  readonly pull: { readonly flushLsn: Lsn; readonly goalLsn: Lsn } | undefined
}

/**
 * A timeline, and the requests for it: `control/timelines/<tenant>/<timeline>.json`, changed by
 * compare-and-swap only. Which timelines there are says the tenant's document: one that is not listed there is never
 * acted on. Positions are observed and never stored; of addresses the last known ones are, for while the broker is
 * away.
 */
import { DOCUMENT_READER, keepUnknown } from '@understory/base'
import { readPostgresMajor } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { z } from 'zod'

export const lsnText = z.string().regex(/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/)
export const hexId = z.string().regex(/^[0-9a-f]{32}$/)

const fpwStep = z.object({
  name: z.enum(['image_generation', 'setting', 'seen_in_wal', 'checkpoint', 'image_generation_off']),
  tookMs: z.number().int().nonnegative(),
  done: z.boolean(),
  lsn: lsnText,
})

/** `phase` is what the storage has seen; `wanted` what was requested. They differ while a switch is under way. */
export const fpwState = z.object({
  wanted: z.enum(['on', 'off']),
  phase: z.enum(['on', 'switching_off', 'off', 'switching_on']),
  sinceLsn: lsnText,
  steps: z.array(fpwStep),
  problem: z.string(),
  /** Grows by one with every request and every answer to drift, so that a late step of an older one changes nothing. */
  generation: z.number().int().nonnegative(),
  startedAtMs: z.number().int().nonnegative(),
  tookMs: z.number().int().nonnegative(),
})

/** Steps of a change of the safekeepers, in this order (membership-change.ts). */
const changeStep = z.object({
  name: z.enum(['pull', 'joint', 'finish', 'rollback', 'spread']),
  done: z.boolean(),
  tookMs: z.number().int().nonnegative(),
})

export const safekeeperChange = z.object({
  /** Grows by one with each change. */
  number: z.number().int().positive(),
  add: z.array(z.string()),
  remove: z.array(z.string()),
  reason: z.enum(['user', 'lost_node', 'recovery', 'stored']),
  steps: z.array(changeStep),
  problem: z.string(),
  startedAtMs: z.number().int().nonnegative(),
  /** The members are those of before. */
  isCancelled: z.boolean().default(false),
  /** Once all steps are done. */
  tookMs: z.number().int().nonnegative(),
})

const timelineDocument = z.object({
  version: z.literal(1),
  /** Programs that read less must not change it: the rules are those of `keepUnknown`. */
  minReader: z.number().int().max(DOCUMENT_READER).default(1),
  /** Of the lead under which it was written last: it is not written under a lower one. */
  epoch: z.number().int().nonnegative().default(0),
  tenantId: hexId,
  timelineId: hexId,
  /** As in the tenant's document, and never changed. */
  name: z.string(),
  /**
   * It is on its way out of its tenant's document and never changed again: because it was deleted, or because its
   * bootstrap was interrupted and begins again under another id (retirement.ts).
   */
  retired: z.enum(['deleted', 'restarted']).optional(),
  /** Absent until initdb and import are done. */
  postgres: z
    .object({
      major: z.number().int(),
      /** uint64 as text. */
      systemId: z.string(),
      pgTimelineId: z.number().int(),
      walSegmentBytes: z.number().int(),
    })
    .optional(),
  startLsn: lsnText,
  bootstrapped: z.boolean(),
  /** The members. Together with the generation and the ones to come it changes in one write. */
  safekeeperNodes: z.array(z.string()),
  membershipGeneration: z.number().int().nonnegative().default(0),
  /** During a change the members to come: then both majorities count. */
  newSafekeeperNodes: z.array(z.string()).default([]),
  /** Under way, or the last one. */
  safekeeperChange: safekeeperChange.optional(),
  /** Of safekeepers that are no longer members, with the generation with which they left: their copies are removed. */
  retiredReplicas: z
    .array(z.object({ node: z.string(), generation: z.number().int().positive() }))
    .default([]),
  /**
   * Where WAL was abandoned last, and the term that began there. A shard of an older generation than the one here, by
   * number, may hold pages of WAL beyond it.
   */
  rollback: z
    .object({
      lsn: lsnText,
      term: z.number().int().positive(),
      shardGenerations: z.array(z.number().int().positive()),
    })
    .optional(),
  /** By shard number. A generation is handed out once, before its shard is attached. */
  shards: z.array(z.object({ node: z.string(), generation: z.number().int().positive() })),
  computeHost: z.string(),
  /** Last known address of each node above, for while it is not announced. */
  addresses: z.record(z.string(), z.string()),
  sqlPort: z.number().int(),
  /** Grows whenever the spec of its compute changes. */
  specGeneration: z.number().int().nonnegative(),
  /** Of the spec that its compute was sent last, without the generation (compute-spec.ts). */
  specDigest: z.string(),
  /** Of the tenant's password that its Postgres has; 0 = none. */
  passwordGeneration: z.number().int().nonnegative().default(0),
  fpw: fpwState,
})

export type TimelineDocument = z.infer<typeof timelineDocument>
export type SafekeeperChange = z.infer<typeof safekeeperChange>
export type ChangeStepName = z.infer<typeof changeStep>['name']
export type FpwState = z.infer<typeof fpwState>
export type FpwStepName = z.infer<typeof fpwStep>['name']

/** Checks JSON of a timeline's document; fields of a newer control plane stay in it. */
export function readTimelineDocument(
  json: unknown,
): { readonly document: TimelineDocument } | { readonly problem: string } {
  const { success, data, error } = timelineDocument.safeParse(json)
  return success ? { document: keepUnknown(json, data) } : { problem: describeIssues(error) }
}

export const describeIssues = ({ issues }: z.ZodError): string =>
  issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ')

export const FPW_INITIAL: FpwState = {
  wanted: 'on',
  phase: 'on',
  sinceLsn: '0/0',
  steps: [],
  problem: '',
  generation: 0,
  startedAtMs: 0,
  tookMs: 0,
}

/** The first values of a new timeline's document, beside its names. */
export interface TimelineBeginning {
  readonly sqlPort: number
  readonly fpw: FpwState
}

/** A timeline without place, Postgres or safekeepers. */
export const newTimeline = (
  tenantId: string,
  { timelineId, name }: { readonly timelineId: string; readonly name: string },
  { sqlPort, fpw }: TimelineBeginning,
): TimelineDocument => ({
  version: 1,
  minReader: 1,
  epoch: 0,
  tenantId,
  timelineId,
  name,
  startLsn: '0/0',
  bootstrapped: false,
  safekeeperNodes: [],
  membershipGeneration: 0,
  newSafekeeperNodes: [],
  retiredReplicas: [],
  shards: [],
  computeHost: '',
  addresses: {},
  sqlPort,
  specGeneration: 0,
  specDigest: '',
  passwordGeneration: 0,
  fpw,
})

/** Undefined until the timeline is bootstrapped. */
export const identityOf = ({ postgres }: TimelineDocument): PostgresIdentity | undefined =>
  postgres === undefined
    ? undefined
    : { ...postgres, major: readPostgresMajor(postgres.major), systemId: BigInt(postgres.systemId) }

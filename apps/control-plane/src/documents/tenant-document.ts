/**
 * The one document that says what a tenant is and what is wanted of it: `control/tenants/<id>.json`, changed by
 * compare-and-swap only. What is observed (addresses, positions) is never in it.
 */
import { DOCUMENT_READER, keepUnknown } from '@understory/base'
import { readPostgresMajor } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { WAL_SEGMENT_BYTES } from '@understory/postgres/wal'
import { z } from 'zod'

const lsnText = z.string().regex(/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/)
const hexId = z.string().regex(/^[0-9a-f]{32}$/)

const fpwStep = z.object({
  name: z.enum(['image_generation', 'setting', 'seen_in_wal', 'checkpoint', 'image_generation_off']),
  tookMs: z.number().int().nonnegative(),
  done: z.boolean(),
  lsn: lsnText,
})

/** `phase` is what the storage has seen; `wanted` what was asked for. They differ while a switch is under way. */
const fpwState = z.object({
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

/** A timeline that was deleted, or a birth that was cut short: what is left to remove of it (removals.ts). */
const removal = z.object({
  timelineId: hexId,
  /** Of the timeline. */
  name: z.string(),
  computeHost: z.string(),
  /** Last known. */
  computeAddress: z.string(),
  isComputeRemoved: z.boolean(),
  shards: z.array(z.object({ node: z.string(), number: z.number().int().nonnegative() })),
  safekeeperNodes: z.array(z.string()),
})

/** Steps of a change of the safekeepers, in this order (membership-change.ts). */
const changeStep = z.object({
  name: z.enum(['pull', 'joint', 'finish', 'rollback', 'spread']),
  done: z.boolean(),
  tookMs: z.number().int().nonnegative(),
})

const safekeeperChange = z.object({
  /** Grows by one with each change. */
  number: z.number().int().positive(),
  add: z.array(z.string()),
  remove: z.array(z.string()),
  reason: z.enum(['user', 'lost_node', 'recovery', 'stored']),
  steps: z.array(changeStep),
  problem: z.string(),
  startedAtMs: z.number().int().nonnegative(),
  /** Given up: the members are those of before. */
  isCancelled: z.boolean().default(false),
  /** Once all steps are done. */
  tookMs: z.number().int().nonnegative(),
})

const timeline = z.object({
  timelineId: hexId,
  name: z.string(),
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
  /** Safekeepers that are members no more, and the generation with which they left: their copies are removed. */
  leftCopies: z.array(z.object({ node: z.string(), generation: z.number().int().positive() })).default([]),
  /**
   * Where WAL was given up last, and the term that began there. A shard of an older generation than the one here, by
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
  /** Grows whenever what its compute is told changes. */
  specGeneration: z.number().int().nonnegative(),
  /** What the compute was last told, without the generation. */
  specText: z.string(),
  /** Of the tenant's password that its Postgres has; 0 = none of them. */
  passwordGeneration: z.number().int().nonnegative().default(0),
  fpw: fpwState,
})

const tenantDocument = z.object({
  version: z.literal(1),
  /** Programs that read less must not change it: the rules are those of `keepUnknown`. */
  minReader: z.number().int().max(DOCUMENT_READER).default(1),
  /** Of the lead under which it was written last: none with a lower one writes over it. */
  epoch: z.number().int().nonnegative().default(0),
  tenantId: hexId,
  name: z.string(),
  requestId: z.string(),
  postgresMajor: z.number().int(),
  shardCount: z.number().int(),
  stripeBlocks: z.number().int(),
  imageThresholdRecords: z.number().int(),
  settings: z.record(z.string(), z.string()),
  /** Whether Postgres may be reached by TCP without TLS; so it was for every tenant before there was a choice. */
  allowsPlaintext: z.boolean().default(true),
  /**
   * What the role postgres is to have, and a number that grows with every password that is set. Absent in documents from
   * before there was one for each tenant: Postgres keeps what it has until one is set.
   */
  password: z.object({ verifier: z.string(), generation: z.number().int().positive() }).optional(),
  createdAtS: z.number().int(),
  timelines: z.array(timeline),
  removals: z.array(removal).default([]),
  /** Nobody finds it any more; it goes when its removals are done. */
  isDeleted: z.boolean().default(false),
})

export type TenantDocument = z.infer<typeof tenantDocument>

/** Checks JSON of a tenant's document; fields of a newer control plane stay in it. */
export function readTenantDocument(
  json: unknown,
): { readonly document: TenantDocument } | { readonly problem: string } {
  const { success, data, error } = tenantDocument.safeParse(json)
  if (success) return { document: keepUnknown(json, data) }
  return { problem: error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ') }
}

export type TimelineDocument = z.infer<typeof timeline>
export type Removal = z.infer<typeof removal>
export type SafekeeperChange = z.infer<typeof safekeeperChange>
export type ChangeStepName = z.infer<typeof changeStep>['name']
export type FpwState = z.infer<typeof fpwState>
export type FpwStepName = z.infer<typeof fpwStep>['name']

/** Undefined until the timeline is bootstrapped. */
export const identityOf = ({ postgres }: TimelineDocument): PostgresIdentity | undefined =>
  postgres === undefined
    ? undefined
    : { ...postgres, major: readPostgresMajor(postgres.major), systemId: BigInt(postgres.systemId) }

/** What a shard is attached with: before the timeline is bootstrapped, what its Postgres will be, but for its system id. */
export const identityToAttach = (tenant: TenantDocument, timeline: TimelineDocument): PostgresIdentity =>
  identityOf(timeline) ?? {
    major: readPostgresMajor(tenant.postgresMajor),
    systemId: 0n,
    pgTimelineId: 1,
    walSegmentBytes: WAL_SEGMENT_BYTES,
  }

/** Whether the timeline's Postgres lacks the password that was set last. */
export const isPasswordPending = ({ password }: TenantDocument, timeline: TimelineDocument): boolean =>
  timeline.passwordGeneration < (password?.generation ?? 0)

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

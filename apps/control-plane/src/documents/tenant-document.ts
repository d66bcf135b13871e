/**
 * A tenant, the timelines that it has, and the removals of those that it had:
 * `control/tenants/<id>.json`, changed by compare-and-swap only. A timeline is what its own document says
 * (timeline-document.ts).
 */
import { DOCUMENT_READER, keepUnknown } from '@understory/base'
import { readPostgresMajor } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { WAL_SEGMENT_BYTES } from '@understory/postgres/wal'
import { z } from 'zod'
import { describeIssues, fpwState, hexId, identityOf } from './timeline-document.ts'
import type { TimelineDocument } from './timeline-document.ts'

/** A timeline that was deleted, or whose bootstrap was interrupted: what is left to remove of it (removals.ts). */
export const removal = z.object({
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

/** The fields that version 1 of the document shares with version 2. */
export const tenantFields = {
  /** Programs that read less must not change it: the rules are those of `keepUnknown`. */
  minReader: z.number().int().max(DOCUMENT_READER).default(1),
  /** Of the lead under which it was written last: it is not written under a lower one. */
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
   * The verifier that the role postgres is to have, and a number that grows with every password that is set. Absent in
   * documents from before there was one for each tenant: Postgres keeps what it has until one is set.
   */
  password: z.object({ verifier: z.string(), generation: z.number().int().positive() }).optional(),
  createdAtS: z.number().int(),
  removals: z.array(removal).default([]),
  /** No request finds it; it goes when its removals are done. */
  isDeleted: z.boolean().default(false),
}

/** A timeline is listed before its document is made, and not any more before that is removed. */
const timelineEntry = z.object({
  timelineId: hexId,
  name: z.string(),
  /** The values that its document is made from. Absent once that is stored: where it is missing then, it was lost. */
  beginning: z.object({ sqlPort: z.number().int(), fpw: fpwState }).optional(),
})

const tenantDocument = z.object({
  version: z.literal(2),
  ...tenantFields,
  timelines: z.array(timelineEntry),
})

export type TenantDocument = z.infer<typeof tenantDocument>
export type TimelineEntry = z.infer<typeof timelineEntry>
export type Removal = z.infer<typeof removal>

/** Checks JSON of a tenant's document; fields of a newer control plane stay in it. */
export function readTenantDocument(
  json: unknown,
): { readonly document: TenantDocument } | { readonly problem: string } {
  const { success, data, error } = tenantDocument.safeParse(json)
  return success ? { document: keepUnknown(json, data) } : { problem: describeIssues(error) }
}

export const entryOf = (
  { timelines }: Pick<TenantDocument, 'timelines'>,
  timelineId: string,
): TimelineEntry | undefined => timelines.find((item) => item.timelineId === timelineId)

/**
 * The identity that a shard is attached with: before the timeline is bootstrapped, what its Postgres will be, but for
 * its system id.
 */
export const identityToAttach = (tenant: TenantDocument, timeline: TimelineDocument): PostgresIdentity =>
  identityOf(timeline) ?? {
    major: readPostgresMajor(tenant.postgresMajor),
    systemId: 0n,
    pgTimelineId: 1,
    walSegmentBytes: WAL_SEGMENT_BYTES,
  }

/** Whether the timeline's Postgres lacks the password that was set last. */
export const isPasswordPending = (
  { password }: Pick<TenantDocument, 'password'>,
  timeline: TimelineDocument,
): boolean => timeline.passwordGeneration < (password?.generation ?? 0)

/**
 * Version 1 of a tenant's document, which had everything of its timelines in it, and what it becomes: a document of
 * version 2 and one for each timeline. Never written; read for ever.
 */
import { keepUnknown } from '@understory/base'
import { z } from 'zod'
import { tenantFields } from './tenant-document.ts'
import type { TenantDocument } from './tenant-document.ts'
import { describeIssues, fpwState, hexId, lsnText, safekeeperChange } from './timeline-document.ts'
import type { TimelineDocument } from './timeline-document.ts'

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
  /** `retiredReplicas` of version 2. */
  leftCopies: z.array(z.object({ node: z.string(), generation: z.number().int().positive() })).default([]),
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
  /** `specDigest` of version 2. */
  specText: z.string(),
  /** Of the tenant's password that its Postgres has; 0 = none of them. */
  passwordGeneration: z.number().int().nonnegative().default(0),
  fpw: fpwState,
})

const tenantDocumentV1 = z.object({ version: z.literal(1), ...tenantFields, timelines: z.array(timeline) })

export type TenantDocumentV1 = z.infer<typeof tenantDocumentV1>

export const isVersion1 = (json: unknown): boolean =>
  typeof json === 'object' && json !== null && 'version' in json && json.version === 1

/** Checks JSON of version 1; fields of a program between then and now stay in it. */
export function readTenantDocumentV1(
  json: unknown,
): { readonly document: TenantDocumentV1 } | { readonly problem: string } {
  const { success, data, error } = tenantDocumentV1.safeParse(json)
  return success ? { document: keepUnknown(json, data) } : { problem: describeIssues(error) }
}

export function splitTenant({ timelines, ...tenant }: TenantDocumentV1): {
  readonly tenant: TenantDocument
  readonly timelines: readonly TimelineDocument[]
} {
  const { tenantId, epoch } = tenant
  return {
    tenant: {
      ...tenant,
      version: 2,
      timelines: timelines.map(({ timelineId, name }) => ({ timelineId, name })),
    },
    timelines: timelines.map(({ specText: specDigest, leftCopies: retiredReplicas, ...fields }) => ({
      version: 1,
      minReader: 1,
      epoch,
      tenantId,
      ...fields,
      specDigest,
      retiredReplicas,
    })),
  }
}

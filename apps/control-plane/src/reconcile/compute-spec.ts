/**
 * The spec of a timeline's compute: the one that the control plane sends and the one that the API shows are built here.
 */
import { createHash } from 'node:crypto'
import { writeMembership } from '@understory/protocol'
import type { ComputeSpec } from '@understory/rpc'
import { startsWithSettingOff } from './fpw-switch.ts'
import { addressOf, allSafekeepers, knownMembershipOf } from './membership-change.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'

/** Addresses are the last known ones; empty where a node was never announced. */
export const computeSpecOf = (tenant: TenantDocument, timeline: TimelineDocument): ComputeSpec => ({
  timeline: { tenantId: tenant.tenantId, timelineId: timeline.timelineId },
  postgresMajor: tenant.postgresMajor,
  bootstrap: !timeline.bootstrapped,
  safekeepers: safekeeperAddresses(timeline),
  membership: writeMembership(knownMembershipOf(timeline)),
  pageservers: timeline.shards.map(({ node }) => addressOf(timeline, node)),
  stripeBlocks: tenant.stripeBlocks,
  sqlPort: timeline.sqlPort,
  settings: tenant.settings,
  fullPageWritesOff: startsWithSettingOff(timeline.fpw),
  requireTls: !tenant.allowsPlaintext,
  specGeneration: BigInt(timeline.specGeneration),
})

/**
 * Differs whenever anything of the spec but its generation does. The order of the fields matters: documents keep it.
 */
export function specDigest({ specGeneration: _, ...spec }: ComputeSpec): string {
  const text = JSON.stringify(spec, (_key, value: unknown) =>
    typeof value === 'bigint' ? value.toString() : value,
  )
  return createHash('sha256').update(text).digest('hex')
}

/** Of all safekeepers that take part. */
export const safekeeperAddresses = (timeline: TimelineDocument): string[] =>
  allSafekeepers(timeline).map((node) => addressOf(timeline, node))

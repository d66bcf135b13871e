/** The requests to pageservers for a timeline's shards, built from its document alone. */
import { parseLsn, present } from '@understory/base'
import type { ShardToAttach } from '@understory/protocol/clients'
import type { ShardRef } from '@understory/rpc'
import type { ImageGenerationSettings } from '@understory/storage'
import { identityToAttach } from '../documents/tenant-document.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { FpwState, TimelineDocument } from '../documents/timeline-document.ts'
import { safekeeperAddresses } from './compute-spec.ts'

export const shardRefOf = ({ shardCount, stripeBlocks }: TenantDocument, number: number): ShardRef => ({
  number,
  count: shardCount,
  stripeBlocks,
})

export const imageGenerationOf = (tenant: TenantDocument, enabled: boolean): ImageGenerationSettings => ({
  enabled,
  thresholdRecords: tenant.imageThresholdRecords,
})

/** Under the generation that the document has. `create`: nothing of it is stored yet, an import follows. */
export const attachRequestOf = (
  tenant: TenantDocument,
  timeline: TimelineDocument,
  number: number,
  create: boolean,
): ShardToAttach => ({
  timeline: { tenantId: timeline.tenantId, timelineId: timeline.timelineId },
  shard: shardRefOf(tenant, number),
  generation: present(timeline.shards[number], `shard ${number}`).generation,
  postgres: identityToAttach(tenant, timeline),
  create,
  safekeepers: safekeeperAddresses(timeline),
  imageGeneration: imageGenerationOf(tenant, needsImages(timeline.fpw)),
  rollback: rollbackOf(timeline, number),
})

/** Until full_page_writes is seen to be on for good. */
const needsImages = ({ wanted, phase }: FpwState): boolean => wanted === 'off' || phase !== 'on'

/** Which WAL a shard has to discard, where some was abandoned. */
function rollbackOf({ rollback }: TimelineDocument, shard: number): ShardToAttach['rollback'] {
  const beforeGeneration = rollback?.shardGenerations[shard]
  if (rollback === undefined || beforeGeneration === undefined) return undefined
  return { lsn: parseLsn(rollback.lsn), beforeGeneration }
}

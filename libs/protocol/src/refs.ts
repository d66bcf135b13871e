/** Names of timelines and shards, checked where a message comes in. */
import { parseTenantId, parseTimelineId, fail } from '@understory/base'
import type { ShardIdentity, TenantId, TimelineId } from '@understory/base'
import type { ShardRef, TimelineRef } from '@understory/rpc'

/** A timeline's name whose ids are well formed. */
export interface TimelineName {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
}

const SHARDS_COUNT_MAX = 256
const STRIPE_BLOCKS_MAX = 2 ** 20

/** Errors: `bad_argument`. */
export function readTimelineRef(ref: TimelineRef | undefined): TimelineName {
  if (ref === undefined) throw fail('bad_argument', 'the request names no timeline')
  return { tenantId: parseTenantId(ref.tenantId), timelineId: parseTimelineId(ref.timelineId) }
}

/** Errors: `bad_argument`. */
export function readShardRef(ref: ShardRef | undefined): ShardIdentity {
  if (ref === undefined) throw fail('bad_argument', 'the request names no shard')
  const { number, count, stripeBlocks } = ref
  const isPossible =
    count >= 1 &&
    count <= SHARDS_COUNT_MAX &&
    number < count &&
    stripeBlocks >= 1 &&
    stripeBlocks <= STRIPE_BLOCKS_MAX
  if (!isPossible) {
    throw fail(
      'bad_argument',
      `shard ${number} of ${count} with stripes of ${stripeBlocks} blocks is not possible`,
    )
  }
  return { number, count, stripeBlocks }
}

/**
 * Every shard is attached to its pageserver. A pageserver that does not have its shard, or where the shard has stopped,
 * gets it under a new generation: the old one can publish no more, and a stopped shard is loaded again.
 */
import { present } from '@understory/base'
import type { ShardStatus } from '@understory/rpc'
import type { TimelineDocument } from '../../documents/timeline-document.ts'
import { shardOn } from '../observation.ts'
import { attachRequestOf } from '../shard-requests.ts'
import { SETTLED } from './step.ts'
import type { Step, StepContext, StepParts } from './step.ts'

export const shards =
  (parts: StepParts): Step =>
  async (context) => {
    const observed = await context.observe()
    let { timeline } = context
    for (const [number, { node }] of timeline.shards.entries()) {
      // Without an answer nothing is known of its shards: they may serve.
      if (observed.shards.get(node) === undefined) continue
      const here = shardOn(observed.shards, node, number)
      if (here !== undefined && !mustReattach(parts, number, node, here)) continue
      timeline = await attach(parts, { ...context, timeline }, number, here)
    }
    return timeline === context.timeline ? SETTLED : { kind: 'unsettled', timeline }
  }

async function attach(
  { clients, log, update }: StepParts,
  { tenant, timeline }: StepContext,
  number: number,
  here: ShardStatus | undefined,
): Promise<TimelineDocument> {
  // Stored before it is used: a generation is handed out once.
  const stored = await update((item) => ({
    ...item,
    shards: item.shards.map((shard, i) =>
      i === number ? { ...shard, generation: shard.generation + 1 } : shard,
    ),
  }))
  const { node, generation } = present(stored.shards[number], `shard ${number}`)
  const address = present(timeline.addresses[node], `address of ${node}`)
  try {
    await clients.attachShard(address, attachRequestOf(tenant, stored, number, !stored.bootstrapped))
    log.info('shard_attached', { shard: number, node, generation })
  } catch (error) {
    if (here === undefined) throw error
    // Everything else of the timeline continues as before.
    log.warn('shard_not_reattached', { shard: number, node, generation, error })
  }
  return stored
}

function mustReattach(
  { log, problems }: StepParts,
  number: number,
  node: string,
  { failure }: ShardStatus,
): boolean {
  if (failure === '') {
    problems.shards.noteServing(number)
    return false
  }
  if (!problems.shards.isDue(number)) return false
  const attempt = problems.shards.triesOf(number)
  log.warn('stopped_shard_reattached', { shard: number, node, attempt, failure })
  return true
}

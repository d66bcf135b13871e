/** A new timeline is given its safekeepers, pageservers and compute host. */
import { placeTimeline } from '../placement.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const place =
  ({ nodes, computes, log, update }: StepParts): Step =>
  async ({ tenant, timeline }) => {
    if (timeline.shards.length > 0) return SETTLED
    const seed = Number.parseInt(tenant.tenantId.slice(0, 6), 16)
    const announced = await nodes.list()
    const placement = placeTimeline(announced, tenant.shardCount, seed, computes.usesHosts)
    log.info('timeline_placed', { ...placement })
    const placed = new Set([...placement.safekeeperNodes, ...placement.shardNodes, placement.computeHost])
    const addresses = announced
      .filter(({ nodeId }) => placed.has(nodeId))
      .map(({ nodeId, address }) => [nodeId, address] as const)
    await update((item) =>
      item.shards.length > 0
        ? item
        : {
            ...item,
            safekeeperNodes: [...placement.safekeeperNodes],
            shards: placement.shardNodes.map((node) => ({ node, generation: 1 })),
            computeHost: placement.computeHost,
            addresses: { ...item.addresses, ...Object.fromEntries(addresses) },
          },
    )
    return { kind: 'again' }
  }

/**
 * Where a new timeline goes: up to three safekeepers (an odd number), the shards over the pageservers in turn, one
 * compute host. `seed` spreads tenants; the same input gives the same answer.
 */
import { present, fail } from '@understory/base'
import type { NodeKind, NodeView } from '../documents/nodes.ts'

const SAFEKEEPERS_MAX = 3

export interface Placement {
  readonly safekeeperNodes: readonly string[]
  /** By shard number. */
  readonly shardNodes: readonly string[]
  /** Empty where computes are not on hosts. */
  readonly computeHost: string
}

/** Errors: `unavailable` where a kind of node is missing. */
export function placeTimeline(
  nodes: readonly NodeView[],
  shardCount: number,
  seed: number,
  usesHosts = true,
): Placement {
  const ofKind = (kind: NodeKind): string[] => {
    const ids = nodes.filter((node) => node.kind === kind).map(({ nodeId }) => nodeId)
    if (ids.length === 0) {
      throw fail('unavailable', `no ${kind} is announced`, { hint: `Start at least one ${kind}.` })
    }
    return [...ids.slice(seed % ids.length), ...ids.slice(0, seed % ids.length)]
  }
  const safekeepers = ofKind('safekeeper')
  const odd = safekeepers.length >= SAFEKEEPERS_MAX ? SAFEKEEPERS_MAX : 1
  const pageservers = ofKind('pageserver')
  return {
    safekeeperNodes: safekeepers.slice(0, odd),
    shardNodes: Array.from({ length: shardCount }, (_, number) =>
      present(pageservers[number % pageservers.length], 'pageserver'),
    ),
    computeHost: usesHosts ? present(ofKind('compute-host')[0], 'compute host') : '',
  }
}

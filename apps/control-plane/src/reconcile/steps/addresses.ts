/**
 * The document has the addresses that nodes are announced with now. Without the broker those of the document count: a
 * lost compute has to come back without it.
 */
import { fail } from '@understory/base'
import type { TimelineDocument } from '../../documents/timeline-document.ts'
import { allSafekeepers } from '../membership-change.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const addresses =
  ({ nodes, update }: StepParts): Step =>
  async ({ timeline }) => {
    const needed = nodesOf(timeline)
    const announced = new Map(nodes.known().map(({ nodeId, address }) => [nodeId, address]))
    const addressOf = (node: string): string | undefined => announced.get(node) ?? timeline.addresses[node]
    const missing = needed.find((node) => addressOf(node) === undefined)
    if (missing !== undefined)
      throw fail('unavailable', `node "${missing}" is not announced`, { hint: 'Start it.' })
    const moved = needed.filter((node) => addressOf(node) !== timeline.addresses[node])
    if (moved.length === 0) return SETTLED
    const changed = Object.fromEntries(moved.map((node) => [node, addressOf(node) ?? '']))
    await update((item) => ({ ...item, addresses: { ...item.addresses, ...changed } }))
    return { kind: 'again' }
  }

const nodesOf = (timeline: TimelineDocument): readonly string[] => [
  ...allSafekeepers(timeline),
  ...(timeline.safekeeperChange?.add ?? []),
  ...timeline.shards.map(({ node }) => node),
  ...(timeline.computeHost === '' ? [] : [timeline.computeHost]),
]

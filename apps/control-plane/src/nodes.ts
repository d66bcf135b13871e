/**
 * Who is where, as the broker tells. Soft state: a node that stays away for a time is gone from here, and back at
 * its next announcement. Documents name nodes by id; addresses are looked up here whenever they are used.
 */
import { refuse } from '@understory/base'
import type { Broker } from '@understory/broker'
import { z } from 'zod'

const NODE_PREFIX = 'node/'
export const NODE_KINDS = ['safekeeper', 'pageserver', 'compute-host', 'control-plane'] as const
export type NodeKind = (typeof NODE_KINDS)[number]

const announced = z.object({ kind: z.enum(NODE_KINDS), address: z.string() })

export interface NodeView {
  readonly nodeId: string
  readonly kind: NodeKind
  /** host:port */
  readonly address: string
}

export class Nodes {
  readonly #broker: Broker

  constructor(broker: Broker) {
    this.#broker = broker
  }

  async list(): Promise<NodeView[]> {
    const views: NodeView[] = []
    for (const { key, value } of await this.#broker.list(NODE_PREFIX)) {
      const { success, data } = announced.safeParse(value)
      // What does not parse was announced by a newer or foreign program: it is no node of ours.
      if (success) views.push({ nodeId: key.slice(NODE_PREFIX.length), ...data })
    }
    return views.toSorted((a, b) => a.nodeId.localeCompare(b.nodeId))
  }

  /** Error: refused `unavailable` while the node is not announced. */
  async address(nodeId: string): Promise<string> {
    const found = (await this.list()).find((node) => node.nodeId === nodeId)
    if (found !== undefined) return found.address
    throw refuse('unavailable', `node "${nodeId}" is not announced`, {
      hint: 'Start it, and see `understory nodes`.',
    })
  }
}

/** Removes the copies of safekeepers that are no longer members of a timeline. */
import { isErrorCode } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { TimelineRef } from '@understory/rpc'
import { ifReachable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { Nodes } from '../documents/nodes.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'

/** Between two tries. */
const LOOK_MS = 5_000

export interface RetiredReplicasParts {
  readonly nodes: Pick<Nodes, 'known'>
  readonly clients: NodeClients
  readonly clock: Clock
  readonly log: Log
  readonly ref: TimelineRef
  readonly update: (change: (timeline: TimelineDocument) => TimelineDocument) => Promise<TimelineDocument>
}

export class RetiredReplicas {
  readonly #parts: RetiredReplicasParts
  #notBeforeMs = 0

  constructor(parts: RetiredReplicasParts) {
    this.#parts = parts
  }

  /**
   * The document after it. Only while no change is under way: then none of the nodes is about to pull its copy again.
   */
  async remove(timeline: TimelineDocument): Promise<TimelineDocument> {
    const { clock, log, nodes, clients, ref, update } = this.#parts
    if (timeline.retiredReplicas.length === 0 || clock.nowMs() < this.#notBeforeMs) return timeline
    this.#notBeforeMs = clock.nowMs() + LOOK_MS
    const announced = nodes.known()
    const gone: string[] = []
    for (const { node, generation } of timeline.retiredReplicas) {
      const address = announced.find(({ nodeId }) => nodeId === node)?.address
      if (address === undefined) continue
      // It is a member again by a change that this look is too old for: then the document will say so.
      const removed = clients.deleteWal(address, ref, generation).catch(undefinedWhenStale)
      if ((await ifReachable(removed.then(() => true))) !== true) continue
      gone.push(node)
      log.info('replica_removed', { node, generation })
    }
    if (gone.length === 0) return timeline
    return update((item) => ({
      ...item,
      retiredReplicas: item.retiredReplicas.filter(({ node }) => !gone.includes(node)),
    }))
  }
}

function undefinedWhenStale(error: unknown): undefined {
  if (isErrorCode(error, 'stale')) return undefined
  throw error
}

/** Notices members that have been away or damaged for long, and begins a change that replaces one of them. */
import type { Clock, Log } from '@understory/env'
import type { TimelineRef } from '@understory/rpc'
import { ifReachable, isCopyUnusable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { NodeView, Nodes } from '../documents/nodes.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import { requestChange } from './membership-change.ts'

/** Between two looks at whether every member is well. */
const HEALTH_LOOK_MS = 2_000

export interface LostMembersParts {
  readonly nodes: Pick<Nodes, 'list'>
  readonly clients: NodeClients
  readonly clock: Clock
  readonly log: Log
  readonly ref: TimelineRef
  readonly update: (change: (timeline: TimelineDocument) => TimelineDocument) => Promise<TimelineDocument>
  /** How long a member may be away or damaged, in milliseconds; 0 = for ever. */
  readonly replaceAfterMs: number
}

export class LostMembers {
  readonly #parts: LostMembersParts
  readonly #unwellSinceMs = new Map<string, number>()
  #lookedMs = -Infinity

  constructor(parts: LostMembersParts) {
    this.#parts = parts
  }

  /**
   * Begins a change where a member has been away or damaged for long, most others are well, and another node is free.
   * Returns the document as it is after that.
   */
  async replace(timeline: TimelineDocument): Promise<TimelineDocument> {
    const { clock, replaceAfterMs } = this.#parts
    const nowMs = clock.nowMs()
    if (replaceAfterMs === 0 || !timeline.bootstrapped || nowMs - this.#lookedMs < HEALTH_LOOK_MS)
      return timeline
    this.#lookedMs = nowMs
    const members = timeline.safekeeperNodes
    const isWell = await Promise.all(members.map((node) => this.#isWell(timeline, node)))
    members.forEach((node, index) => {
      if (isWell[index] === true) this.#unwellSinceMs.delete(node)
      else if (!this.#unwellSinceMs.has(node)) this.#unwellSinceMs.set(node, nowMs)
    })
    const isMajorityWell = isWell.filter(Boolean).length * 2 > members.length
    const lost = members.find(
      (node) => nowMs - (this.#unwellSinceMs.get(node) ?? nowMs) >= Math.max(1, replaceAfterMs),
    )
    if (lost === undefined || !isMajorityWell) return timeline
    const spare = await this.#spareFor(timeline)
    return spare === undefined ? timeline : this.#begin(lost, spare)
  }

  async #spareFor({ timelineId, safekeeperNodes: members }: TimelineDocument): Promise<NodeView | undefined> {
    // Without the broker no living spare is known: the replacement waits, and nothing else does.
    const spares = ((await ifReachable(this.#parts.nodes.list())) ?? [])
      .filter(({ kind, nodeId }) => kind === 'safekeeper' && !members.includes(nodeId))
      .filter(({ nodeId }) => !this.#unwellSinceMs.has(nodeId))
    return spares[Number.parseInt(timelineId.slice(0, 6), 16) % Math.max(1, spares.length)]
  }

  #begin(lost: string, spare: NodeView): Promise<TimelineDocument> {
    const { clock, log, replaceAfterMs, update } = this.#parts
    log.warn('safekeeper_replacement_started', { node: lost, by: spare.nodeId, afterMs: replaceAfterMs })
    this.#unwellSinceMs.delete(lost)
    const request = { add: [spare.nodeId], remove: [lost], reason: 'lost_node' } as const
    return update((item) => {
      const begun = requestChange(item, request, clock.wallMs())
      return begun === item
        ? item
        : { ...begun, addresses: { ...begun.addresses, [spare.nodeId]: spare.address } }
    })
  }

  async #isWell(timeline: TimelineDocument, node: string): Promise<boolean> {
    const address = timeline.addresses[node]
    if (address === undefined) return false
    const asked = this.#parts.clients.walStatus(address, this.#parts.ref)
    const status = await ifReachable(asked.catch(undefinedWhenUnusable))
    return status !== undefined && status.nodeId === node && status.failure === ''
  }
}

/** A member whose copy cannot be used counts as away. */
export function undefinedWhenUnusable(error: unknown): undefined {
  if (isCopyUnusable(error)) return undefined
  throw error
}

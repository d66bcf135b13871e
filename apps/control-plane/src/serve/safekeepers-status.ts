/** The safekeepers of a timeline as the API shows them. */
import { LSN_ZERO, lsnToBigint } from '@understory/base'
import type { Clock } from '@understory/env'
import { writeMembership } from '@understory/protocol'
import type { SafekeeperChange, SafekeeperMemberView, SafekeepersStatus } from '@understory/rpc'
import { allSafekeepers, isUnderWay, knownMembershipOf } from '../reconcile/membership-change.ts'
import { MEMBER_AWAY, memberStatus } from '../clients/member-status.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import type { SafekeepersView } from '../reconcile/timeline-view.ts'

export async function safekeepersStatus(
  { tenant, timeline, pull }: SafekeepersView,
  clients: NodeClients,
  clock: Clock,
): Promise<SafekeepersStatus> {
  const ref = { tenantId: tenant.tenantId, timelineId: timeline.timelineId }
  const shown = [
    ...new Set([
      ...allSafekeepers(timeline),
      ...(timeline.safekeeperChange?.add ?? []),
      ...(timeline.safekeeperChange?.remove ?? []),
    ]),
  ]
  const safekeepers = await Promise.all(
    shown.map(async (nodeId): Promise<SafekeeperMemberView> => {
      const address = timeline.addresses[nodeId]
      const status = address === undefined ? MEMBER_AWAY : await memberStatus(clients.walStatus(address, ref))
      return { nodeId, role: roleOf(timeline, nodeId), ...status }
    }),
  )
  const { safekeeperChange: change } = timeline
  const shownChange: SafekeeperChange | undefined =
    change === undefined
      ? undefined
      : {
          number: BigInt(change.number),
          add: change.add,
          remove: change.remove,
          reason: change.reason,
          steps: change.steps.map(({ name, done, tookMs }) => ({ name, done, tookMs: BigInt(tookMs) })),
          done: !isUnderWay(change),
          problem: change.problem,
          cancelled: change.isCancelled,
          tookMs: BigInt(
            isUnderWay(change) ? Math.max(0, clock.wallMs() - change.startedAtMs) : change.tookMs,
          ),
          pulledLsn: lsnToBigint(pull?.flushLsn ?? LSN_ZERO),
          pullGoalLsn: lsnToBigint(pull?.goalLsn ?? LSN_ZERO),
        }
  return { membership: writeMembership(knownMembershipOf(timeline)), safekeepers, change: shownChange }
}

const NO_CHANGE: { readonly add: readonly string[]; readonly remove: readonly string[] } = {
  add: [],
  remove: [],
}

function roleOf(timeline: TimelineDocument, nodeId: string): string {
  const { safekeeperNodes, newSafekeeperNodes, safekeeperChange: change } = timeline
  const { add, remove } = change !== undefined && isUnderWay(change) ? change : NO_CHANGE
  if (safekeeperNodes.includes(nodeId)) {
    const leaves = newSafekeeperNodes.length > 0 && !newSafekeeperNodes.includes(nodeId)
    return leaves || remove.includes(nodeId) ? 'leaving' : 'member'
  }
  return add.includes(nodeId) ? 'joining' : 'left'
}

/** A change of the safekeepers is carried out, and one begins where a member is lost (membership-reconciler.ts). */
import { isFromStore } from '../membership-change.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const membership =
  ({ membership: reconciler, followers }: StepParts): Step =>
  async ({ tenant, timeline, observe }) => {
    // Shards discard what is beyond the stored WAL before the change continues.
    if (isFromStore(timeline)) await followers.announce(tenant, timeline)
    const { compute } = await observe()
    const { timeline: changed, isBusy } = await reconciler.advance(timeline, compute)
    if (changed !== timeline) return { kind: 'again' }
    return isBusy ? { kind: 'wait' } : SETTLED
  }

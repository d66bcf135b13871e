/** Shards follow the safekeepers that the timeline has. */
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

/** After a change of the safekeepers. */
export const followers =
  ({ followers: shards }: StepParts): Step =>
  async ({ tenant, timeline }) => {
    await shards.announce(tenant, timeline)
    return SETTLED
  }

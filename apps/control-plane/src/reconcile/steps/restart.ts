/**
 * A bootstrap that was interrupted left WAL and pages of a cluster that is gone. It begins again under another timeline
 * id: nothing of the old cluster can mix with the next one's, even if parts of it still run.
 */
import { hexId } from '@understory/base'
import { restartTimeline } from '../retirement.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const restart =
  (parts: StepParts): Step =>
  async ({ timeline, observe }) => {
    if (timeline.bootstrapped) return SETTLED
    const { compute } = await observe()
    if (compute?.birthInterrupted !== true) return SETTLED
    const newTimeline = hexId(parts.rng.bytes(16))
    parts.log.warn('bootstrap_interrupted', { newTimeline })
    await restartTimeline(parts, parts.ref, newTimeline)
    return { kind: 'end' }
  }

/** A retired timeline leaves its tenant, where the control plane that retired it did not get so far (retirement.ts). */
import { hexId } from '@understory/base'
import { finishRetirement } from '../retirement.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const removal =
  (parts: StepParts): Step =>
  async ({ timeline }) => {
    if (timeline.retired === undefined) return SETTLED
    await finishRetirement(parts, timeline, hexId(parts.rng.bytes(16)))
    return { kind: 'end' }
  }

/**
 * Postgres gets the password that was set last. After a change of safekeepers: it needs a quorum, and not the reverse.
 */
import { isPasswordPending } from '../../documents/tenant-document.ts'
import { isOpen, runningCompute } from '../observation.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const password =
  ({ clients, log, update }: StepParts): Step =>
  async ({ tenant, timeline, observe }) => {
    const { password: wanted } = tenant
    if (wanted === undefined || !isPasswordPending(tenant, timeline)) return SETTLED
    const observed = await observe()
    if (!isOpen(observed)) return { kind: 'unsettled' }
    await clients.setPassword(runningCompute(observed), wanted)
    log.info('password_applied', { generation: wanted.generation })
    const stored = await update((item) => ({
      ...item,
      passwordGeneration: Math.max(item.passwordGeneration, wanted.generation),
    }))
    return { kind: 'settled', timeline: stored }
  }

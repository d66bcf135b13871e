/**
 * A new timeline counts as bootstrapped once its compute takes SQL: initdb and import are behind it then. After the
 * configuration was published: a bootstrapped timeline never lacks it.
 */
import { formatLsn, lsnFromBigint } from '@understory/base'
import { isOpen } from '../observation.ts'
import { SETTLED } from './step.ts'
import type { Step, StepParts } from './step.ts'

export const bootstrap =
  ({ log, update }: StepParts): Step =>
  async ({ timeline, observe }) => {
    if (timeline.bootstrapped) return SETTLED
    const observed = await observe()
    const { compute } = observed
    if (!isOpen(observed) || compute?.postgres === undefined) return { kind: 'wait' }
    const { major, systemId, pgTimelineId, walSegmentBytes } = compute.postgres
    const startLsn = formatLsn(lsnFromBigint(compute.startLsn))
    const postgres = { major, systemId: systemId.toString(), pgTimelineId, walSegmentBytes }
    const stored = await update((item) => ({ ...item, bootstrapped: true, startLsn, postgres }))
    log.info('timeline_bootstrapped', { systemId, startLsn })
    return { kind: 'settled', timeline: stored }
  }

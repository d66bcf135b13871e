/**
 * Waits for committed WAL on behalf of a subscriber. A timeline that can take no WAL does not advance while others do,
 * so no wait for it is without end: a subscriber that has everything committed here is sent to another safekeeper.
 */
import { UnderstoryError, describeError, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import type { Timeline } from '../timeline/timeline.ts'

/** Room that is short for less is waited for: the proposer comes again every half second. */
export const SHORTAGE_MS_MAX = 3_000
const LOOK_MS = 500

type Followed = Pick<Timeline, 'commitLsn' | 'failure' | 'shortage' | 'nextChange'>

/** The timeline takes no more WAL. */
export class TimelineStalledError extends UnderstoryError {
  readonly reason: 'failed' | 'no_room'

  constructor(reason: 'failed' | 'no_room', atLsn: Lsn, cause: Error) {
    super('unavailable', `this safekeeper takes no WAL after ${formatLsn(atLsn)}`, {
      detail: describeError(cause),
      hint: 'Subscribe to another member of the timeline.',
      cause,
    })
    this.reason = reason
  }
}

/**
 * Resolves once something is committed beyond `afterLsn`, or when the signal fires. Rejects with `TimelineStalledError`
 * where everything before is committed and no more can be.
 */
export async function waitForCommit(
  timeline: Followed,
  afterLsn: Lsn,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  let shortSinceMs: number | undefined
  while (timeline.commitLsn <= afterLsn && !signal.aborted) {
    const { failure, shortage } = timeline
    if (failure !== undefined) throw new TimelineStalledError('failed', timeline.commitLsn, failure)
    if (shortage === undefined) {
      shortSinceMs = undefined
      await timeline.nextChange(signal)
      continue
    }
    shortSinceMs ??= clock.nowMs()
    if (clock.nowMs() - shortSinceMs >= SHORTAGE_MS_MAX)
      throw new TimelineStalledError('no_room', timeline.commitLsn, shortage)
    // No event reports that there is room again, so it is polled.
    const look = new AbortController()
    const timer = clock.setTimer(LOOK_MS, () => look.abort())
    await timeline.nextChange(AbortSignal.any([signal, look.signal]))
    timer.cancel()
  }
}

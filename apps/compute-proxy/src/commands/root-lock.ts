/** The lock on a compute's folder. */
import { isErrorCode } from '@understory/base'
import { lockFolder, realDisk } from '@understory/env'
import type { Clock, FolderLock, Log } from '@understory/env'
import { hostFiles } from '../postgres/layout.ts'
import { endOldPostgres } from '../postgres/postgres.ts'

/** Longer than a compute whose host died takes to stop. */
const LOCK_WAIT_MS = 20_000
const LOCK_POLL_MS = 50

/**
 * Two computes on one folder would end each other's Postgres and write one PGDATA from two positions. The one before,
 * whose host died, stops by itself: it is waited for. Where it does not, it is frozen, and its Postgres continues to
 * serve reads that may be stale (I2): that is ended. Errors: `precondition` then.
 *
 * @param root as the kernel names it
 */
export async function lockRoot(root: string, clock: Clock, log: Log): Promise<FolderLock> {
  const untilMs = clock.nowMs() + LOCK_WAIT_MS
  for (let attempt = 0; ; attempt++) {
    try {
      const lock = await lockFolder(root)
      await realDisk.removeLeftovers(root)
      return lock
    } catch (error) {
      if (!isErrorCode(error, 'precondition')) throw error
      if (clock.nowMs() > untilMs) {
        log.warn('folder_not_released', { root })
        await endOldPostgres({ files: hostFiles(root), clock, log })
        throw error
      }
    }
    if (attempt === 0) log.info('waiting_for_folder', { root })
    await clock.sleep(LOCK_POLL_MS)
  }
}

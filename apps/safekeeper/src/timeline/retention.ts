/**
 * The WAL that a timeline keeps here: whole segments that are in the object store are released, and so is what an idle
 * timeline holds.
 */
import type { Mailbox } from '@understory/actor'
import { LSN_ZERO, advance, assert, formatLsn, minLsn, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Disk } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { AcceptorRunner } from './acceptor-runner.ts'
import type { WalQuota } from './wal-quota.ts'
import type { WalReader } from './wal-reader.ts'

export interface RetentionParts {
  readonly disk: Disk
  readonly folder: string
  readonly identity: PostgresIdentity
  readonly mailbox: Mailbox
  readonly reader: WalReader
  readonly quota: WalQuota
  readonly acceptor: AcceptorRunner
}

export class Retention {
  readonly #parts: RetentionParts
  #seenFlushLsn = LSN_ZERO
  #releasedLsn = LSN_ZERO

  constructor(parts: RetentionParts) {
    this.#parts = parts
  }

  /** As `Timeline.trim`. */
  async trim(lsn: Lsn): Promise<void> {
    const { mailbox, reader } = this.#parts
    if (lsn <= reader.oldestLsn || !reader.hasRemote) return
    await mailbox.run(() => this.#trim(lsn))
  }

  async #trim(lsn: Lsn): Promise<void> {
    const { identity, reader, quota, acceptor } = this.#parts
    assert(
      lsn <= acceptor.state.commitLsn,
      () => `I1: ${formatLsn(lsn)} is not committed, so it is not released`,
    )
    const durableLsn = await this.#durableCommit(lsn)
    // The next start looks for the end of the WAL in the segment that holds the last byte before that (end-of-wal.ts).
    const { walSegmentBytes: segmentBytes } = identity
    const neededLsn = segmentStart(segmentOf(advance(durableLsn, -1), segmentBytes), segmentBytes)
    const oldestLsn = minLsn(lsn, neededLsn)
    if (oldestLsn <= reader.oldestLsn) return
    await reader.releaseBefore(oldestLsn)
    quota.reserve()
  }

  /** The commit position in the control file, which is brought past `lsn` where it can be. */
  async #durableCommit(lsn: Lsn): Promise<Lsn> {
    const { acceptor } = this.#parts
    if (acceptor.state.control.commitLsn <= lsn && acceptor.failure === undefined) {
      try {
        await acceptor.rememberCommit()
      } catch (error) {
        acceptor.fail(error)
        throw error
      }
    }
    return acceptor.state.control.commitLsn
  }

  /** As `Timeline.releaseIdle`. */
  async releaseIdle(): Promise<void> {
    const { mailbox, reader, acceptor } = this.#parts
    await this.#lookForRoom()
    const { flushLsn } = acceptor.state
    const isIdle = flushLsn === this.#seenFlushLsn
    this.#seenFlushLsn = flushLsn
    if (!isIdle || flushLsn === this.#releasedLsn || acceptor.failure !== undefined) return
    await mailbox.run(async () => {
      if (acceptor.state.flushLsn !== flushLsn || !acceptor.isIdle) return
      this.#releasedLsn = flushLsn
      await reader.releaseIdle()
    })
  }

  /** Without appends, nothing else finds out that a disk has room again. */
  async #lookForRoom(): Promise<void> {
    const { disk, folder, identity, quota, acceptor } = this.#parts
    if (!quota.isDiskFull || acceptor.owesControl) return
    const freeBytes = await disk.freeBytes(folder).catch(() => 0)
    if (freeBytes > identity.walSegmentBytes) quota.cleared()
  }
}

/** Owns how much WAL a shard has gone through and how much is committed: takes the batches in, one after another. */
import type { Mailbox } from '@understory/actor'
import { LSN_ZERO, formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { WalBatch } from '../ingest/fragments.ts'
import type { WalConsumer } from '../ingest/wal-subscriber.ts'
import type { ShardWork } from './connect-parts.ts'
import type { ShardCondition } from './shard-condition.ts'

export class WalIntake implements WalConsumer {
  readonly #work: ShardWork
  readonly #mailbox: Mailbox
  readonly #condition: ShardCondition
  readonly #onProgress: () => void
  #walBytes = 0
  #commitLsn: Lsn = LSN_ZERO

  constructor(work: ShardWork, mailbox: Mailbox, condition: ShardCondition, onProgress: () => void) {
    this.#work = work
    this.#mailbox = mailbox
    this.#condition = condition
    this.#onProgress = onProgress
  }

  /** WAL of the timeline that the shard has gone through. */
  get walBytes(): number {
    return this.#walBytes
  }
  /** Commit position as last reported. */
  get commitLsn(): Lsn {
    return this.#commitLsn
  }
  get ingestedLsn(): Lsn {
    return this.#work.state.ingestedLsn
  }
  get remoteConsistentLsn(): Lsn {
    return this.#work.layers.uploads.remoteConsistentLsn
  }
  get trackCommitTimestamp(): boolean {
    return this.#work.state.settings.trackCommitTimestamp === true
  }
  get hasFailed(): boolean {
    return this.#condition.hasFailed
  }
  stopFor(error: Error): void {
    this.#condition.fail(error)
  }

  /** The next batch. Errors: `unavailable` where it does not begin where ingest is. */
  take(batch: WalBatch): Promise<void> {
    return this.#mailbox.run(async () => {
      if (this.#condition.isOver) throw fail('cancelled', 'shard has stopped')
      const { startLsn, endLsn, commitLsn, entries } = batch
      if (startLsn !== this.ingestedLsn || endLsn < startLsn) {
        // Not a failure of the shard: another safekeeper may do better.
        const range = `${formatLsn(startLsn)} to ${formatLsn(endLsn)}`
        throw fail('unavailable', `batch of ${range} does not continue ${formatLsn(this.ingestedLsn)}`)
      }
      await this.#apply(entries, endLsn)
      this.#walBytes += endLsn - startLsn
      if (commitLsn > this.#commitLsn) this.#commitLsn = commitLsn
      this.#onProgress()
      await this.#work.flow.freezeFull()
    })
  }
  async #apply(entries: Uint8Array, endLsn: Lsn): Promise<void> {
    const { observer, ingest } = this.#work
    const { clock } = this.#work.env
    const startMs = observer === undefined ? 0 : clock.nowMs()
    try {
      await ingest.apply(entries, endLsn)
      observer?.ingested(clock.nowMs() - startMs, entries.length)
    } catch (error) {
      this.#condition.fail(error)
      throw error
    }
  }
}

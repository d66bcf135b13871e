/** Entries of a batch that comes in several messages: a record may be larger than one. */
import { lsnFromBigint, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { RECORD_BYTES_MAX } from '@understory/postgres/wal'

/** Of entries: those of the largest record that Postgres makes, and the rest of a batch. */
const BATCH_BYTES_MAX = RECORD_BYTES_MAX + 64 * 1024 * 1024

export interface WalBatch {
  readonly startLsn: Lsn
  readonly endLsn: Lsn
  readonly commitLsn: Lsn
  readonly entries: Uint8Array
}

interface BatchMessage {
  readonly startLsn: bigint
  readonly endLsn: bigint
  readonly commitLsn: bigint
  readonly entries: Uint8Array
  readonly moreFollows: boolean
}

export class Fragments {
  #parts: Uint8Array[] = []
  #bytes = 0

  /** The batch, once nothing more follows. Errors: `bad_wal` where it is more than any record can be. */
  add({ startLsn, endLsn, commitLsn, entries, moreFollows }: BatchMessage): WalBatch | undefined {
    const whole = this.#gather(entries, moreFollows)
    return (
      whole && {
        startLsn: lsnFromBigint(startLsn),
        endLsn: lsnFromBigint(endLsn),
        commitLsn: lsnFromBigint(commitLsn),
        entries: whole,
      }
    )
  }

  #gather(fragment: Uint8Array, moreFollows: boolean): Uint8Array | undefined {
    if (!moreFollows && this.#parts.length === 0) return fragment
    this.#parts.push(fragment)
    this.#bytes += fragment.length
    if (this.#bytes > BATCH_BYTES_MAX)
      throw fail('bad_wal', `a batch of the shard stream has more than ${BATCH_BYTES_MAX} bytes`)
    if (moreFollows) return undefined
    const whole = Buffer.concat(this.#parts)
    this.#parts = []
    this.#bytes = 0
    return whole
  }
}

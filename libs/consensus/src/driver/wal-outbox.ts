/** The WAL that a leader was handed in: kept until it is trimmed, and read back for each append without a copy. */
import { assert } from '@understory/base'
import type { Lsn } from '@understory/base'
import { WalBuffer } from '../wal-buffer.ts'
import type { WalRange } from '../wal-buffer.ts'

export interface OutboxOwner {
  /** Runs `work` after the caller has handed in all that it has at hand. */
  defer(work: () => void): void
  /** Once for all that was handed in since the last time. */
  grown(endLsn: Lsn, recordEndLsn: Lsn): void
}

export class WalOutbox {
  readonly #owner: OutboxOwner
  readonly #buffer: WalBuffer
  #recordEndLsn: Lsn
  #isDeferred = false
  #lastRead: { readonly startLsn: Lsn; readonly endLsn: Lsn; readonly range: WalRange } | undefined

  /** Empty, where the term begins. */
  constructor(startLsn: Lsn, owner: OutboxOwner) {
    this.#owner = owner
    this.#buffer = new WalBuffer(startLsn)
    this.#recordEndLsn = startLsn
  }

  get endLsn(): Lsn {
    return this.#buffer.endLsn
  }
  /** The last record end that is known, at most `endLsn`. */
  get recordEndLsn(): Lsn {
    return this.#recordEndLsn
  }

  push(startLsn: Lsn, bytes: Uint8Array, recordEndLsn: Lsn): void {
    this.#buffer.push(startLsn, bytes, recordEndLsn)
    this.#recordEndLsn = recordEndLsn
    if (this.#isDeferred) return
    this.#isDeferred = true
    // All messages of one read from Postgres are handed in first: they leave as one append.
    this.#owner.defer(this.#report)
  }

  readonly #report = (): void => {
    this.#isDeferred = false
    this.#owner.grown(this.endLsn, this.#recordEndLsn)
  }

  /** Mostly all safekeepers are sent the same range, one right after the other. */
  read(startLsn: Lsn, endLsn: Lsn): WalRange {
    const last = this.#lastRead
    if (last !== undefined && last.startLsn === startLsn && last.endLsn === endLsn) return last.range
    const range = this.#buffer.read(startLsn, endLsn)
    this.#lastRead = { startLsn, endLsn, range }
    return range
  }

  trim(lsn: Lsn): void {
    this.#buffer.trim(lsn)
  }
}

/** The part of what was fetched that an append takes. */
export function fetchedPart(
  fetched: { readonly startLsn: Lsn; readonly bytes: Uint8Array } | undefined,
  startLsn: Lsn,
  endLsn: Lsn,
): Uint8Array {
  const from = startLsn - (fetched?.startLsn ?? 0)
  assert(
    fetched !== undefined && from >= 0 && endLsn - fetched.startLsn <= fetched.bytes.length,
    () => `WAL from ${startLsn} to ${endLsn} was not fetched`,
  )
  return fetched.bytes.subarray(from, endLsn - fetched.startLsn)
}

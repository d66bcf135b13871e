/**
 * Which WAL a timeline takes in. The acceptor decides whether an append continues the log; here is decided whether
 * there is room for it, in memory and by the quotas, and whether it is WAL at all: a CRC that fails, a broken chain of
 * records or another system's WAL is refused with its position before anything is written. Record ends are known by
 * this decoding alone, a proposer's word does not count.
 */
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { WalStreamDecoder } from '@understory/postgres/wal'
import { decoderAt } from './end-of-wal.ts'
import type { DecoderPlace } from './end-of-wal.ts'
import type { GroupFlush } from './group-flush.ts'
import type { WalQuota } from './wal-quota.ts'

export interface AdmissionParts {
  readonly identity: PostgresIdentity
  readonly flush: GroupFlush
  readonly quota: WalQuota
  /** Whether waiting for room is in vain. */
  readonly isOver: () => boolean
}

export class Admission {
  readonly #parts: AdmissionParts
  #decoder: WalStreamDecoder

  constructor(parts: AdmissionParts, place: DecoderPlace) {
    this.#parts = parts
    this.#decoder = decoderAt(parts.identity, place)
  }

  /** Before a message with so much WAL: undefined where it need not wait. What `refusal` says after the wait counts. */
  turn(walBytes: number): Promise<void> | undefined {
    const { flush, quota } = this.#parts
    return flush.isFull || quota.refusal(walBytes) !== undefined ? this.#wait(walBytes) : undefined
  }

  async #wait(walBytes: number): Promise<void> {
    const { flush, quota, isOver } = this.#parts
    if (flush.isFull) await flush.room()
    if (quota.refusal(walBytes) !== undefined) await quota.waitFor(walBytes, isOver)
  }

  /** Why there is no room for so much WAL, or undefined. */
  refusal(walBytes: number): Error | undefined {
    return this.#parts.quota.refusal(walBytes)
  }

  /**
   * The last record end, after WAL that continues the log. Errors: `bad_wal`, `unknown_wal`; then `restart` comes
   * before the next.
   */
  recordEndOf(atLsn: Lsn, wal: Uint8Array): Lsn {
    const decoder = this.#decoder
    decoder.push(atLsn, wal)
    while (decoder.next());
    return decoder.recordEndLsn
  }

  /** The log ends there. */
  restart(place: DecoderPlace): void {
    this.#decoder = decoderAt(this.#parts.identity, place)
  }
}

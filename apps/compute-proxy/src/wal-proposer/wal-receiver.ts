/**
 * The synchronous standby: WAL from the local Postgres goes to the quorum, and Postgres gets a position only when
 * a quorum has flushed it: as written, flushed and applied alike, so that `remote_write`, `on` and `remote_apply` wait
 * for the same thing. It hears the same position again every second while nothing is committed and no message is read
 * (the quorum takes no more), or wal_sender_timeout would cut the link. Where shards are far behind, its brake holds
 * the positions back for a while.
 */
import { LSN_ZERO, advance } from '@understory/base'
import type { Lsn } from '@understory/base'
import { changesCatalog } from '@understory/postgres/redo'
import {
  DecodedRecord,
  RM_XACT_ID,
  WalStreamDecoder,
  XLogRecord,
  decodeRecord,
} from '@understory/postgres/wal'
import type { ReplicationStream } from '@understory/postgres/wire'
import type { Clock } from '@understory/env'
import { AnswerBrake } from './answer-brake.ts'
import type { WalProposer } from './wal-proposer.ts'

const REPORT_MS = 1_000

export class WalReceiver {
  /** Between what a quorum has and what Postgres gets to know. */
  readonly brake: AnswerBrake
  readonly #stream: ReplicationStream
  readonly #proposer: WalProposer
  readonly #decoder: WalStreamDecoder
  readonly #clock: Clock
  readonly #record = new DecodedRecord()
  #receivedLsn: Lsn
  #catalogLsn: Lsn

  /**
   * `startLsn` is where both the stream and the quorum's log continue: a record end. `prevLsn`: start of the last
   * record.
   */
  constructor(
    stream: ReplicationStream,
    proposer: WalProposer,
    startLsn: Lsn,
    prevLsn: Lsn | undefined,
    segmentBytes: number,
    clock: Clock,
  ) {
    this.#clock = clock
    this.#stream = stream
    this.#proposer = proposer
    this.#receivedLsn = startLsn
    this.#catalogLsn = startLsn
    this.brake = new AnswerBrake(clock, startLsn, (lsn) => stream.report(lsn))
    // Postgres made these bytes a moment ago, and every safekeeper checks them: only record ends are wanted here.
    this.#decoder = new WalStreamDecoder({
      startLsn,
      segmentBytes,
      verifyCrc: false,
      keepsBody: () => false,
      ...(prevLsn === undefined ? {} : { prevLsn }),
    })
  }

  get receivedLsn(): Lsn {
    return this.#receivedLsn
  }
  /** End and start of the last whole record that was received; no start before the first. */
  get lastRecord(): { readonly startLsn: Lsn; readonly prevLsn: Lsn | undefined } {
    const { recordEndLsn, lastRecordLsn } = this.#decoder
    return { startLsn: recordEndLsn, prevLsn: lastRecordLsn === LSN_ZERO ? undefined : lastRecordLsn }
  }
  /**
   * Resolves once a quorum has every whole record that was received. Of a record in part nothing is ever committed, and
   * Postgres may keep the rest of it back: it writes full pages of WAL in the background (XLogBackgroundFlush, xlog.c).
   */
  committed(): Promise<void> {
    return this.#proposer.waitForCommit(this.#decoder.recordEndLsn)
  }
  /** End of the last transaction commit that changed a catalog; where the stream began before the first. */
  get catalogLsn(): Lsn {
    return this.#catalogLsn
  }

  /** Until Postgres ends the stream, as it does at a clean stop, once all it sent is confirmed. */
  async run(): Promise<void> {
    const stopListening = this.#proposer.onCommit((lsn) => this.brake.committed(lsn))
    const over = new AbortController()
    const reporting = this.#reportNowAndThen(over.signal)
    try {
      for (
        let message = await this.#stream.next();
        message !== undefined;
        message = await this.#stream.next()
      ) {
        if (message.kind === 'wal') await this.take(message.startLsn, message.bytes)
      }
    } finally {
      stopListening()
      this.brake.end()
      over.abort()
      await reporting
    }
  }

  async #reportNowAndThen(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(REPORT_MS, signal).catch(() => undefined)
      if (!signal.aborted) this.#stream.report(this.#stream.acknowledgedLsn)
    }
  }

  /** Hands WAL to the quorum that begins where the last one ended. */
  async take(startLsn: Lsn, bytes: Uint8Array): Promise<void> {
    this.#proposer.observer?.received()
    this.#decoder.push(startLsn, bytes)
    // Records are walked, and hardly looked at: what counts is where the last whole one ends.
    while (this.#decoder.next()) this.#noteCatalogChange()
    this.#receivedLsn = advance(startLsn, bytes.length)
    await this.#proposer.push(startLsn, bytes, this.#decoder.recordEndLsn)
  }

  #noteCatalogChange(): void {
    const { bytes, start, recordLsn, nextLsn, major, isHeaderAlone } = this.#decoder
    if (bytes[start + XLogRecord.rmid.offset] !== RM_XACT_ID || major === undefined) return
    // Of a record above 8 KiB there is the header alone: it may be such a commit, and to look in vain is harmless.
    if (!isHeaderAlone) decodeRecord(this.#record, bytes, start, recordLsn, nextLsn)
    if (isHeaderAlone || changesCatalog(this.#record, major)) this.#catalogLsn = nextLsn
  }
}

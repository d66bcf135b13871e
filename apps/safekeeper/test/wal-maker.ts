/** Makes a WAL stream of XLOG_NOOP records for tests, from the start of a segment on. */
import { LSN_ZERO, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { RM_XLOG_ID, XLOG_NOOP, encodeRecord, placeRecord } from '@understory/postgres/wal'

export const IDENTITY: PostgresIdentity = {
  major: 17,
  systemId: 7_411_222_333_444_555_666n,
  pgTimelineId: 1,
  walSegmentBytes: 1024 * 1024,
}
export const START = lsn(3 * 1024 * 1024)

export class WalMaker {
  readonly identity: PostgresIdentity
  endLsn: Lsn
  lastRecordLsn: Lsn = LSN_ZERO
  #seed: number

  constructor(seed = 1, identity: PostgresIdentity = IDENTITY, startLsn: Lsn = START) {
    this.#seed = seed
    this.identity = identity
    this.endLsn = startLsn
  }

  /** The bytes from `endLsn` on, which moves behind them. */
  record(mainDataBytes: number): Uint8Array {
    const mainData = new Uint8Array(mainDataBytes)
    for (let i = 0; i < mainDataBytes; i++)
      mainData[i] = this.#seed = (Math.imul(this.#seed, 1_103_515_245) + 12_345) & 0x7fff_ffff
    const { major, systemId, pgTimelineId: timelineId, walSegmentBytes: segmentBytes } = this.identity
    const encoded = encodeRecord({ rmid: RM_XLOG_ID, info: XLOG_NOOP, prevLsn: this.lastRecordLsn, mainData })
    const placed = placeRecord(this.endLsn, encoded, { major, systemId, timelineId, segmentBytes })
    this.endLsn = placed.nextLsn
    this.lastRecordLsn = placed.recordLsn
    return placed.bytes
  }

  records(count: number, mainDataBytes: number): Uint8Array {
    return Buffer.concat(Array.from({ length: count }, () => this.record(mainDataBytes)))
  }
}

/** Postgres's own WAL for the simulation, in segments so small that a schedule crosses several. */
import { isErrorCode, lsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { RM_XLOG_ID, XLOG_NOOP, encodeRecord, placeRecord } from '@understory/postgres/wal'
import { fill } from '@understory/simulation'
import type { WalFormat } from '@understory/simulation'
import { decoderAt } from '../../src/timeline/end-of-wal.ts'

export const SIMULATED_POSTGRES: PostgresIdentity = {
  major: 17,
  systemId: 7_411_222_333_444_555_666n,
  pgTimelineId: 1,
  walSegmentBytes: 32 * 1024,
}
const { major, systemId, pgTimelineId: timelineId, walSegmentBytes: segmentBytes } = SIMULATED_POSTGRES
const startLsn = lsn(3 * segmentBytes)

export const postgresFormat: WalFormat = {
  startLsn,
  make(endLsn, lastRecordLsn, size, rng) {
    const mainData = new Uint8Array(size)
    fill(mainData, rng.u32())
    const record = encodeRecord({ rmid: RM_XLOG_ID, info: XLOG_NOOP, prevLsn: lastRecordLsn, mainData })
    const { bytes, recordLsn } = placeRecord(endLsn, record, { major, systemId, timelineId, segmentBytes })
    return { bytes, recordLsn }
  },
  records(wal, fromLsn) {
    const found: { recordLsn: Lsn; endLsn: Lsn }[] = []
    if (wal.length === 0) return found
    const decoder = decoderAt(SIMULATED_POSTGRES, { startLsn: fromLsn, findFirst: fromLsn === startLsn })
    try {
      decoder.push(fromLsn, wal)
      while (decoder.next()) found.push({ recordLsn: decoder.recordLsn, endLsn: decoder.nextLsn })
    } catch (error) {
      if (!isErrorCode(error, 'bad_wal')) throw error
    }
    return found
  },
}

/** The checkpoint of a WAL record or of pg_control, as values. Source: catalog/pg_control.h (16, 17, 18). */
import { fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PgMajor } from '../wal/pages.ts'
import { CHECKPOINT_BYTES } from './version.ts'
import { clusterVersions } from './versions.ts'

export interface CheckPointValues {
  /** Where recovery would start. */
  redoLsn: Lsn
  timelineId: number // ThisTimeLineID
  prevTimelineId: number
  fullPageWrites: boolean
  /** From 17 on; 0 before. */
  walLevel: number
  /** FullTransactionId: epoch * 2^32 + xid. */
  nextXid: bigint
  nextOid: number
  nextMulti: number
  nextMultiOffset: number
  oldestXid: number
  oldestXidDb: number
  oldestMulti: number
  oldestMultiDb: number
  timeSeconds: number
  oldestCommitTsXid: number
  newestCommitTsXid: number
  /** 0 in a shutdown checkpoint. */
  oldestActiveXid: number
}

const FirstMultiXactId = 1

/**
 * The multixact that is made next. The counter itself is 0 after the last of them was made, until the next one is
 * (multixact.c GetNewMultiXactId, 16, 17, 18), and checkpoints say so.
 */
export const nextMultiXactOf = ({ nextMulti }: Pick<CheckPointValues, 'nextMulti'>): number =>
  Math.max(FirstMultiXactId, nextMulti)

/** Reads 88 bytes at `bytes[at]`. Errors: `bad_wal` if they are not all there. */
export function readCheckPoint(bytes: Uint8Array, at: number, major: PgMajor): CheckPointValues {
  if (at < 0 || at + CHECKPOINT_BYTES > bytes.length)
    throw fail('bad_wal', `checkpoint of ${bytes.length - at} bytes, not ${CHECKPOINT_BYTES}`)
  const { CheckPoint: layout, checkPointWalLevel } = clusterVersions[major]
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return {
    redoLsn: layout.redo.get(view, at),
    timelineId: layout.thisTimelineId.get(view, at),
    prevTimelineId: layout.prevTimelineId.get(view, at),
    fullPageWrites: layout.fullPageWrites.get(view, at) !== 0,
    walLevel: checkPointWalLevel?.get(view, at) ?? 0,
    nextXid: layout.nextXid.get(view, at),
    nextOid: layout.nextOid.get(view, at),
    nextMulti: layout.nextMulti.get(view, at),
    nextMultiOffset: layout.nextMultiOffset.get(view, at),
    oldestXid: layout.oldestXid.get(view, at),
    oldestXidDb: layout.oldestXidDb.get(view, at),
    oldestMulti: layout.oldestMulti.get(view, at),
    oldestMultiDb: layout.oldestMultiDb.get(view, at),
    timeSeconds: Number(layout.time.get(view, at)),
    oldestCommitTsXid: layout.oldestCommitTsXid.get(view, at),
    newestCommitTsXid: layout.newestCommitTsXid.get(view, at),
    oldestActiveXid: layout.oldestActiveXid.get(view, at),
  }
}

/** The 88 bytes. */
export function encodeCheckPoint(values: Readonly<CheckPointValues>, major: PgMajor): Uint8Array {
  const { CheckPoint: layout, checkPointWalLevel } = clusterVersions[major]
  const out = new Uint8Array(CHECKPOINT_BYTES)
  const view = new DataView(out.buffer)
  layout.redo.set(view, 0, values.redoLsn)
  layout.thisTimelineId.set(view, 0, values.timelineId)
  layout.prevTimelineId.set(view, 0, values.prevTimelineId)
  layout.fullPageWrites.set(view, 0, values.fullPageWrites ? 1 : 0)
  checkPointWalLevel?.set(view, 0, values.walLevel)
  layout.nextXid.set(view, 0, values.nextXid)
  layout.nextOid.set(view, 0, values.nextOid)
  layout.nextMulti.set(view, 0, values.nextMulti)
  layout.nextMultiOffset.set(view, 0, values.nextMultiOffset)
  layout.oldestXid.set(view, 0, values.oldestXid)
  layout.oldestXidDb.set(view, 0, values.oldestXidDb)
  layout.oldestMulti.set(view, 0, values.oldestMulti)
  layout.oldestMultiDb.set(view, 0, values.oldestMultiDb)
  layout.time.set(view, 0, BigInt(values.timeSeconds))
  layout.oldestCommitTsXid.set(view, 0, values.oldestCommitTsXid)
  layout.newestCommitTsXid.set(view, 0, values.newestCommitTsXid)
  layout.oldestActiveXid.set(view, 0, values.oldestActiveXid)
  return out
}

/** Records that truncate SLRUs, made by hand: servers that got so far are not at hand. */
import type { SlruKind } from '../src/redo/types.ts'
import { RM_CLOG_ID, RM_COMMIT_TS_ID, RM_MULTIXACT_ID } from '../src/wal/constants.ts'
import type { PgMajor } from '../src/wal/pages.ts'
import { ENTRIES_PER_PAGE } from './slru-model.ts'

/** What `makeRecord` and `encodeRecord` need of it. */
export interface TruncateRecord {
  readonly rmid: number
  readonly info: number
  readonly main: Uint8Array
}

/** Keeps what begins with entry `end`; `start` is the oldest that was kept until then. */
export function truncateRecord(kind: SlruKind, start: number, end: number, major: PgMajor): TruncateRecord {
  if (kind === 'pg_multixact/offsets') return multixactTruncate(start, end, 0, 0)
  if (kind === 'pg_multixact/members') return multixactTruncate(1, 1, start, end)
  // Page number, oldest transaction, and for pg_xact its database.
  const numberBytes = major === 16 ? 4 : 8
  const main = new Uint8Array(numberBytes + (kind === 'pg_xact' ? 8 : 4))
  const view = new DataView(main.buffer)
  view.setUint32(0, Math.floor(end / ENTRIES_PER_PAGE[kind]), true)
  view.setUint32(numberBytes, end, true)
  return kind === 'pg_xact'
    ? { rmid: RM_CLOG_ID, info: 0x10, main }
    : { rmid: RM_COMMIT_TS_ID, info: 0x10, main }
}

/** xl_multixact_truncate: database, then both ends of offsets and of members. */
function multixactTruncate(...ends: readonly [number, number, number, number]): TruncateRecord {
  return { rmid: RM_MULTIXACT_ID, info: 0x30, main: new Uint8Array(Uint32Array.of(5, ...ends).buffer) }
}

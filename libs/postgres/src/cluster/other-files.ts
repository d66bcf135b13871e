/** Two-phase state files, relation maps, and the directories that a data directory is made of. */
import { fail } from '@understory/base'
import { crc32c } from '../wal/crc.ts'
import type { PgMajor } from '../wal/pages.ts'
import { databasePath } from './relation-path.ts'

const hex8 = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0')

/**
 * TwoPhaseFilePath (twophase.c): `pg_twophase/000002EE` in 16, with the epoch before it from 17 on. The epoch
 * is that of the last transaction with this xid before nextXid.
 */
export function twoPhasePath(
  xid: number,
  nextXid: { readonly epoch: number; readonly xid: number },
  major: PgMajor,
): string {
  if (major === 16) return `pg_twophase/${hex8(xid)}`
  const epoch = xid > nextXid.xid ? nextXid.epoch - 1 : nextXid.epoch
  return `pg_twophase/${hex8(Math.max(0, epoch))}${hex8(xid)}`
}

/** The xid of a file in pg_twophase, or undefined. */
export function parseTwoPhaseName(name: string, major: PgMajor): number | undefined {
  const pattern = major === 16 ? /^([0-9A-F]{8})$/ : /^[0-9A-F]{8}([0-9A-F]{8})$/
  const match = pattern.exec(name)
  return match === null ? undefined : Number.parseInt(match[1] as string, 16)
}

export const RELMAP_NAME = 'pg_filenode.map'
/** sizeof(RelMapFile): magic, count, 64 pairs of oid and file number, CRC-32C (16, 17, 18). */
export const RELMAP_BYTES = 524
const RELMAPPER_FILEMAGIC = 0x592717
const MAX_MAPPINGS = 64

/** dbOid 0 is the shared map. */
export const relmapPath = (spcOid: number, dbOid: number, major: PgMajor): string =>
  dbOid === 0 ? `global/${RELMAP_NAME}` : `${databasePath(spcOid, dbOid, major)}/${RELMAP_NAME}`

/**
 * Which file is which mapped catalog: oid -> relNumber (relmapper.c read_relmap_file). Error: refused
 * `bad_file`.
 */
export function parseRelmap(content: Uint8Array): ReadonlyMap<number, number> {
  if (content.length !== RELMAP_BYTES)
    throw fail('bad_file', `relation map has ${content.length} bytes, not ${RELMAP_BYTES}`)
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength)
  const count = view.getInt32(4, true)
  if (view.getInt32(0, true) !== RELMAPPER_FILEMAGIC || count < 0 || count > MAX_MAPPINGS)
    throw fail('bad_file', 'relation map is invalid')
  if (view.getUint32(RELMAP_BYTES - 4, true) !== crc32c(content, 0, RELMAP_BYTES - 4)) {
    throw fail('bad_file', 'relation map has an incorrect checksum')
  }
  const map = new Map<number, number>()
  for (let i = 0; i < count; i++) map.set(view.getUint32(8 + 8 * i, true), view.getUint32(12 + 8 * i, true))
  return map
}

/**
 * The folders that initdb makes besides base/ and its databases (initdb.c subdirs); pg_wal's own come with its version.
 */
const dataDirectories = [
  'global',
  'pg_wal',
  'pg_wal/archive_status',
  'pg_commit_ts',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_subtrans',
  'pg_twophase',
  'pg_multixact',
  'pg_multixact/members',
  'pg_multixact/offsets',
  'base',
  'pg_replslot',
  'pg_tblspc',
  'pg_stat',
  'pg_stat_tmp',
  'pg_xact',
  'pg_logical',
  'pg_logical/snapshots',
  'pg_logical/mappings',
] as const

/** Every directory a server needs to find, parents first. */
export const dataDirectoriesOf = (major: PgMajor): readonly string[] =>
  major >= 17 ? [...dataDirectories, 'pg_wal/summaries'] : dataDirectories

/**
 * Where relation files lie. Source: common/relpath.c GetRelationPath, reinit.c
 * parse_filename_for_nontemp_relation (16, 17, 18).
 */
import type { PgMajor } from '../wal/pages.ts'
import { FORK_FSM, FORK_INIT, FORK_MAIN, FORK_VM } from '../wal/record.ts'
import type { RelFile } from '../wal/record.ts'
import { clusterVersions } from './versions.ts'

export const DEFAULTTABLESPACE_OID = 1663
export const GLOBALTABLESPACE_OID = 1664
/** RELSEG_SIZE: blocks of one file, 1 GiB. */
export const RELATION_SEGMENT_BLOCKS = 131_072

/** MAIN, FSM, VM and INIT as file names show them. */
const forkSuffixes = ['', '_fsm', '_vm', '_init'] as const
const forkNumbers: Readonly<Record<string, number>> = { fsm: FORK_FSM, vm: FORK_VM, init: FORK_INIT }

/** TABLESPACE_VERSION_DIRECTORY: `PG_17_202406281`. */
export const tablespaceVersionDirectory = (major: PgMajor): string =>
  `PG_${major}_${clusterVersions[major].catalogVersion}`

/** `base/5`, `global` or `pg_tblspc/16384/PG_17_202406281/5`: without a slash at the end. */
export function databasePath(spcOid: number, dbOid: number, major: PgMajor): string {
  if (spcOid === GLOBALTABLESPACE_OID) return 'global'
  if (spcOid === DEFAULTTABLESPACE_OID) return `base/${dbOid}`
  return `pg_tblspc/${spcOid}/${tablespaceVersionDirectory(major)}/${dbOid}`
}

/**
 * `base/5/1259`, `base/5/1259_vm`, `base/5/1259.1`: relative to the data directory. `segment` counts files of
 * 1 GiB.
 */
export function relationPath(rel: Readonly<RelFile>, fork: number, segment: number, major: PgMajor): string {
  const suffix = segment === 0 ? '' : `.${segment}`
  return `${databasePath(rel.spcOid, rel.dbOid, major)}/${rel.relNumber}${forkSuffixes[fork] ?? ''}${suffix}`
}

export interface ParsedRelationPath extends RelFile {
  fork: number
  segment: number
}

const filePattern = /^([1-9]\d{0,9})(?:_(fsm|vm|init))?(?:\.([1-9]\d{0,5}))?$/

/**
 * Undefined for anything but a file of a permanent relation of this version: temporary ones (`t3_16384`) are
 * none.
 */
export function parseRelationPath(path: string, major: PgMajor): ParsedRelationPath | undefined {
  const parts = path.split('/')
  const file = filePattern.exec(parts.pop() ?? '')
  if (file === null) return undefined
  const place = parseDatabaseParts(parts, major)
  if (place === undefined) return undefined
  const fork = file[2] === undefined ? FORK_MAIN : (forkNumbers[file[2]] as number)
  return { ...place, relNumber: Number(file[1]), fork, segment: file[3] === undefined ? 0 : Number(file[3]) }
}

/** The other way of `databasePath`. */
export const parseDatabasePath = (
  path: string,
  major: PgMajor,
): { spcOid: number; dbOid: number } | undefined => parseDatabaseParts(path.split('/'), major)

function parseDatabaseParts(
  parts: readonly string[],
  major: PgMajor,
): { spcOid: number; dbOid: number } | undefined {
  const [first, second, third, fourth] = parts
  if (parts.length === 1 && first === 'global') return { spcOid: GLOBALTABLESPACE_OID, dbOid: 0 }
  if (parts.length === 2 && first === 'base' && isOid(second))
    return { spcOid: DEFAULTTABLESPACE_OID, dbOid: Number(second) }
  const isTablespace =
    parts.length === 4 && first === 'pg_tblspc' && third === tablespaceVersionDirectory(major)
  if (isTablespace && isOid(second) && isOid(fourth)) return { spcOid: Number(second), dbOid: Number(fourth) }
  return undefined
}

const isOid = (text: string | undefined): boolean =>
  text !== undefined && /^[1-9]\d{0,9}$/.test(text) && Number(text) <= 0xffff_ffff

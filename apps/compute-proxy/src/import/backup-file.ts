/**
 * The meaning of each file of a base backup to storage, by its path. Source: basebackup.c and docs "Database File
 * Layout" (16 to 18).
 */
import {
  CONTROL_FILE_PATH,
  ORIGIN_CHECKPOINT_PATH,
  RELMAP_NAME,
  parseDatabasePath,
  parseRelationPath,
  parseSlruSegmentPath,
  parseTwoPhaseName,
} from '@understory/postgres/cluster'
import type { ParsedRelationPath } from '@understory/postgres/cluster'
import type { SlruKind } from '@understory/postgres/redo'
import type { PgMajor } from '@understory/postgres/wal'

export type BackupFile =
  | { readonly kind: 'relation'; readonly relation: ParsedRelationPath }
  | { readonly kind: 'slru'; readonly slru: SlruKind; readonly segment: number }
  /** Small enough to be taken whole. */
  | { readonly kind: 'relationMap'; readonly spcOid: number; readonly dbOid: number }
  | { readonly kind: 'twoPhase'; readonly xid: number }
  | { readonly kind: 'controlFile' | 'backupLabel' | 'version' | 'replicationOrigins' }
  | { readonly kind: 'database'; readonly spcOid: number; readonly dbOid: number }
  | { readonly kind: 'configuration'; readonly name: string }
  /** Postgres makes it again or does without it. */
  | { readonly kind: 'dispensable' }
  | { readonly kind: 'unknown' }

const CONFIGURATION_NAMES: readonly string[] = [
  'postgresql.conf',
  'postgresql.auto.conf',
  'pg_hba.conf',
  'pg_ident.conf',
]
/** tablespace_map repeats what the backup says about tablespaces; the rest is of the process that runs. */
const DISPENSABLE_NAMES: readonly string[] = [
  'tablespace_map',
  'postmaster.opts',
  'postmaster.pid',
  'current_logfiles',
  'backup_manifest',
]
/** WAL comes by streaming; statistics, snapshots and logical decoding's files have no meaning without this server. */
const DISPENSABLE_DIRECTORIES: readonly string[] = [
  'pg_wal',
  'pg_stat',
  'pg_stat_tmp',
  'pg_subtrans',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_dynshmem',
  'pg_replslot',
  'pg_logical/snapshots',
  'pg_logical/mappings',
]
/** Relations of sessions, sort files, and the cache of catalogs: a server excludes them, older tools may not. */
const DISPENSABLE_FILE = /^(?:t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?|pgsql_tmp.*|pg_internal\.init.*)$/

export function classifyBackupFile(path: string, major: PgMajor): BackupFile {
  const relation = parseRelationPath(path, major)
  if (relation !== undefined) return { kind: 'relation', relation }
  const slru = parseSlruSegmentPath(path)
  if (slru !== undefined) return { kind: 'slru', slru: slru.kind, segment: slru.segment }
  const slash = path.lastIndexOf('/')
  const [directory, name] = [path.slice(0, Math.max(0, slash)), path.slice(slash + 1)]
  if (slash < 0) return classifyTopLevel(name)
  if (path === CONTROL_FILE_PATH) return { kind: 'controlFile' }
  if (path === ORIGIN_CHECKPOINT_PATH) return { kind: 'replicationOrigins' }
  if (directory === 'pg_twophase') {
    const xid = parseTwoPhaseName(name, major)
    return xid === undefined ? { kind: 'unknown' } : { kind: 'twoPhase', xid }
  }
  const database = parseDatabasePath(directory, major)
  if (database !== undefined && name === RELMAP_NAME) return { kind: 'relationMap', ...database }
  // Only a database's own directory has it, not the one that its relations in another tablespace have.
  if (database !== undefined && name === 'PG_VERSION') return { kind: 'database', ...database }
  const isDispensable =
    DISPENSABLE_FILE.test(name) || DISPENSABLE_DIRECTORIES.some((folder) => path.startsWith(`${folder}/`))
  return { kind: isDispensable || path.includes('/pgsql_tmp/') ? 'dispensable' : 'unknown' }
}

function classifyTopLevel(name: string): BackupFile {
  if (name === 'PG_VERSION') return { kind: 'version' }
  if (name === 'backup_label') return { kind: 'backupLabel' }
  if (CONFIGURATION_NAMES.includes(name)) return { kind: 'configuration', name }
  return { kind: DISPENSABLE_NAMES.includes(name) ? 'dispensable' : 'unknown' }
}

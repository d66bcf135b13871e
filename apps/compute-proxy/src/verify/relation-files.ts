/** The relation files of a data directory, and what lies beside them and is not compared. */
import { fail } from '@understory/base'
import { listWithin, readWithin } from '@understory/env'
import {
  RELATION_SEGMENT_BLOCKS,
  parseRelationPath,
  tablespaceVersionDirectory,
} from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/page'
import { FORK_FSM, FORK_INIT, FORK_VM } from '@understory/postgres/wal'
import type { PgMajor } from '@understory/postgres/wal'
import type { Findings } from './findings.ts'
import type { VerifyOptions } from './options.ts'

export interface RelationFile {
  /** Relative to the data directory. */
  readonly path: string
  readonly spcOid: number
  readonly dbOid: number
  readonly relNumber: number
  readonly fork: number
  /** Number of the file of 1 GiB. */
  readonly segment: number
  readonly sizeBytes: number
}

export interface RelationFiles {
  /** Main and init forks. */
  readonly relations: readonly RelationFile[]
  readonly visibilityMaps: readonly RelationFile[]
  /** Directories of databases, relative, `global` too: each has a relation map. */
  readonly databases: readonly string[]
}

const SEGMENT_BYTES = RELATION_SEGMENT_BLOCKS * PAGE_SIZE
const TEMPORARY = /^t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?$/
/** Files beside relations that are compared elsewhere or say nothing. */
const ELSEWHERE = new Set(['pg_filenode.map', 'PG_VERSION', 'pg_control'])

export function listRelationFiles(
  root: string,
  major: PgMajor,
  findings: Findings | undefined,
): RelationFiles {
  const relations: RelationFile[] = []
  const visibilityMaps: RelationFile[] = []
  const databases = databaseDirectories(root, major)
  for (const directory of databases) {
    const entries = listWithin(root, directory).filter(({ kind }) => kind === 'file')
    const names = entries.map(({ name }) => name)
    const unlogged = new Set(
      names.filter((name) => name.endsWith('_init')).map((name) => name.slice(0, -'_init'.length)),
    )
    for (const { name, sizeBytes } of entries) {
      const path = `${directory}/${name}`
      const place = parseRelationPath(path, major)
      if (place === undefined) {
        if (!ELSEWHERE.has(name))
          findings?.exclude(TEMPORARY.test(name) ? 'temporary' : 'file made by Postgres for itself')
        continue
      }
      const pages = Math.floor(sizeBytes / PAGE_SIZE)
      const file = { path, ...place, sizeBytes: pages * PAGE_SIZE }
      if (place.fork !== FORK_INIT && unlogged.has(String(place.relNumber)))
        findings?.exclude('unlogged', pages)
      else if (place.fork === FORK_FSM) findings?.exclude('free-space map', pages)
      else if (place.fork === FORK_VM) visibilityMaps.push(file)
      else relations.push(file)
    }
  }
  return { relations, visibilityMaps, databases }
}

function databaseDirectories(root: string, major: PgMajor): string[] {
  const found = ['global', ...directoriesIn(root, 'base')]
  for (const tablespace of directoriesIn(root, 'pg_tblspc')) {
    found.push(...directoriesIn(root, `${tablespace}/${tablespaceVersionDirectory(major)}`))
  }
  return found.filter((path) => !path.endsWith('pgsql_tmp'))
}

const directoriesIn = (root: string, path: string): string[] =>
  listWithin(root, path)
    // A tablespace is a symbolic link.
    .filter(({ kind }) => kind === 'folder' || (kind === 'link' && path === 'pg_tblspc'))
    .map(({ name }) => `${path}/${name}`)

/** A file of the data directory, of a segment at most. Undefined where there is none. */
export const readIfThere = (
  { dataDirectory }: Pick<VerifyOptions, 'dataDirectory'>,
  path: string,
): Promise<Buffer | undefined> => readWithin(dataDirectory, path, { bytesMax: SEGMENT_BYTES })

/** Errors: `not_found` where there is none. */
export async function readWhole(
  options: Pick<VerifyOptions, 'dataDirectory'>,
  path: string,
): Promise<Buffer> {
  const bytes = await readIfThere(options, path)
  if (bytes === undefined) throw fail('not_found', `the data directory has no file "${path}"`)
  return bytes
}

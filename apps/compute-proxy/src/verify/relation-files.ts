/** The relation files of a data directory, and what lies beside them and is not compared. */
import type { Dirent } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { diskError } from '@understory/env'
import { parseRelationPath, tablespaceVersionDirectory } from '@understory/postgres/cluster'
import type { PgMajor } from '@understory/postgres/redo'
import { FORK_FSM, FORK_INIT, FORK_VM, PAGE_SIZE } from '@understory/postgres/wal'
import type { Findings } from './findings.ts'

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

const TEMPORARY = /^t\d+_\d+(?:_(?:fsm|vm|init))?(?:\.\d+)?$/
/** Files beside relations that are compared elsewhere or say nothing. */
const ELSEWHERE = new Set(['pg_filenode.map', 'PG_VERSION', 'pg_control'])

export async function listRelationFiles(
  root: string,
  major: PgMajor,
  findings: Findings | undefined,
): Promise<RelationFiles> {
  const relations: RelationFile[] = []
  const visibilityMaps: RelationFile[] = []
  const databases = await databaseDirectories(root, major)
  for (const directory of databases) {
    const entries = await list(join(root, directory))
    const names = entries.filter((entry) => entry.isFile()).map(({ name }) => name)
    const unlogged = new Set(
      names.filter((name) => name.endsWith('_init')).map((name) => name.slice(0, -'_init'.length)),
    )
    for (const name of names) {
      const path = `${directory}/${name}`
      const place = parseRelationPath(path, major)
      if (place === undefined) {
        if (!ELSEWHERE.has(name))
          findings?.exclude(TEMPORARY.test(name) ? 'temporary' : 'file made by Postgres for itself')
        continue
      }
      const sizeBytes = await sizeOf(join(root, path))
      if (sizeBytes === undefined) continue
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

async function databaseDirectories(root: string, major: PgMajor): Promise<string[]> {
  const found = ['global', ...(await directoriesIn(root, 'base'))]
  for (const tablespace of await directoriesIn(root, 'pg_tblspc')) {
    found.push(...(await directoriesIn(root, `${tablespace}/${tablespaceVersionDirectory(major)}`)))
  }
  return found.filter((path) => !path.endsWith('pgsql_tmp'))
}

async function directoriesIn(root: string, path: string): Promise<string[]> {
  const entries = await list(join(root, path))
  // A tablespace is a symbolic link.
  return entries
    .filter((entry) => entry.isDirectory() || entry.isSymbolicLink())
    .map(({ name }) => `${path}/${name}`)
}

/** Empty where the directory has gone: databases may be dropped meanwhile. */
async function list(path: string): Promise<Dirent[]> {
  try {
    return await readdir(path, { withFileTypes: true })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw diskError(error, `list directory "${path}"`)
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw diskError(error, `stat file "${path}"`)
  }
}

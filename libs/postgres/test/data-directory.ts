/**
 * The files of a Postgres data directory that stopped cleanly, as the redo oracle needs them: relation blocks, SLRU
 * pages, the position of the shutdown checkpoint. `readDataDirectory` keeps relation files in memory.
 */
import { existsSync, readFileSync, readdirSync, realpathSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseControlFile } from '../src/cluster/control-file.ts'
import type { ControlFileValues } from '../src/cluster/control-file.ts'
import { PAGE_SIZE } from '../src/page/bufpage.ts'
import type { SlruKind } from '../src/redo/types.ts'
import type { VerifyBase } from '../src/verify/base.ts'
import type { RelFile } from '../src/wal/record.ts'

const SEGMENT_BLOCKS = 131_072 // RELSEG_SIZE: 1 GiB
const SLRU_SEGMENT_PAGES = 32
const DEFAULTTABLESPACE_OID = 1663
const GLOBALTABLESPACE_OID = 1664
const FORK_SUFFIXES = ['', '_fsm', '_vm', '_init']

export interface RelationFile {
  readonly rel: RelFile
  readonly fork: number
  /** Of the file's first block. */
  readonly firstBlock: number
  readonly path: string
}

function parseRelationFile(name: string): { relNumber: number; fork: number; segment: number } | undefined {
  const match = /^(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$/.exec(name)
  if (match === null) return undefined
  return {
    relNumber: Number(match[1]),
    fork: FORK_SUFFIXES.indexOf(match[2] ?? ''),
    segment: Number(match[3] ?? 0),
  }
}

function* filesOf(path: string, spcOid: number, dbOid: number): Generator<RelationFile> {
  for (const name of readdirSync(path)) {
    const file = parseRelationFile(name)
    if (file === undefined) continue
    const { relNumber, fork, segment } = file
    yield {
      rel: { spcOid, dbOid, relNumber },
      fork,
      firstBlock: segment * SEGMENT_BLOCKS,
      path: join(path, name),
    }
  }
}

function* databasesOf(path: string, spcOid: number): Generator<RelationFile> {
  for (const name of readdirSync(path))
    if (/^\d+$/.test(name)) yield* filesOf(join(path, name), spcOid, Number(name))
}

/**
 * Every relation file of permanent relations: the main, free-space and visibility forks of unlogged ones are left out.
 */
export function relationFiles(directory: string): RelationFile[] {
  const files = [
    ...filesOf(join(directory, 'global'), GLOBALTABLESPACE_OID, 0),
    ...databasesOf(join(directory, 'base'), DEFAULTTABLESPACE_OID),
  ]
  for (const name of readdirSync(join(directory, 'pg_tblspc'))) {
    const target = realpathSync(join(directory, 'pg_tblspc', name))
    for (const version of readdirSync(target)) files.push(...databasesOf(join(target, version), Number(name)))
  }
  const key = (rel: RelFile): string => `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}`
  const unlogged = new Set(files.filter(({ fork }) => fork === 3).map(({ rel }) => key(rel)))
  return files.filter(({ rel, fork }) => fork === 3 || !unlogged.has(key(rel)))
}

export function readSlruPage(directory: string, kind: SlruKind, page: number): Uint8Array | undefined {
  const number = Math.floor(page / SLRU_SEGMENT_PAGES)
    .toString(16)
    .toUpperCase()
  // Names are four digits in 16 and fifteen from 17 on where the directory's page numbers are 64-bit.
  const path = [4, 5, 15]
    .map((width) => join(directory, kind, number.padStart(width, '0')))
    .find((p) => existsSync(p))
  if (path === undefined) return undefined
  const at = (page % SLRU_SEGMENT_PAGES) * PAGE_SIZE
  const bytes = readFileSync(path).subarray(at, at + PAGE_SIZE)
  return bytes.length === PAGE_SIZE ? bytes : undefined
}

/** The page numbers that an SLRU directory has. */
export function slruPages(directory: string, kind: SlruKind): number[] {
  const pages: number[] = []
  for (const name of readdirSync(join(directory, kind))) {
    if (!/^[0-9A-F]+$/.test(name)) continue
    const first = Number.parseInt(name, 16) * SLRU_SEGMENT_PAGES
    const count = statSync(join(directory, kind, name)).size / PAGE_SIZE
    for (let i = 0; i < count; i++) pages.push(first + i)
  }
  return pages
}

export const readControlFile = (directory: string): ControlFileValues =>
  parseControlFile(readFileSync(join(directory, 'global', 'pg_control')))

export interface RelationMapFile {
  readonly dbOid: number
  readonly spcOid: number
  readonly bytes: Uint8Array
}

/** pg_filenode.map of global/ and of every database in the default tablespace. */
export function relationMapFiles(directory: string): RelationMapFile[] {
  const read = (...path: string[]): Uint8Array => readFileSync(join(directory, ...path, 'pg_filenode.map'))
  const databases = readdirSync(join(directory, 'base')).filter((name) => /^\d+$/.test(name))
  return [
    { dbOid: 0, spcOid: GLOBALTABLESPACE_OID, bytes: read('global') },
    ...databases.map((name) => ({
      dbOid: Number(name),
      spcOid: DEFAULTTABLESPACE_OID,
      bytes: read('base', name),
    })),
  ]
}

/** pg_twophase by xid. Names are its hexadecimal digits, from 17 on with the epoch before. */
export function twoPhaseFiles(directory: string): Map<number, Uint8Array> {
  const names = readdirSync(join(directory, 'pg_twophase'))
  return new Map(
    names.map((name) => [
      Number.parseInt(name.slice(-8), 16),
      readFileSync(join(directory, 'pg_twophase', name)),
    ]),
  )
}

/** Everything that the oracle starts from, read into memory, so that the server may continue. */
export function readDataDirectory(directory: string): VerifyBase & { readonly control: ControlFileValues } {
  const files = new Map<string, Uint8Array>()
  for (const { rel, fork, firstBlock, path } of relationFiles(directory)) {
    files.set(
      `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}/${fork}/${firstBlock / SEGMENT_BLOCKS}`,
      readFileSync(path),
    )
  }
  const slru = new Map<string, Uint8Array>()
  const slruPageNumbers = new Map<SlruKind, number[]>()
  for (const kind of SLRU_KINDS) {
    const pages = slruPages(directory, kind)
    slruPageNumbers.set(kind, pages)
    for (const page of pages) {
      slru.set(`${kind} ${page}`, readSlruPage(directory, kind, page) ?? new Uint8Array(PAGE_SIZE))
    }
  }
  const maps = relationMapFiles(directory)
  return {
    control: readControlFile(directory),
    readBlock(rel, fork, block) {
      const key = `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}/${fork}/${Math.floor(block / SEGMENT_BLOCKS)}`
      const at = (block % SEGMENT_BLOCKS) * PAGE_SIZE
      const bytes = files.get(key)?.subarray(at, at + PAGE_SIZE)
      return bytes?.length === PAGE_SIZE ? bytes : undefined
    },
    readSlruPage: (kind, page) => slru.get(`${kind} ${page}`),
    slruPages: (kind) => slruPageNumbers.get(kind) ?? [],
    readRelationMap: (dbOid, spcOid) =>
      maps.find((map) => map.dbOid === dbOid && map.spcOid === spcOid)?.bytes,
  }
}

export const SLRU_KINDS: readonly SlruKind[] = [
  'pg_xact',
  'pg_multixact/offsets',
  'pg_multixact/members',
  'pg_commit_ts',
]

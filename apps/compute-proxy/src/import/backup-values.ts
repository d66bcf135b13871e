/**
 * Turns a base backup into the values that storage starts from: pages, sizes, and what is small. Pure: what comes in
 * are the backup's events, what goes out are keys and bytes, in no particular order.
 *
 * The backup is fuzzy: the values are right together with the WAL from its start to its end, and not before. That holds
 * for pg_control too, which is sent last: the checkpoint that it names may be a later one than the backup's own. The
 * tracker made from it is right at the end all the same. Its counters only move forward, what a record sets outright
 * (nextOid) is set again by every later record, and the checkpoint it names lies before the end, so the WAL up to there
 * leads to the same state from either. Replication origins are copied while they advance, and the WAL from the start on
 * leads to the same progress in the same way.
 */
import { describeError, formatLsn, parseLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  RELATION_SEGMENT_BLOCKS,
  SLRU_PAGES_PER_SEGMENT,
  encodeTrackerState,
  parseControlFile,
  parseOriginCheckpoint,
  parseRelmap,
  trackerStateOf,
} from '@understory/postgres/cluster'
import type { ControlFileValues } from '@understory/postgres/cluster'
import { PAGE_SIZE, isZeroPage } from '@understory/postgres/page'
import type { PgMajor } from '@understory/postgres/wal'
import type { BackupEvent } from '@understory/postgres/wire'
import {
  KEY_CHECKPOINT_STATE,
  KEY_CONTROL_FILE,
  KEY_DATABASE,
  KEY_RELATION_MAP,
  KEY_TABLESPACE,
  KEY_TWO_PHASE,
  blockKey,
  encodeOriginProgress,
  relationSizeKey,
  replicationOriginKey,
  slruKey,
} from '@understory/storage'
import type { Key } from '@understory/storage'
import { classifyBackupFile } from './backup-file.ts'
import type { BackupFile } from './backup-file.ts'

/** Takes one value; `bytes` are its own from then on. */
export type PutValue = (key: Key, bytes: Uint8Array) => void

export interface ImportedCluster {
  /** Redo position of the backup's checkpoint: WAL is ingested from here. */
  readonly startLsn: Lsn
  /** Nothing below may be read. */
  readonly endLsn: Lsn
  readonly timelineId: number
  readonly systemId: bigint
  readonly control: ControlFileValues
  /** postgresql.conf, postgresql.auto.conf, pg_hba.conf, pg_ident.conf: those that the data directory has. */
  readonly configuration: ReadonlyMap<string, Uint8Array>
  /** Files that storage does not keep and does not know. */
  readonly unknownPaths: readonly string[]
}

/** Of files that are taken whole; a state file of a prepared transaction is the largest. */
const WHOLE_FILE_BYTES_MAX = 64 << 20
const UNKNOWN_FILES_MAX = 1000
const PRESENT = Uint8Array.of(1)

/** Of which the whole content is looked at. */
type WholeFile = Exclude<BackupFile, { kind: 'relation' | 'slru' | 'dispensable' | 'unknown' }>

interface OpenFile {
  readonly path: string
  readonly file: BackupFile
  readonly size: number
  read: number
  /** The next whole page, of relations and SLRUs. */
  page: number
  parts: Uint8Array[]
  partsBytes: number
}

interface ForkSize {
  readonly key: Key
  /** Blocks by segment. */
  readonly segments: number[]
}

export class BackupValues {
  readonly #major: PgMajor
  readonly #put: PutValue
  readonly #forks = new Map<string, ForkSize>()
  readonly #configuration = new Map<string, Uint8Array>()
  readonly #unknownPaths: string[] = []
  #file: OpenFile | undefined
  #start: { lsn: Lsn; timelineId: number } | undefined
  #end: { lsn: Lsn; timelineId: number } | undefined
  #control: ControlFileValues | undefined
  #hasLabel = false

  constructor(major: PgMajor, put: PutValue) {
    this.#major = major
    this.#put = put
  }

  /** Known after the first event. */
  get startLsn(): Lsn | undefined {
    return this.#start?.lsn
  }

  /** Errors: `bad_file`, `precondition`, `unsupported` where the backup cannot be imported. */
  take(event: BackupEvent): void {
    if (event.kind === 'data') return this.#takeBytes(event.bytes)
    this.#closeFile()
    switch (event.kind) {
      case 'start':
        this.#start = { lsn: event.startLsn, timelineId: event.timelineId }
        return
      case 'tablespace': {
        // An in-place one has no location of its own: its CREATE TABLESPACE record says '' (tablespace.c, from 15 on).
        const location = event.location.startsWith('/') ? event.location : ''
        return this.#put(smallKey(KEY_TABLESPACE, event.oid), Buffer.from(location))
      }
      case 'file': {
        const { path, size } = event
        const file = classifyBackupFile(path, this.#major)
        this.#file = { path, file, size, read: 0, page: 0, parts: [], partsBytes: 0 }
        return
      }
      case 'directory':
      case 'symlink':
        return
      case 'end':
        this.#end = { lsn: event.endLsn, timelineId: event.timelineId }
    }
  }

  #takeBytes(bytes: Uint8Array): void {
    const open = this.#file
    if (open === undefined) throw fail('bad_file', 'base backup has bytes outside a file')
    open.read += bytes.length
    switch (open.file.kind) {
      case 'relation':
      case 'slru':
        return this.#takePages(open, bytes)
      case 'dispensable':
      case 'unknown':
        return
      default:
        if (open.read > WHOLE_FILE_BYTES_MAX)
          throw fail('unsupported', `file "${open.path}" of the base backup is too large`)
        open.parts.push(bytes)
    }
  }

  #takePages(open: OpenFile, bytes: Uint8Array): void {
    let at = 0
    if (open.partsBytes > 0) {
      at = Math.min(PAGE_SIZE - open.partsBytes, bytes.length)
      open.parts.push(bytes.subarray(0, at))
      open.partsBytes += at
      if (open.partsBytes < PAGE_SIZE) return
      this.#takePage(open, Buffer.concat(open.parts))
      open.parts = []
      open.partsBytes = 0
    }
    for (; at + PAGE_SIZE <= bytes.length; at += PAGE_SIZE)
      this.#takePage(open, bytes.subarray(at, at + PAGE_SIZE))
    if (at === bytes.length) return
    open.parts.push(bytes.subarray(at))
    open.partsBytes = bytes.length - at
  }

  #takePage(open: OpenFile, page: Uint8Array): void {
    const index = open.page++
    const { file } = open
    if (file.kind === 'slru') {
      this.#put(slruKey(file.slru, file.segment * SLRU_PAGES_PER_SEGMENT + index), page)
    } else if (file.kind === 'relation' && !isZeroPage(page)) {
      // Missing blocks read as zeros up to the relation's size.
      const { spcOid, dbOid, relNumber, fork, segment } = file.relation
      this.#put(blockKey(spcOid, dbOid, relNumber, fork, segment * RELATION_SEGMENT_BLOCKS + index), page)
    }
  }

  #closeFile(): void {
    const open = this.#file
    if (open === undefined) return
    this.#file = undefined
    const { file, path, size, read } = open
    if (read !== size)
      throw fail('bad_file', `file "${path}" of the base backup has ${read} bytes, not ${size}`)
    switch (file.kind) {
      case 'relation':
        // A last page that is cut off counts as not there, as in mdnblocks (md.c).
        return this.#noteSize(file.relation, open.page)
      case 'slru':
        if (open.partsBytes > 0)
          throw fail('bad_file', `file "${path}" has ${size} bytes, which is not a number of whole pages`)
        return
      case 'dispensable':
        return
      case 'unknown':
        if (this.#unknownPaths.length < UNKNOWN_FILES_MAX) this.#unknownPaths.push(path)
        return
      default:
        this.#takeWhole(path, file, Buffer.concat(open.parts))
    }
  }

  #noteSize(
    relation: { spcOid: number; dbOid: number; relNumber: number; fork: number; segment: number },
    blocks: number,
  ): void {
    const { spcOid, dbOid, relNumber, fork, segment } = relation
    const name = `${spcOid}/${dbOid}/${relNumber}/${fork}`
    let known = this.#forks.get(name)
    if (known === undefined)
      this.#forks.set(name, (known = { key: relationSizeKey(spcOid, dbOid, relNumber, fork), segments: [] }))
    known.segments[segment] = blocks
  }

  #takeWhole(path: string, file: WholeFile, content: Buffer): void {
    switch (file.kind) {
      case 'database':
        return this.#put(smallKey(KEY_DATABASE, file.spcOid, file.dbOid), PRESENT)
      case 'relationMap':
        parseRelmap(content)
        return this.#put(smallKey(KEY_RELATION_MAP, file.spcOid, file.dbOid), content)
      case 'twoPhase':
        return this.#put(smallKey(KEY_TWO_PHASE, 0, 0, file.xid), content)
      case 'configuration':
        this.#configuration.set(file.name, content)
        return
      case 'controlFile':
        this.#control = parseControlFile(content)
        return this.#put(smallKey(KEY_CONTROL_FILE), content)
      case 'version':
        if (content.toString('latin1').trim() === String(this.#major)) return
        throw fail(
          'unsupported',
          `base backup is of PostgreSQL ${content.toString('latin1').trim()}, not ${this.#major}`,
        )
      case 'backupLabel':
        return this.#checkLabel(content.toString('utf8'))
      case 'replicationOrigins':
        for (const [originId, remoteLsn] of parseOriginCheckpoint(content))
          this.#put(replicationOriginKey(originId), encodeOriginProgress(remoteLsn))
    }
  }

  /** build_backup_content (xlogbackup.c) */
  #checkLabel(label: string): void {
    this.#hasLabel = true
    const start = /^START WAL LOCATION: (\S+)/m.exec(label)?.[1]
    let startLsn: Lsn
    try {
      startLsn = parseLsn(start ?? '')
    } catch (cause) {
      throw fail('bad_file', 'backup_label has no start location', { detail: describeError(cause), cause })
    }
    if (startLsn !== this.#start?.lsn) {
      throw fail('bad_file', `backup_label starts at ${formatLsn(startLsn)}, the base backup elsewhere`)
    }
    if (/^BACKUP FROM: standby/m.test(label)) {
      throw fail('unsupported', 'base backup was taken from a standby', {
        hint: 'Take it from the primary.',
      })
    }
  }

  /** After the last event: puts what is known only then. Errors: `bad_file`, `precondition`. */
  finish(): ImportedCluster {
    const [start, end, control] = [this.#start, this.#end, this.#control]
    if (start === undefined || end === undefined) throw fail('bad_file', 'base backup was cut off')
    if (control === undefined || !this.#hasLabel)
      throw fail('bad_file', 'base backup has no pg_control or no backup_label')
    if (end.timelineId !== start.timelineId || control.checkpoint.timelineId !== start.timelineId) {
      throw fail('precondition', `the server left timeline ${start.timelineId} during the base backup`, {
        hint: 'Start the import again.',
      })
    }
    const { redoLsn } = control.checkpoint
    if (redoLsn < start.lsn || control.checkpointLsn >= end.lsn) {
      throw fail(
        'bad_file',
        `pg_control stands at a checkpoint of ${formatLsn(redoLsn)}, outside the base backup`,
      )
    }
    for (const { key, segments } of this.#forks.values()) this.#put(key, sizeBytes(blocksOf(segments)))
    this.#put(smallKey(KEY_CHECKPOINT_STATE), encodeTrackerState(trackerStateOf(control)))
    return {
      startLsn: start.lsn,
      endLsn: end.lsn,
      timelineId: start.timelineId,
      systemId: control.systemId,
      control,
      configuration: this.#configuration,
      unknownPaths: this.#unknownPaths,
    }
  }
}

const smallKey = (keyClass: number, spcOid = 0, dbOid = 0, rel = 0): Key => ({
  keyClass,
  spcOid,
  dbOid,
  rel,
  fork: 0,
  block: 0,
})

/** A file shorter than 1 GiB is the last one, even if others are there (md.c). */
function blocksOf(segments: readonly number[]): number {
  let blocks = 0
  for (let segment = 0; segment * RELATION_SEGMENT_BLOCKS === blocks; segment++) {
    const inSegment = segments[segment]
    if (inSegment === undefined) break
    blocks += inSegment
    if (inSegment === 0) break
  }
  return blocks
}

function sizeBytes(blocks: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, blocks, true)
  return bytes
}

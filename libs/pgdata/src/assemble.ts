/**
 * Puts a data directory together from storage: pages as of X, and the shutdown checkpoint at X at which a stock
 * Postgres starts without recovery. pg_control comes last, so that a directory that was not completed cannot start.
 */
import { advance, formatLsn, minLsn, fail, segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import {
  CONTROL_FILE_PATH,
  SLRU_SEGMENT_BYTES,
  forgedControlFile,
  dataDirectoriesOf,
  parseRelationPath,
  parseTwoPhaseName,
  slruPageOf,
  slruSegmentOf,
  slruSegmentPath,
} from '@understory/postgres/cluster'
import type { TrackerState } from '@understory/postgres/cluster'
import { PAGE_SIZE } from '@understory/postgres/page'
import { pageserverClient } from '@understory/protocol/clients'
import { FORK_INIT, walFileName } from '@understory/postgres/wal'
import type { RelFile } from '@understory/postgres/wal'
import type { SlruKind } from '@understory/postgres/redo'
import type { StreamFilesResponse } from '@understory/rpc'
import { prepareCheckpoint } from './checkpoint.ts'
import type { PreparedCheckpoint } from './checkpoint.ts'
import { DataDirectoryWriter, checkEmpty } from './data-directory.ts'
import type { FileOwner } from './data-directory.ts'
import { readWalBytes } from './last-record.ts'
import { receiveShardFiles } from './shard-files.ts'
import { checkSource, seamsOf, walIdentityOf } from './source.ts'
import type { PgdataSource } from './source.ts'

export interface AssembleOptions extends PgdataSource {
  /** Absolute; must not exist or be empty. */
  readonly directory: string
  /** X: a record end. */
  readonly lsn: Lsn
  /**
   * `forge`: a checkpoint that is in these files alone, for a copy that goes its own way. `inWal`: the one that
   * `prepareCheckpoint` made at X and that the caller has appended through the quorum.
   */
  readonly checkpoint:
    | { readonly kind: 'forge' }
    | { readonly kind: 'inWal'; readonly prepared: PreparedCheckpoint }
  /** For a copy that is to outlast this machine's next crash. A compute's is thrown away then. */
  readonly isDurable?: boolean
  /** Of everything that is made; by default this process's. */
  readonly owner?: FileOwner | undefined
  /** Postgres has another user than this process, and a group in common; false by default. */
  readonly groupMayWrite?: boolean
  readonly onProgress?: (pagesDone: number, pagesTotal: number) => void
  /** The stream of a shard's files broke, or could not begin, and continues where it was. */
  readonly onResume?: (shard: number, error: unknown) => void
}

export interface AssembledPgdata {
  /** Where the checkpoint's record starts. */
  readonly recordLsn: Lsn
  /** Its end: Postgres writes from here on. */
  readonly nextLsn: Lsn
  /** X, at which the pages stand. */
  readonly lsn: Lsn
  /** As of X: what the configuration has to fit. */
  readonly state: Readonly<TrackerState>
  /**
   * Relations whose init fork has no page: unlogged tables, and unlogged indexes whose init fork Postgres did not log,
   * which are not fit for use.
   */
  readonly emptyInitForks: readonly Readonly<RelFile>[]
  readonly files: number
  /** Written; what is only zeros is not counted. */
  readonly bytes: number
  /** How often a stream of files continued where it had broken. */
  readonly resumes: number
  readonly tookMs: number
}

/** A directory that cannot be completed is left as it was: absent, or empty. */
export async function assemblePgdata(options: AssembleOptions): Promise<AssembledPgdata> {
  const { clock } = seamsOf(options)
  const startMs = clock.nowMs()
  checkSource(options, options.lsn)
  checkEmpty(options.directory)
  const prepared =
    options.checkpoint.kind === 'inWal' ? options.checkpoint.prepared : await prepareCheckpoint(options)
  const writer = new DataDirectoryWriter(options.directory, options.owner, options.groupMayWrite)
  try {
    const { forged, state, atLsn, controlFile, timeSeconds } = prepared
    for (const path of dataDirectoriesOf(options.postgres.major)) writer.makeDirectory(path)
    const failed = new AbortController()
    const signal =
      options.signal === undefined ? failed.signal : AbortSignal.any([failed.signal, options.signal])
    const progress = new Progress(options)
    const twoPhaseNames: string[] = []
    const parts = options.pageservers.map((address, number) =>
      receiveShard({ ...options, signal }, number, address, atLsn, writer, progress, twoPhaseNames),
    )
    const all = [...parts, writeWal({ ...options, signal }, prepared, writer)]
    // The first failure is the one that matters; the others only follow from it.
    let failure: { readonly error: unknown } | undefined
    for (const part of all) {
      part.catch((error: unknown) => {
        failure ??= { error }
        failed.abort()
      })
    }
    await Promise.allSettled(all)
    if (failure !== undefined) throw (failure as { readonly error: unknown }).error

    checkWhole(options, writer)
    checkTwoPhase(options, prepared, twoPhaseNames)
    padSlrus(prepared, writer)
    if (options.isDurable === true) await writer.sync()
    await writer.write(CONTROL_FILE_PATH, 0, forgedControlFile(controlFile, forged, state, timeSeconds))
    if (options.isDurable === true) await writer.sync()
    const { recordLsn, nextLsn } = forged
    const { filesCount: files, bytesWritten: bytes } = writer
    return {
      recordLsn,
      nextLsn,
      lsn: atLsn,
      state,
      emptyInitForks: emptyInitForksOf(options, writer),
      files,
      bytes,
      resumes: progress.resumes,
      tookMs: Math.round(clock.nowMs() - startMs),
    }
  } catch (error) {
    writer.discard()
    throw error
  } finally {
    writer.close()
  }
}

class Progress {
  #done = 0
  #total = 0
  resumes = 0
  readonly #options: Pick<AssembleOptions, 'onProgress' | 'onResume'>

  constructor(options: AssembleOptions) {
    this.#options = options
  }
  add(done: number, total: number): void {
    this.#done += done
    this.#total += total
    // Init forks come twice.
    this.#options.onProgress?.(Math.min(this.#done, this.#total), this.#total)
  }
  broke(shard: number, error: unknown): void {
    this.resumes++
    this.#options.onResume?.(shard, error)
  }
}

async function receiveShard(
  source: PgdataSource,
  number: number,
  address: string,
  atLsn: Lsn,
  writer: DataDirectoryWriter,
  progress: Progress,
  twoPhaseNames: string[],
): Promise<void> {
  const client = pageserverClient(source.rpc, address)
  try {
    const shard = { number, client, peer: `pageserver ${address}` }
    await receiveShardFiles(source, shard, atLsn, {
      begins: (pagesTotal) => progress.add(0, pagesTotal),
      take: async (piece) => {
        await takePiece(piece, writer, progress)
        if (piece?.$case !== 'file' || piece.value.offset > 0n) return
        if (piece.value.path.startsWith('pg_twophase/')) {
          twoPhaseNames.push(piece.value.path.slice('pg_twophase/'.length))
        }
      },
      broke: (error) => progress.broke(number, error),
    })
  } finally {
    client.close()
  }
}

async function takePiece(
  piece: StreamFilesResponse['piece'],
  writer: DataDirectoryWriter,
  progress: Progress,
): Promise<void> {
  switch (piece?.$case) {
    case undefined:
      return
    case 'directory':
      return writer.makeDirectory(piece.value)
    case 'tablespace':
      // A directory in place of the symbolic link: its location on the primary means nothing here.
      return writer.makeDirectory(`pg_tblspc/${piece.value.oid}`)
    case 'file': {
      const { path, offset, data, size } = piece.value
      writer.reserve(path, Number(size))
      if (data.length === 0) return
      await writer.write(path, Number(offset), data)
      progress.add(data.length / PAGE_SIZE, 0)
    }
  }
}

/** The segment that X lies in, as the safekeepers have it, with the checkpoint in it and zeros behind. */
async function writeWal(
  source: PgdataSource,
  prepared: PreparedCheckpoint,
  writer: DataDirectoryWriter,
): Promise<void> {
  const { forged, atLsn } = prepared
  const { timelineId, segmentBytes } = walIdentityOf(source)
  const first = segmentOf(minLsn(forged.recordLsn, atLsn), segmentBytes)
  const startLsn = segmentStart(first, segmentBytes)
  const before = startLsn < atLsn ? await readWalBytes(source, startLsn, atLsn) : new Uint8Array(0)
  const last = segmentOf(advance(forged.nextLsn, -1), segmentBytes)
  for (let segment = first; segment <= last; segment++) {
    const path = `pg_wal/${walFileName(timelineId, segment, segmentBytes)}`
    const at = (segment - first) * segmentBytes
    writer.reserve(path, segmentBytes)
    const old = before.subarray(at, at + segmentBytes)
    if (old.length > 0) await writer.write(path, 0, old)
    const forgedAt = Math.max(0, at - before.length)
    const added = forged.bytes.subarray(forgedAt, Math.max(forgedAt, at + segmentBytes - before.length))
    if (added.length > 0) await writer.write(path, old.length, added)
  }
}

function checkWhole({ directory }: AssembleOptions, writer: DataDirectoryWriter): void {
  for (const path of ['PG_VERSION', 'global/pg_filenode.map']) {
    if (!writer.has(path))
      throw fail('bad_file', `storage gave no "${path}" for data directory "${directory}"`)
  }
}

const emptyInitForksOf = ({ postgres }: PgdataSource, writer: DataDirectoryWriter): RelFile[] =>
  writer.emptyFiles().flatMap((path) => {
    const relation = parseRelationPath(path, postgres.major)
    return relation?.fork === FORK_INIT ? [relation] : []
  })

/** Postgres deletes a prepared transaction that is not below nextXid, with no more than a warning. */
function checkTwoPhase(
  { postgres }: PgdataSource,
  { state, atLsn }: PreparedCheckpoint,
  names: readonly string[],
): void {
  for (const name of names) {
    const xid = parseTwoPhaseName(name, postgres.major)
    if (xid === undefined) throw fail('bad_file', `storage names a prepared transaction "${name}"`)
    if (((xid - state.nextXid) | 0) < 0) continue
    throw fail(
      'bad_file',
      `prepared transaction ${xid} is not below the next one, ${state.nextXid}, at ${formatLsn(atLsn)}`,
    )
  }
}

/** Postgres reads the pages that its counters point to at start, and a short or missing file is FATAL. */
function padSlrus({ state }: PreparedCheckpoint, writer: DataDirectoryWriter): void {
  const pad = (kind: SlruKind, entry: number): void =>
    writer.reserve(slruSegmentPath(kind, slruSegmentOf(slruPageOf(kind, entry))), SLRU_SEGMENT_BYTES)
  // The oldest entry's segment must have come, except where the next one's is the same.
  const oldest = slruSegmentPath('pg_xact', slruSegmentOf(slruPageOf('pg_xact', state.oldestXid)))
  pad('pg_xact', state.nextXid)
  if (!writer.has(oldest))
    throw fail('bad_file', `storage gave no "${oldest}", which has the oldest transaction ${state.oldestXid}`)
  pad('pg_multixact/offsets', state.nextMulti)
  pad('pg_multixact/members', state.nextMultiOffset)
  if (state.trackCommitTimestamp) pad('pg_commit_ts', state.nextXid)
}

/**
 * StreamFiles: this shard's part of a data directory at an LSN.
 *
 *   every shard    its relation blocks, in runs of neighbouring blocks; its SLRU pages at their offsets
 *   home shard     a relation's size, per file of 1 GiB: what no shard sends within it is zeros
 *   shard 0        directories, PG_VERSION, databases, tablespaces, relation maps, two-phase files, replication origins
 *
 * An unlogged relation's init fork comes as its main fork too: a start without recovery does not copy it.
 */
import type { Lsn } from '@understory/base'
import {
  ORIGIN_CHECKPOINT_PATH,
  RELATION_SEGMENT_BLOCKS,
  SLRU_PAGES_PER_SEGMENT,
  SLRU_SEGMENT_BYTES,
  dataDirectoriesOf,
  databasePath,
  decodeTrackerState,
  encodeOriginCheckpoint,
  relationPath,
  relmapPath,
  slruSegmentPath,
  tablespaceVersionDirectory,
  twoPhasePath,
} from '@understory/postgres/cluster'
import { FORK_INIT, FORK_MAIN, PAGE_SIZE } from '@understory/postgres/wal'
import type { StreamFilesResponse } from '@understory/rpc'
import {
  KEY_DATABASE,
  KEY_RELATION_BLOCK,
  KEY_RELATION_MAP,
  KEY_RELATION_SIZE,
  KEY_SLRU_PAGE,
  KEY_TABLESPACE,
  KEY_TWO_PHASE,
  slruKind,
} from '@understory/storage'
import type { Key } from '@understory/storage'
import { readStampedPage } from './page-reads.ts'
import { CHECKPOINT_STATE_KEY } from './shard-state.ts'
import type { Shard } from './shard.ts'

/** Neighbouring blocks of a piece. */
const RUN_BLOCKS_MAX = 64
const EMPTY = Buffer.alloc(0)

type Piece = NonNullable<StreamFilesResponse['piece']>
const filePiece = (path: string, offset: number, data: Buffer, size = 0): Piece => ({
  $case: 'file',
  value: { path, offset: BigInt(offset), data, size: BigInt(size) },
})
const directoryPiece = (path: string): Piece => ({ $case: 'directory', value: path })

export async function* streamFiles(shard: Shard, at: Lsn): AsyncGenerator<StreamFilesResponse, void, void> {
  const blocks = [...shard.state.scan(KEY_RELATION_BLOCK, at)]
  const slruPages = [...shard.state.scan(KEY_SLRU_PAGE, at)]
  let pagesTotal = BigInt(blocks.length + slruPages.length)
  for await (const piece of pieces(shard, at, blocks, slruPages)) {
    yield { piece, pagesTotal }
    pagesTotal = 0n
  }
  // A shard without anything still tells so.
  if (pagesTotal > 0n) yield { piece: undefined, pagesTotal }
}

async function* pieces(
  shard: Shard,
  at: Lsn,
  blocks: Key[],
  slruPages: Key[],
): AsyncGenerator<Piece, void, void> {
  if (shard.state.isFirstShard) yield* clusterPieces(shard, at)
  yield* sizePieces(shard, at)
  yield* runPieces(shard, at, blocks)
  for (const key of slruPages) {
    const page = await readPage(shard, key, at)
    if (page === undefined) continue
    const path = slruSegmentPath(slruKind(key.spcOid), Math.floor(key.block / SLRU_PAGES_PER_SEGMENT))
    // Whole segments, zeros beyond: a short file is FATAL to a start.
    yield filePiece(path, (key.block % SLRU_PAGES_PER_SEGMENT) * PAGE_SIZE, page, SLRU_SEGMENT_BYTES)
  }
}

/** What is small and lives on shard 0. Directories come before what is in them. */
async function* clusterPieces(shard: Shard, at: Lsn): AsyncGenerator<Piece, void, void> {
  const { state } = shard
  const { major } = state.settings
  const version = Buffer.from(`${major}\n`)
  for (const path of dataDirectoriesOf(major)) yield directoryPiece(path)
  yield filePiece('PG_VERSION', 0, version, version.length)
  for (const key of state.scan(KEY_TABLESPACE, at)) {
    const location = await state.readBytes(key, at)
    if (location === undefined) continue
    yield {
      $case: 'tablespace',
      value: { oid: key.spcOid, location: Buffer.from(location).toString('utf8') },
    }
    yield directoryPiece(`pg_tblspc/${key.spcOid}/${tablespaceVersionDirectory(major)}`)
  }
  for (const key of state.scan(KEY_DATABASE, at)) {
    const path = databasePath(key.spcOid, key.dbOid, major)
    yield directoryPiece(path)
    yield filePiece(`${path}/PG_VERSION`, 0, version, version.length)
  }
  for (const key of state.scan(KEY_RELATION_MAP, at)) {
    const content = await state.readBytes(key, at)
    if (content !== undefined)
      yield filePiece(relmapPath(key.spcOid, key.dbOid, major), 0, Buffer.from(content), content.length)
  }
  const origins = Buffer.from(encodeOriginCheckpoint(await state.originsAt(at)))
  yield filePiece(ORIGIN_CHECKPOINT_PATH, 0, origins, origins.length)
  const tracked = await state.readBytes(CHECKPOINT_STATE_KEY, at)
  if (tracked === undefined) return
  const { nextXid, nextXidEpoch } = decodeTrackerState(tracked)
  for (const key of state.scan(KEY_TWO_PHASE, at)) {
    const content = await state.readBytes(key, at)
    const path = twoPhasePath(key.rel, { epoch: nextXidEpoch, xid: nextXid }, major)
    if (content !== undefined) yield filePiece(path, 0, Buffer.from(content), content.length)
  }
}

async function* sizePieces(shard: Shard, at: Lsn): AsyncGenerator<Piece, void, void> {
  for (const key of shard.state.scan(KEY_RELATION_SIZE, at)) {
    const blocks = await shard.state.readSize(key, at)
    if (blocks === undefined) continue
    for (const fork of forksOf(key)) {
      for (let segment = 0; segment === 0 || segment * RELATION_SEGMENT_BLOCKS < blocks; segment++) {
        const inSegment = Math.min(RELATION_SEGMENT_BLOCKS, blocks - segment * RELATION_SEGMENT_BLOCKS)
        yield filePiece(pathOf(shard, key, fork, segment), 0, EMPTY, inSegment * PAGE_SIZE)
      }
    }
  }
}

async function* runPieces(shard: Shard, at: Lsn, keys: Key[]): AsyncGenerator<Piece, void, void> {
  let run: Buffer[] = []
  let first: Key | undefined
  const ended = (): Piece[] => {
    if (first === undefined || run.length === 0) return []
    const { block } = first
    const data = Buffer.concat(run)
    const segment = Math.floor(block / RELATION_SEGMENT_BLOCKS)
    const offset = (block % RELATION_SEGMENT_BLOCKS) * PAGE_SIZE
    const key = first
    return forksOf(key).map((fork) => filePiece(pathOf(shard, key, fork, segment), offset, data))
  }
  for (const key of keys) {
    const isNext =
      first !== undefined &&
      run.length < RUN_BLOCKS_MAX &&
      key.block === first.block + run.length &&
      key.rel === first.rel &&
      key.fork === first.fork &&
      key.dbOid === first.dbOid &&
      key.spcOid === first.spcOid &&
      key.block % RELATION_SEGMENT_BLOCKS !== 0
    const page = await readPage(shard, key, at)
    if (page !== undefined && isNext) {
      run.push(page)
      continue
    }
    yield* ended()
    first = key
    run = page === undefined ? [] : [page]
  }
  yield* ended()
}

const forksOf = (key: Key): number[] => (key.fork === FORK_INIT ? [FORK_INIT, FORK_MAIN] : [key.fork])
const pathOf = (shard: Shard, { spcOid, dbOid, rel }: Key, fork: number, segment: number): string =>
  relationPath({ spcOid, dbOid, relNumber: rel }, fork, segment, shard.state.settings.major)

/** Undefined for a page that is not to be: beyond its relation's end, or never made. */
async function readPage(shard: Shard, key: Key, at: Lsn): Promise<Buffer | undefined> {
  const bytes = Buffer.alloc(PAGE_SIZE)
  const page = { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, PAGE_SIZE) }
  return (await readStampedPage(shard, key, at, page)) === 0 ? bytes : undefined
}

/**
 * StreamFiles: this shard's part of a data directory at an LSN.
 *
 *   every shard    its relation blocks, in runs of neighbouring blocks; its SLRU pages at their offsets
 *   home shard     a relation's size, per file of 1 GiB: what no shard sends within it is zeros
 *   shard 0        directories, PG_VERSION, databases, tablespaces, relation maps, two-phase files, replication origins
 *
 * An unlogged relation's init fork comes as its main fork too: a start without recovery does not copy it.
 */
import { fail } from '@understory/base'
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
import { PAGE_SIZE } from '@understory/postgres/page'
import { FORK_INIT, FORK_MAIN } from '@understory/postgres/wal'
import type { StreamFilesResponse } from '@understory/rpc'
import {
  CHECKPOINT_STATE_KEY,
  KEY_BYTES,
  KEY_DATABASE,
  KEY_RELATION_BLOCK,
  KEY_RELATION_MAP,
  KEY_RELATION_SIZE,
  KEY_SLRU_PAGE,
  KEY_TABLESPACE,
  KEY_TWO_PHASE,
  classRange,
  formatKey,
  readKey,
  slruKind,
  writeKey,
} from '@understory/storage'
import type { Key } from '@understory/storage'
import { loopTurns } from '../state/loop-turns.ts'
import { readStampedPage } from './page-reads.ts'
import type { ShardReader } from '../state/shard-reader.ts'

/** Neighbouring blocks of a piece. */
const RUN_BLOCKS_MAX = 64
const FILE_PIECE_BYTES_MAX = 1024 * 1024
const EMPTY = Buffer.alloc(0)

type Piece = NonNullable<StreamFilesResponse['piece']>
/** `place`: the key of which, and of all before it, everything was sent with this piece. */
interface Placed {
  readonly piece: Piece
  readonly place?: Key
}
const filePiece = (path: string, offset: number, data: Buffer, size = 0): Piece => ({
  $case: 'file',
  value: { path, offset: BigInt(offset), data, size: BigInt(size) },
})
const directoryPiece = (path: string): Piece => ({ $case: 'directory', value: path })

/** The classes whose keys are sent, in that order. Small files come before, and are sent again by a resumed stream. */
const KEYED = [KEY_RELATION_SIZE, KEY_RELATION_BLOCK, KEY_SLRU_PAGE]

/**
 * `after`: a place that an earlier stream gave, behind which this one continues; the files as of an LSN and their order
 * are always the same. History at `at` stays until it ends. Errors: `bad_argument` where it is not a place. The event
 * loop gets its turns in between.
 */
export async function* streamFiles(
  reader: ShardReader,
  at: Lsn,
  after: Uint8Array = EMPTY,
): AsyncGenerator<StreamFilesResponse, void, void> {
  const release = reader.reads.lease(at)
  try {
    yield* responses(reader, at, after)
  } finally {
    release()
  }
}
async function* responses(
  reader: ShardReader,
  at: Lsn,
  after: Uint8Array,
): AsyncGenerator<StreamFilesResponse, void, void> {
  const from = after.length === 0 ? undefined : readPlace(after)
  let pagesTotal = from === undefined ? BigInt(await countPages(reader, at)) : 0n
  for await (const { piece, place } of pieces(reader, at, from)) {
    yield { piece, pagesTotal, place: place === undefined ? EMPTY : writePlace(place) }
    pagesTotal = 0n
    if (loopTurns.isOver) await loopTurns.next()
  }
  // An empty shard still reports that it is empty.
  if (pagesTotal > 0n) yield { piece: undefined, pagesTotal, place: EMPTY }
}

function readPlace(encoded: Uint8Array): Key {
  if (encoded.length !== KEY_BYTES)
    throw fail('bad_argument', `place in a stream of files has ${encoded.length} bytes, not ${KEY_BYTES}`)
  const place = readKey(new DataView(encoded.buffer, encoded.byteOffset, KEY_BYTES), 0)
  if (!KEYED.includes(place.keyClass))
    throw fail('bad_argument', `${formatKey(place)} is not a place in a stream of files`)
  return place
}

function writePlace(place: Key): Buffer {
  const encoded = Buffer.alloc(KEY_BYTES)
  writeKey(new DataView(encoded.buffer, encoded.byteOffset, KEY_BYTES), 0, place)
  return encoded
}

async function countPages(reader: ShardReader, at: Lsn): Promise<number> {
  let count = 0
  for (const keyClass of [KEY_RELATION_BLOCK, KEY_SLRU_PAGE])
    for await (const _ of reader.scan(classRange(keyClass), at)) count++
  return count
}

async function* pieces(
  reader: ShardReader,
  at: Lsn,
  from: Key | undefined,
): AsyncGenerator<Placed, void, void> {
  if (from === undefined && reader.isFirstShard)
    for await (const piece of clusterPieces(reader, at)) yield { piece }
  const done = from === undefined ? -1 : KEYED.indexOf(from.keyClass)
  const keysOf = (keyClass: number): AsyncIterable<Key> => {
    const { first, last } = classRange(keyClass)
    const begin = from?.keyClass === keyClass ? { ...from, block: from.block + 1 } : first
    return reader.scan({ first: begin, last }, at)
  }
  if (done <= KEYED.indexOf(KEY_RELATION_SIZE)) yield* sizePieces(reader, at, keysOf(KEY_RELATION_SIZE))
  if (done <= KEYED.indexOf(KEY_RELATION_BLOCK)) yield* runPieces(reader, at, keysOf(KEY_RELATION_BLOCK))
  yield* slruPieces(reader, at, keysOf(KEY_SLRU_PAGE))
}

async function* slruPieces(
  reader: ShardReader,
  at: Lsn,
  keys: AsyncIterable<Key>,
): AsyncGenerator<Placed, void, void> {
  for await (const key of keys) {
    const page = await readPage(reader, key, at)
    if (page === undefined) continue
    const path = slruSegmentPath(slruKind(key.spcOid), Math.floor(key.block / SLRU_PAGES_PER_SEGMENT))
    const offset = (key.block % SLRU_PAGES_PER_SEGMENT) * PAGE_SIZE
    // Whole segments, zeros beyond: a short file is FATAL to a start.
    yield { piece: filePiece(path, offset, page, SLRU_SEGMENT_BYTES), place: key }
  }
}

/** The small files, which live on shard 0. Directories come before their files. */
async function* clusterPieces(reader: ShardReader, at: Lsn): AsyncGenerator<Piece, void, void> {
  const { major } = reader.settings
  const version = Buffer.from(`${major}\n`)
  for (const path of dataDirectoriesOf(major)) yield directoryPiece(path)
  yield filePiece('PG_VERSION', 0, version, version.length)
  for await (const key of reader.scan(classRange(KEY_TABLESPACE), at)) {
    const location = await reader.readBytes(key, at)
    if (location === undefined) continue
    yield {
      $case: 'tablespace',
      value: { oid: key.spcOid, location: Buffer.from(location).toString('utf8') },
    }
    yield directoryPiece(`pg_tblspc/${key.spcOid}/${tablespaceVersionDirectory(major)}`)
  }
  for await (const key of reader.scan(classRange(KEY_DATABASE), at)) {
    const path = databasePath(key.spcOid, key.dbOid, major)
    yield directoryPiece(path)
    yield filePiece(`${path}/PG_VERSION`, 0, version, version.length)
  }
  for await (const key of reader.scan(classRange(KEY_RELATION_MAP), at)) {
    const content = await reader.readBytes(key, at)
    if (content !== undefined)
      yield filePiece(relmapPath(key.spcOid, key.dbOid, major), 0, Buffer.from(content), content.length)
  }
  const origins = Buffer.from(encodeOriginCheckpoint(await reader.originsAt(at)))
  yield filePiece(ORIGIN_CHECKPOINT_PATH, 0, origins, origins.length)
  const tracked = await reader.readBytes(CHECKPOINT_STATE_KEY, at)
  if (tracked === undefined) return
  const { nextXid, nextXidEpoch } = decodeTrackerState(tracked)
  for await (const key of reader.scan(classRange(KEY_TWO_PHASE), at)) {
    const content = await reader.readBytes(key, at)
    const path = twoPhasePath(key.rel, { epoch: nextXidEpoch, xid: nextXid }, major)
    if (content === undefined) continue
    // The state of a transaction with millions of subtransactions is larger than a message.
    for (let offset = 0; offset === 0 || offset < content.length; offset += FILE_PIECE_BYTES_MAX) {
      const part = Buffer.from(content.subarray(offset, offset + FILE_PIECE_BYTES_MAX))
      yield filePiece(path, offset, part, content.length)
    }
  }
}

async function* sizePieces(
  reader: ShardReader,
  at: Lsn,
  keys: AsyncIterable<Key>,
): AsyncGenerator<Placed, void, void> {
  for await (const key of keys) {
    const blocks = await reader.readSize(key, at)
    if (blocks === undefined) continue
    const files: Piece[] = []
    for (const fork of forksOf(key)) {
      for (let segment = 0; segment === 0 || segment * RELATION_SEGMENT_BLOCKS < blocks; segment++) {
        const inSegment = Math.min(RELATION_SEGMENT_BLOCKS, blocks - segment * RELATION_SEGMENT_BLOCKS)
        files.push(filePiece(pathOf(reader, key, fork, segment), 0, EMPTY, inSegment * PAGE_SIZE))
      }
    }
    yield* placed(files, key)
  }
}

async function* runPieces(
  reader: ShardReader,
  at: Lsn,
  keys: AsyncIterable<Key>,
): AsyncGenerator<Placed, void, void> {
  let run: Buffer[] = []
  let first: Key | undefined
  const ended = (): Iterable<Placed> => {
    if (first === undefined || run.length === 0) return []
    const { block } = first
    const data = Buffer.concat(run)
    const segment = Math.floor(block / RELATION_SEGMENT_BLOCKS)
    const offset = (block % RELATION_SEGMENT_BLOCKS) * PAGE_SIZE
    const key = first
    const files = forksOf(key).map((fork) => filePiece(pathOf(reader, key, fork, segment), offset, data))
    return placed(files, { ...key, block: block + run.length - 1 })
  }
  for await (const key of keys) {
    const isNext =
      first !== undefined &&
      run.length < RUN_BLOCKS_MAX &&
      key.block === first.block + run.length &&
      key.rel === first.rel &&
      key.fork === first.fork &&
      key.dbOid === first.dbOid &&
      key.spcOid === first.spcOid &&
      key.block % RELATION_SEGMENT_BLOCKS !== 0
    const page = await readPage(reader, key, at)
    if (loopTurns.isOver) await loopTurns.next()
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

/** The files of one key: all were sent with the last. */
const placed = (files: readonly Piece[], place: Key): Placed[] =>
  files.map((piece, i) => (i + 1 < files.length ? { piece } : { piece, place }))

const forksOf = (key: Key): number[] => (key.fork === FORK_INIT ? [FORK_INIT, FORK_MAIN] : [key.fork])
const pathOf = (reader: ShardReader, { spcOid, dbOid, rel }: Key, fork: number, segment: number): string =>
  relationPath({ spcOid, dbOid, relNumber: rel }, fork, segment, reader.settings.major)

/** Undefined for a page that is not to be: beyond its relation's end, or never made. */
async function readPage(reader: ShardReader, key: Key, at: Lsn): Promise<Buffer | undefined> {
  const bytes = Buffer.alloc(PAGE_SIZE)
  const page = { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, PAGE_SIZE) }
  return (await readStampedPage(reader, key, at, page)) === 0 ? bytes : undefined
}

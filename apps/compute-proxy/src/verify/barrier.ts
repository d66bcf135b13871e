/**
 * The exact part, under a short barrier: without a writer and with everything checkpointed, files that have no LSN of
 * their own are compared byte for byte with storage at that LSN: visibility maps, SLRUs, relation maps, two-phase
 * files, pg_control, and which relations there are and how long.
 *
 * The files are read while the end of WAL stands still; storage keeps that LSN, so it is asked afterwards. A difference
 * has to show at several barriers: one record between the redo point and the checkpoint would be in no file yet.
 */
import { bytesBetween, formatLsn, parseLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { isRetryable, listWithin, realClock, realRng, retry } from '@understory/env'
import {
  CONTROL_FILE_PATH,
  RELATION_SEGMENT_BLOCKS,
  SLRU_PAGES_PER_SEGMENT,
  decodeTrackerState,
  nextMultiXactOf,
  parseControlFile,
  parseDatabasePath,
  parseRelationPath,
  relationPath,
  relmapPath,
  slruSegmentPath,
} from '@understory/postgres/cluster'
import type { ControlFileValues, TrackerState } from '@understory/postgres/cluster'
import {
  PAGE_SIZE,
  SizeOfPageHeaderData as HEADER_BYTES,
  getPageLsn,
  pageOf,
} from '@understory/postgres/page'
import type { SlruKind } from '@understory/postgres/redo'
import { FORK_FSM, FORK_INIT, FORK_MAIN, FORK_VM } from '@understory/postgres/wal'
import { pageserverClient } from '@understory/protocol/clients'
import { blockKey, slruKey } from '@understory/storage'
import { asRecordEnd } from '@understory/pgdata'
import type pg from 'pg'
import type { Catalog } from './catalog.ts'
import { Findings, describeDifference } from './findings.ts'
import type { VerifyOptions } from './options.ts'
import type { PageSource } from './page-source.ts'
import { listRelationFiles, readIfThere, readWhole } from './relation-files.ts'
import type { RelationFile } from './relation-files.ts'
import { livePages, maskOffsets } from './slru-pages.ts'

const QUIET_PATIENCE_DEFAULT_MS = 45_000
const BARRIER_PAUSE_MS = 50
const BARRIER_PAUSE_MS_MAX = 3_000
/** Barriers at which a difference must show. */
const LOOKS_MAX = 3
/**
 * From the redo point to the end of the checkpoint's record, if nothing else is there: XLOG_CHECKPOINT_REDO,
 * XLOG_RUNNING_XACTS with a few hundred transactions, the checkpoint, page headers.
 */
const CHECKPOINT_BYTES_MAX = 4_096
/** FirstNormalObjectId: databases and files that initdb did not make. */
const FIRST_NORMAL_OID = 16_384

/** The contents of the primary's files at `lsn`. */
interface Snapshot {
  readonly lsn: Lsn
  readonly control: ControlFileValues
  readonly relations: readonly RelationFile[]
  readonly visibilityMaps: readonly { readonly file: RelationFile; readonly bytes: Buffer }[]
  /** Small files by path. */
  readonly files: ReadonlyMap<string, Buffer>
  readonly slruPages: readonly {
    readonly kind: SlruKind
    readonly page: number
    readonly bytes: Buffer | undefined
  }[]
}

/** Adds to `findings`; returns the barrier's LSN. Errors: `precondition` where writers leave no moment. */
export async function compareAtBarrier(
  options: VerifyOptions,
  catalog: Catalog,
  pages: PageSource,
  client: pg.Client,
  findings: Findings,
): Promise<Lsn> {
  for (let look = 1; ; look++) {
    const snapshot = await readQuiet(options, client)
    await pages.waitFor(snapshot.lsn)
    const found = new Findings()
    await compareSnapshot(options, snapshot, catalog, pages, found)
    if (found.isClean || look === LOOKS_MAX) {
      findings.add(found)
      return snapshot.lsn
    }
  }
}

async function readQuiet(options: VerifyOptions, client: pg.Client): Promise<Snapshot> {
  const untilMs = realClock.nowMs() + (options.quietPatienceMs ?? QUIET_PATIENCE_DEFAULT_MS)
  for (let attempt = 1; attempt === 1 || realClock.nowMs() < untilMs; attempt++) {
    const before = await insertLsn(client)
    await client.query('checkpoint')
    const lsn = await insertLsn(client)
    const control = parseControlFile(await readWhole(options, CONTROL_FILE_PATH))
    const isQuiet = bytesBetween(before, lsn) <= CHECKPOINT_BYTES_MAX && control.checkpoint.redoLsn >= before
    if (isQuiet) {
      const snapshot = await readSnapshot(
        options,
        asRecordEnd(lsn, options.postgres.walSegmentBytes),
        control,
      )
      if ((await insertLsn(client)) === lsn) return snapshot
    }
    const pauseMs = Math.min(BARRIER_PAUSE_MS_MAX, BARRIER_PAUSE_MS * 1.5 ** attempt)
    await realClock.sleep(pauseMs, options.signal)
  }
  throw fail('precondition', 'there was no moment without a writer', {
    detail:
      'visibility maps, transaction status and the like have no LSN of their own and are compared at such a moment',
    hint: 'Stop the writers and run verify again.',
  })
}

async function insertLsn(client: pg.Client): Promise<Lsn> {
  const { rows } = await client.query<{ at: string }>('select pg_current_wal_insert_lsn()::text as at')
  return parseLsn((rows[0] as { at: string }).at)
}

async function readSnapshot(options: VerifyOptions, lsn: Lsn, control: ControlFileValues): Promise<Snapshot> {
  const { dataDirectory, major } = options
  const { relations, visibilityMaps, databases } = listRelationFiles(dataDirectory, major, undefined)
  const maps = []
  for (const file of visibilityMaps) maps.push({ file, bytes: await readWhole(options, file.path) })
  const files = new Map<string, Buffer>()
  for (const directory of databases) {
    const place = parseDatabasePath(directory, major)
    if (place === undefined) continue
    const path = relmapPath(place.spcOid, place.dbOid, major)
    // Only a database's default tablespace has one.
    const bytes = await readIfThere(options, path)
    if (bytes !== undefined) files.set(path, bytes)
  }
  for (const { name } of listWithin(dataDirectory, 'pg_twophase')) {
    files.set(`pg_twophase/${name}`, await readWhole(options, `pg_twophase/${name}`))
  }
  return {
    lsn,
    control,
    relations,
    visibilityMaps: maps,
    files,
    slruPages: await readSlruPages(options, control),
  }
}

async function readSlruPages(
  options: VerifyOptions,
  control: ControlFileValues,
): Promise<Snapshot['slruPages']> {
  const segments = new Map<string, Buffer | undefined>()
  const readPage = async (kind: SlruKind, page: number): Promise<Buffer | undefined> => {
    const path = slruSegmentPath(kind, Math.floor(page / SLRU_PAGES_PER_SEGMENT))
    if (!segments.has(path)) segments.set(path, await readIfThere(options, path))
    const at = (page % SLRU_PAGES_PER_SEGMENT) * PAGE_SIZE
    const bytes = segments.get(path)?.subarray(at, at + PAGE_SIZE)
    return bytes?.length === PAGE_SIZE ? bytes : undefined
  }
  const found = []
  for await (const { kind, page } of livePages(control, readPage))
    found.push({ kind, page, bytes: await readPage(kind, page) })
  return found
}

async function compareSnapshot(
  options: VerifyOptions,
  snapshot: Snapshot,
  catalog: Catalog,
  pages: PageSource,
  findings: Findings,
): Promise<void> {
  const [stored, tracker] = await Promise.all([
    readStoredFiles(options, snapshot.lsn),
    readTracker(options, snapshot.lsn),
  ])
  await compareVisibilityMaps(snapshot, catalog, pages, findings)
  await compareSlrus(snapshot, pages, findings)
  compareFiles(snapshot, stored, findings)
  compareSizes(options, snapshot, stored, catalog, findings)
  compareControl(snapshot.control, tracker, findings)
}

async function compareVisibilityMaps(
  { lsn, visibilityMaps }: Snapshot,
  catalog: Catalog,
  pages: PageSource,
  findings: Findings,
): Promise<void> {
  const ofDatabases = new Map<number, number>()
  for (const { file } of visibilityMaps)
    ofDatabases.set(file.relNumber, (ofDatabases.get(file.relNumber) ?? 0) + 1)
  const places = visibilityMaps.flatMap(({ file, bytes }) =>
    Array.from({ length: Math.floor(bytes.length / PAGE_SIZE) }, (_, i) => ({
      file,
      block: file.segment * RELATION_SEGMENT_BLOCKS + i,
      bytes: bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE),
    })),
  )
  const requests = places.map(({ file, block }) => ({
    key: blockKey(file.spcOid, file.dbOid, file.relNumber, FORK_VM, block),
    lsn,
  }))
  const stored = await pages.read(requests)
  for (const [i, { file, block, bytes }] of places.entries()) {
    const where = `visibility map of ${catalog.nameOf(file)} block ${block}`
    const page = stored[i]
    if (page?.kind === 'unreadable') {
      findings.differ(where, `storage cannot give it: ${page.reason}`)
      continue
    }
    const other = page?.kind === 'page' ? page.bytes : new Uint8Array(PAGE_SIZE)
    findings.visibilityMapPages++
    const [ownLsn, storedLsn] = [getPageLsn(pageOf(bytes)), getPageLsn(pageOf(other))]
    if (ownLsn !== storedLsn) {
      findings.differ(
        where,
        `pd_lsn is ${formatLsn(ownLsn)} on the primary and ${formatLsn(storedLsn)} in storage`,
      )
      continue
    }
    const difference = describeDifference(bytes.subarray(HEADER_BYTES), other.subarray(HEADER_BYTES))
    if (difference === undefined) continue
    const isCopy = file.dbOid >= FIRST_NORMAL_OID && (ofDatabases.get(file.relNumber) as number) > 1
    if (isCopy && hasOnlyBitsOf(other, bytes))
      findings.exclude('visibility bits that CREATE DATABASE does not log')
    else findings.differ(where, `after its header, ${difference}`)
  }
}

/**
 * CREATE DATABASE with strategy wal_log logs map pages as if their bits were a hole (bufmgr.c
 * RelationCopyStorageUsingBuffer, 16 to 18): recovery loses them, which is harmless.
 */
const hasOnlyBitsOf = (some: Uint8Array, all: Uint8Array): boolean =>
  some.subarray(HEADER_BYTES).every((byte, i) => (byte & ~(all[i + HEADER_BYTES] as number)) === 0)

async function compareSlrus(
  { lsn, control, slruPages }: Snapshot,
  pages: PageSource,
  findings: Findings,
): Promise<void> {
  const stored = await pages.read(slruPages.map(({ kind, page }) => ({ key: slruKey(kind, page), lsn })))
  for (const [i, { kind, page, bytes }] of slruPages.entries()) {
    const where = `${kind} page ${page}`
    const other = stored[i]
    findings.slruPages++
    if (other?.kind === 'unreadable') {
      findings.differ(where, `storage cannot give it: ${other.reason}`)
      continue
    }
    const zeros = new Uint8Array(PAGE_SIZE)
    const both = [
      Uint8Array.from(bytes ?? zeros),
      Uint8Array.from(other?.kind === 'page' ? other.bytes : zeros),
    ] as const
    if (kind === 'pg_multixact/offsets') for (const each of both) maskOffsets(each, page, control)
    const difference = describeDifference(...both)
    if (difference !== undefined) findings.differ(where, difference)
  }
}

/** The small part of storage: contents of small files, and the size of each relation file. */
interface StoredFiles {
  readonly files: ReadonlyMap<string, Buffer>
  readonly sizes: ReadonlyMap<string, number>
}

async function readStoredFiles(options: VerifyOptions, lsn: Lsn): Promise<StoredFiles> {
  const files = new Map<string, Buffer>()
  const sizes = new Map<string, number>()
  const { timeline, pageservers, stripeBlocks, signal, major } = options
  await Promise.all(
    pageservers.map(async (address, number) => {
      const client = pageserverClient(options.rpc, address)
      try {
        const shard = { number, count: pageservers.length, stripeBlocks }
        const pieces = client.streamFiles(timeline, shard, lsn, Buffer.alloc(0), { signal })
        for await (const { piece } of pieces) {
          if (piece?.$case !== 'file') continue
          const { path, data, size } = piece.value
          const isRelation = parseRelationPath(path, major) !== undefined
          if (isRelation && data.length > 0) return // Pages begin: they are compared elsewhere.
          if (isRelation) sizes.set(path, Math.max(sizes.get(path) ?? 0, Number(size)))
          else files.set(path, data)
        }
      } finally {
        client.close()
      }
    }),
  )
  return { files, sizes }
}

async function readTracker(options: VerifyOptions, lsn: Lsn): Promise<TrackerState> {
  const { timeline, pageservers, stripeBlocks, signal } = options
  const address = pageservers[0] as string
  const client = pageserverClient(options.rpc, address)
  try {
    const shard = { number: 0, count: pageservers.length, stripeBlocks }
    const { tracker } = await retry({ clock: realClock, rng: realRng }, { signal, isRetryable }, () =>
      client.controlState(timeline, shard, lsn, { signal }),
    )
    return decodeTrackerState(tracker)
  } finally {
    client.close()
  }
}

function compareFiles({ files }: Snapshot, stored: StoredFiles, findings: Findings): void {
  const ours = [...stored.files.keys()].filter(
    (path) => path.endsWith('/pg_filenode.map') || path.startsWith('pg_twophase/'),
  )
  for (const path of new Set([...files.keys(), ...ours])) {
    findings.otherFiles++
    const primary = files.get(path)
    const other = stored.files.get(path)
    if (primary === undefined) findings.differ(path, 'only storage has it')
    else if (other === undefined) findings.differ(path, 'storage does not have it')
    else {
      const difference = describeDifference(primary, other)
      if (difference !== undefined) findings.differ(path, difference)
    }
  }
}

/** Files longer than storage says are as they should be: Postgres extends them without a record. */
function compareSizes(
  { major }: VerifyOptions,
  { relations, visibilityMaps }: Snapshot,
  stored: StoredFiles,
  catalog: Catalog,
  findings: Findings,
): void {
  const sizes = new Map(
    [...relations, ...visibilityMaps.map(({ file }) => file)].map(({ path, sizeBytes }) => [path, sizeBytes]),
  )
  for (const [path, sizeBytes] of stored.sizes) {
    const place = parseRelationPath(path, major)
    if (place === undefined || place.fork === FORK_FSM) continue
    // The main fork of an unlogged relation is a copy of its init fork, made for a start.
    const isUnlogged = place.fork !== FORK_INIT && stored.sizes.has(relationPath(place, FORK_INIT, 0, major))
    if (isUnlogged) continue
    const own = sizes.get(path)
    const fork = place.fork === FORK_MAIN ? '' : place.fork === FORK_VM ? ' visibility map' : ' init fork'
    const where = `${catalog.nameOf(place)}${fork}`
    if (own === undefined && sizeBytes === 0) continue
    if (own === undefined) findings.differ(where, `only storage has "${path}", of ${sizeBytes} bytes`)
    else if (own < sizeBytes)
      findings.differ(where, `"${path}" has ${own} bytes on the primary and ${sizeBytes} in storage`)
  }
}

/**
 * pg_control against what was tracked in WAL: what a forged checkpoint would say. Which of the databases that are
 * equally old holds the oldest ids back is left out: recovery learns of another only when the ids move (xlog.c
 * xlog_redo).
 */
function compareControl(control: ControlFileValues, tracker: TrackerState, findings: Findings): void {
  findings.otherFiles++
  const { checkpoint } = control
  const pairs: Readonly<Record<string, readonly [unknown, unknown]>> = {
    timelineId: [checkpoint.timelineId, tracker.timelineId],
    nextXid: [checkpoint.nextXid, (BigInt(tracker.nextXidEpoch) << 32n) | BigInt(tracker.nextXid)],
    nextOid: [checkpoint.nextOid, tracker.nextOid],
    nextMulti: [nextMultiXactOf(checkpoint), tracker.nextMulti],
    nextMultiOffset: [checkpoint.nextMultiOffset, tracker.nextMultiOffset],
    oldestXid: [checkpoint.oldestXid, tracker.oldestXid],
    oldestMulti: [checkpoint.oldestMulti, tracker.oldestMulti],
    fullPageWrites: [checkpoint.fullPageWrites, tracker.fullPageWrites],
    checkpointLsn: [control.checkpointLsn, tracker.checkpointLsn],
    redoLsn: [checkpoint.redoLsn, tracker.checkpointRedoLsn],
    walLevel: [control.walLevel, tracker.walLevel],
    walLogHints: [control.walLogHints, tracker.walLogHints],
    maxConnections: [control.maxConnections, tracker.maxConnections],
    maxWorkerProcesses: [control.maxWorkerProcesses, tracker.maxWorkerProcesses],
    maxWalSenders: [control.maxWalSenders, tracker.maxWalSenders],
    maxPreparedXacts: [control.maxPreparedXacts, tracker.maxPreparedXacts],
    maxLocksPerXact: [control.maxLocksPerXact, tracker.maxLocksPerXact],
    trackCommitTimestamp: [control.trackCommitTimestamp, tracker.trackCommitTimestamp],
  }
  for (const [name, [primary, storage]] of Object.entries(pairs)) {
    if (primary !== storage)
      findings.differ(
        `pg_control ${name}`,
        `${String(primary)} on the primary and ${String(storage)} in storage`,
      )
  }
}

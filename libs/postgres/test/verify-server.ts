/**
 * Runs a history on a real server under `wal_consistency_checking = all` and redoes its WAL beside it: see
 * `src/verify/redo-verifier.ts`. Full-page writes are off, so that what is compared is redo and not images.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '@understory/base'
import type { Lsn } from '@understory/base'
import { startPostgres } from '@understory/testcontainers'
import type { PostgresServer, PostgresSettings } from '@understory/testcontainers'
import type { Client } from 'pg'
import { DB_SHUTDOWNED } from '../src/cluster/control-file.ts'
import type { ControlFileValues } from '../src/cluster/control-file.ts'
import { ORIGIN_CHECKPOINT_PATH, parseOriginCheckpoint } from '../src/cluster/replication-origins.ts'
import { PAGE_SIZE } from '../src/page/bufpage.ts'
import type { RedoSettings } from '../src/redo/types.ts'
import { RedoVerifier } from '../src/verify/redo-verifier.ts'
import type { VerifyBase } from '../src/verify/base.ts'
import type { VerifyOptions } from '../src/verify/redo-verifier.ts'
import type { PgMajor } from '../src/wal/pages.ts'
import { FORK_FSM } from '../src/wal/record.ts'
import { WAL_SEGMENT_BYTES } from '../src/wal/constants.ts'
import { walFileName } from '../src/wal/pages.ts'
import { readRecordsOfSegments } from '../src/wal/segment-files.ts'
import {
  SLRU_KINDS,
  readControlFile,
  readDataDirectory,
  readSlruPage,
  relationFiles,
  relationMapFiles,
  slruPages,
  twoPhaseFiles,
} from './data-directory.ts'
import type { WorkloadSession } from './redo-workload.ts'

export interface ServerHistoryOptions {
  readonly major: PgMajor
  readonly dataChecksums?: boolean
  readonly settings?: PostgresSettings
  /** Changes the fresh cluster before the history begins; the server is stopped, and stopped afterwards. */
  readonly prepare?: (server: PostgresServer) => Promise<void>
  /** 'gone': the server crashed and does not recover. What it wrote until then is the history. */
  readonly workload: (session: WorkloadSession) => Promise<void | 'gone'>
}

/** A history as it was written: what a verifier needs, and where the server left its files. */
export interface ServerHistory extends AsyncDisposable {
  readonly settings: RedoSettings
  readonly base: VerifyBase
  /** pg_control as of the start. */
  readonly control: ControlFileValues
  readonly startLsn: Lsn
  readonly dataDirectory: string
  /** Set where the server did not stop by itself: the end of its log. */
  readonly crashLog: string | undefined
  /** A new object for every reading, records in order. */
  records(): ReturnType<typeof readRecordsOfSegments>
}

const SETTINGS: PostgresSettings = {
  full_page_writes: false,
  wal_consistency_checking: 'all',
  autovacuum: false,
  wal_level: 'logical',
  max_prepared_transactions: 10,
  track_commit_timestamp: true,
  checkpoint_timeout: '1h',
  max_wal_size: '20GB',
  wal_keep_size: '20GB',
  wal_recycle: false,
}

/** Runs the workload from a fresh cluster to a clean stop. */
export async function recordHistory(options: ServerHistoryOptions): Promise<ServerHistory> {
  const { major, dataChecksums = false } = options
  const server = await startPostgres({
    major,
    dataChecksums,
    started: false,
    settings: { ...SETTINGS, ...options.settings },
  })
  try {
    await options.prepare?.(server)
    const base = readDataDirectory(server.dataDirectory)
    await server.start()
    const clients: Client[] = []
    const connect = async (database?: string): Promise<Client> => {
      const client = await server.connect(database)
      clients.push(client)
      return client
    }
    const session = { client: await connect(), connect, connectionString: server.connectionString }
    const isGone = (await options.workload(session)) === 'gone'
    if (isGone) {
      await server.kill()
    } else {
      for (const client of clients) await client.end()
      await server.stop()
    }
    const walFile = (segment: number): Uint8Array | undefined => {
      const path = join(server.dataDirectory, 'pg_wal', walFileName(1, segment, WAL_SEGMENT_BYTES))
      return existsSync(path) ? readFileSync(path) : undefined
    }
    return {
      settings: { major, ...pick(base.control) },
      base,
      control: base.control,
      startLsn: base.control.checkpointLsn,
      dataDirectory: server.dataDirectory,
      crashLog: isGone ? server.log() : undefined,
      records: () => readRecordsOfSegments(walFile, { startLsn: base.control.checkpointLsn, major }),
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    }
  } catch (error) {
    await server[Symbol.asyncDispose]()
    throw error
  }
}

const pick = ({
  dataChecksums,
  walLogHints,
  trackCommitTimestamp,
}: ControlFileValues): Omit<RedoSettings, 'major'> => ({ dataChecksums, walLogHints, trackCommitTimestamp })

/**
 * Redoes the whole history and compares the pages on the way and the relation files at the end, where the server
 * stopped by itself.
 */
export function verifyHistory(history: ServerHistory, options: VerifyOptions = {}): RedoVerifier {
  const verifier = new RedoVerifier(history.settings, history.base, options)
  let lastLsn: Lsn | undefined
  for (const record of history.records()) {
    verifier.redo(record)
    lastLsn = record.recordLsn
  }
  if (history.crashLog !== undefined) return verifier
  const control = readControlFile(history.dataDirectory)
  const { state, checkpointLsn } = control
  assert(
    state === DB_SHUTDOWNED && lastLsn === checkpointLsn,
    () => `WAL ends with the record at ${lastLsn}, not with the shutdown checkpoint at ${checkpointLsn}`,
  )
  compareFiles(history, verifier)
  return verifier
}

function compareFiles({ base, dataDirectory }: ServerHistory, verifier: RedoVerifier): void {
  const lengths = new Map<string, number>()
  const key = (rel: object, fork: number): string => `${JSON.stringify(rel)} ${fork}`
  for (const { rel, fork, firstBlock, path } of relationFiles(dataDirectory)) {
    if (fork === FORK_FSM) continue
    const bytes = readFileSync(path)
    const blocks = bytes.length / PAGE_SIZE
    for (let i = 0; i < blocks; i++) {
      verifier.compareBlock(rel, fork, firstBlock + i, bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE))
    }
    lengths.set(key(rel, fork), Math.max(firstBlock + blocks, lengths.get(key(rel, fork)) ?? 0))
  }
  for (const { rel, fork } of verifier.forks()) {
    if (fork !== FORK_FSM) verifier.compareLength(rel, fork, lengths.get(key(rel, fork)) ?? 0)
  }
  for (const kind of SLRU_KINDS) {
    const redone = verifier
      .slruPages()
      .filter((page) => page.kind === kind)
      .map(({ page }) => page)
    for (const page of new Set([...slruPages(dataDirectory, kind), ...base.slruPages(kind), ...redone])) {
      verifier.compareSlruPage(
        kind,
        page,
        readSlruPage(dataDirectory, kind, page) ?? new Uint8Array(PAGE_SIZE),
      )
    }
  }
  for (const { dbOid, spcOid, bytes } of relationMapFiles(dataDirectory))
    verifier.compareRelationMap(dbOid, spcOid, bytes)
  verifier.compareTwoPhase(twoPhaseFiles(dataDirectory))
  verifier.compareOrigins(parseOriginCheckpoint(readFileSync(join(dataDirectory, ORIGIN_CHECKPOINT_PATH))))
}

/** One line per record type, for people. */
export function formatCounts(verifier: RedoVerifier): string {
  const lines = [...verifier.counts]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(
      ([type, c]) =>
        `${type.padEnd(40)} records ${c.records}, compared ${c.compared}, redone ${c.redone}, restored ${c.restored}, skipped ${c.skipped}`,
    )
  const { compared, untouched } = verifier.fileCounts
  return [...lines, `files: ${compared} blocks compared, ${untouched} untouched`].join('\n')
}

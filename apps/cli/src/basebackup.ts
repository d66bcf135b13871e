/** A data directory as of an LSN, written by the command itself from pageservers and safekeepers. */
import { realpath } from 'node:fs/promises'
import { resolve } from 'node:path'
import { LSN_ZERO, formatLsn, lsnFromBigint, maxLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { assemblePgdata, asRecordEnd, writeStandaloneConfiguration } from '@understory/pgdata'
import type { PgdataSource } from '@understory/pgdata'
import { readPostgresIdentity } from '@understory/protocol'
import type { ClientContext, GetTimelineResponse } from '@understory/rpc'

/** Longer than a read waits on its own, so that a shard that is catching up is waited for. */
const PATIENCE_MS = 60_000

export interface BasebackupOptions {
  readonly rpc: ClientContext
  readonly view: GetTimelineResponse
  /** Must not exist or be empty. */
  readonly directory: string
  /** A record end; by default the last one that a quorum has. */
  readonly lsn?: Lsn
  readonly onProgress: (line: string) => void
}

/** The printed row. */
export type BasebackupRow = {
  readonly directory: string
  readonly lsn: string
  /** Where the server will find its checkpoint. */
  readonly checkpoint: string
  readonly files: number
  readonly bytes: number
  readonly tookMs: number
  /** How to start a server on it. */
  readonly start: string
}

/** Errors: `bad_lsn`, `out_of_range`, `precondition` (directory), or what storage says. */
export async function basebackup({
  rpc,
  view,
  directory,
  lsn,
  onProgress,
}: BasebackupOptions): Promise<BasebackupRow> {
  const source = sourceOf(rpc, view)
  // A link to an empty folder is the folder.
  const path = await realpath(directory).catch(() => resolve(directory))
  const at = chooseLsn(view, lsn, source.postgres.walSegmentBytes)
  const { recordLsn, state, files, bytes, tookMs } = await assemblePgdata({
    ...source,
    directory: path,
    lsn: at,
    checkpoint: { kind: 'forge' },
    isDurable: true,
    onProgress: (done, total) => onProgress(`${Math.floor(done)} of ${total} pages`),
  })
  await writeStandaloneConfiguration(path, { state })
  return {
    directory: path,
    lsn: formatLsn(at),
    checkpoint: formatLsn(recordLsn),
    files,
    bytes,
    tookMs,
    start: startLine(path, source.postgres.major),
  }
}

function sourceOf(rpc: ClientContext, view: GetTimelineResponse): PgdataSource {
  const { timeline, spec } = view
  const { postgres } = timeline ?? {}
  if (timeline?.timeline === undefined || spec === undefined || postgres === undefined) {
    throw fail('unavailable', `timeline "${timeline?.name}" has not been made yet`, {
      hint: 'Try again in a moment.',
    })
  }
  const { pageservers, stripeBlocks, safekeepers } = spec
  return {
    rpc,
    timeline: timeline.timeline,
    postgres: readPostgresIdentity(postgres),
    pageservers,
    stripeBlocks,
    safekeepers,
    patienceMs: PATIENCE_MS,
  }
}

/** WAL that a quorum has is never taken back; the commit position of any one safekeeper is committed. */
function chooseLsn(view: GetTimelineResponse, wanted: Lsn | undefined, segmentBytes: number): Lsn {
  const commitLsn = view.safekeepers.reduce(
    (most, { commitLsn }) => maxLsn(most, lsnFromBigint(commitLsn)),
    LSN_ZERO,
  )
  if (commitLsn === LSN_ZERO) {
    throw fail('unavailable', 'no safekeeper of the timeline answers, so nothing is known to be committed')
  }
  if (wanted === undefined) return commitLsn
  const at = asRecordEnd(wanted, segmentBytes)
  const startLsn = lsnFromBigint(view.timeline?.startLsn ?? 0n)
  if (at < startLsn || at > commitLsn) {
    throw fail('out_of_range', `lsn ${formatLsn(wanted)} is not within the timeline`, {
      hint: `Choose one from ${formatLsn(startLsn)} to ${formatLsn(commitLsn)}.`,
    })
  }
  return at
}

function startLine(path: string, major: number): string {
  const start = `pg_ctl -D ${path} -l ${path}.log start`
  const own = process.getuid?.() === 0 ? `chown -R postgres ${path}; as postgres: ` : ''
  return `${own}${start} (PostgreSQL ${major})`
}

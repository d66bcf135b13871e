/**
 * Real records with the pages as they were before each, taken from the WAL of a real Postgres: of every record type the
 * first ones and then some by chance, so that rare types weigh as much as common ones.
 */
import { PAGE_SIZE } from '@understory/postgres/page'
import { RedoVerifier } from '@understory/postgres/verify'
import { readFile, readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { segmentOf, segmentStart } from '@understory/base'
import type { Lsn } from '@understory/base'
import { recordEffects, recordTypeName } from '@understory/postgres/redo'
import type { EffectSink, RedoSettings, SlruKind } from '@understory/postgres/redo'
import { WAL_SEGMENT_BYTES, walFileName } from '@understory/postgres/wal'
import type { BlockRef, DecodedRecord } from '@understory/postgres/wal'
import type { PostgresMajor } from '@understory/testcontainers'
import { runRedoWorkload } from '../../libs/postgres/test/redo-workload.ts'
import { recordHistory } from '../../libs/postgres/test/verify-server.ts'
import type { ServerHistory } from '../../libs/postgres/test/verify-server.ts'
import { ScriptSession, newCounts } from '../verify-redo/script-session.ts'

/** One page of an SLRU that a record changes, as it was before. */
export interface SlruSample {
  readonly kind: SlruKind
  readonly page: number
  readonly bytes: Uint8Array
}

export interface Sample {
  readonly type: string
  readonly settings: RedoSettings
  readonly recordLsn: Lsn
  readonly nextLsn: Lsn
  readonly record: Uint8Array
  /** In the order of the record's blocks. */
  readonly pages: readonly Uint8Array[]
  readonly slru: readonly SlruSample[]
}

/** Samples by record type, and a stretch of the WAL that they come from. */
export interface Corpus {
  readonly settings: RedoSettings
  readonly types: readonly (readonly Sample[])[]
  readonly wal: Uint8Array
  readonly walLsn: Lsn
}

const SAMPLES_OF_TYPE_MAX = 24
const WAL_BYTES_MAX = 4 * 1024 * 1024
const WORKLOADS = join(dirname(fileURLToPath(import.meta.url)), '..', 'verify-redo', 'workloads')

/** Which of the `seen` records of a type takes which place: the first fill all, later ones replace now and then. */
function placeOf(seen: number): number | undefined {
  if (seen <= SAMPLES_OF_TYPE_MAX) return seen - 1
  // A fixed scramble (Knuth's multiplicative hash), so that equal histories give equal samples.
  const at = Math.imul(seen, 0x9e37_79b1) >>> 0
  return at % seen < SAMPLES_OF_TYPE_MAX ? at % seen : undefined
}

function slruSamples(record: DecodedRecord, verifier: RedoVerifier, settings: RedoSettings): SlruSample[] {
  const found: SlruSample[] = []
  const ignore = (): void => {}
  const sink: EffectSink = {
    visibilityClear: ignore,
    slruPage: (kind, page) => {
      const bytes = verifier.slruPage(kind, page)
      found.push({ kind, page, bytes: Uint8Array.from(bytes ?? new Uint8Array(PAGE_SIZE)) })
    },
    slruTruncate: ignore,
    relationCreate: ignore,
    relationTruncate: ignore,
    relationDrop: ignore,
    databaseCopy: ignore,
    databaseCreate: ignore,
    databaseDrop: ignore,
    relationMap: ignore,
    twoPhasePrepare: ignore,
    twoPhaseRemove: ignore,
    tablespaceCreate: ignore,
    tablespaceDrop: ignore,
    originAdvance: ignore,
    originDrop: ignore,
  }
  recordEffects(record, sink, settings)
  return found
}

function takeSample(
  type: string,
  record: DecodedRecord,
  history: ServerHistory,
  verifier: RedoVerifier,
): Sample {
  const pages: Uint8Array[] = []
  for (let i = 0; i < record.blockCount; i++) {
    const ref = record.blocks[i] as BlockRef
    const before =
      verifier.page(ref, ref.fork, ref.blockNumber) ??
      history.base.readBlock(ref, ref.fork, ref.blockNumber) ??
      new Uint8Array(PAGE_SIZE)
    pages.push(Uint8Array.from(before))
  }
  return {
    type,
    settings: history.settings,
    recordLsn: record.recordLsn,
    nextLsn: record.nextLsn,
    // Copies, also of a Buffer, whose slice() is none.
    record: Uint8Array.from(record.bytes.subarray(record.start, record.start + record.totLen)),
    pages,
    slru: slruSamples(record, verifier, history.settings),
  }
}

function samplesOf(history: ServerHistory): Sample[][] {
  const verifier = new RedoVerifier(history.settings, history.base)
  const types = new Map<string, { seen: number; samples: Sample[] }>()
  for (const record of history.records()) {
    const name = recordTypeName(record, history.settings)
    const applies = record.blockCount > 0 && (record.blocks[0] as BlockRef).applyImage
    const key = applies ? `${name} with image` : name
    let type = types.get(key)
    if (type === undefined) types.set(key, (type = { seen: 0, samples: [] }))
    const place = placeOf(++type.seen)
    if (place !== undefined) type.samples[place] = takeSample(name, record, history, verifier)
    verifier.redo(record)
  }
  return [...types.values()].map(({ samples }) => samples)
}

async function runOwnScripts(connectionString: string): Promise<void> {
  const session = new ScriptSession(connectionString, newCounts())
  for (const name of (await readdir(WORKLOADS)).filter((file) => file.endsWith('.sql')).toSorted()) {
    await session.run(await readFile(join(WORKLOADS, name), 'utf8'), {})
  }
}

/** A whole segment some way into the history. */
async function readWal({
  dataDirectory,
  startLsn,
}: ServerHistory): Promise<{ wal: Uint8Array; walLsn: Lsn }> {
  const segment = segmentOf(startLsn, WAL_SEGMENT_BYTES) + 1
  const bytes = await readFile(join(dataDirectory, 'pg_wal', walFileName(1, segment, WAL_SEGMENT_BYTES)))
  return {
    wal: Uint8Array.from(bytes.subarray(0, WAL_BYTES_MAX)),
    walLsn: segmentStart(segment, WAL_SEGMENT_BYTES),
  }
}

/** Runs the workloads of `verify:redo` on a server of this version, without after-images, and takes its records. */
export async function gatherCorpus(major: PostgresMajor): Promise<Corpus> {
  await using history = await recordHistory({
    major,
    settings: {
      wal_consistency_checking: '',
      allow_in_place_tablespaces: true,
      wal_compression: 'pglz',
    },
    workload: async (session) => {
      await runRedoWorkload(session)
      await runOwnScripts(session.connectionString)
      // A last page image of everything, compressed by pglz.
      await session.client.query('alter system set full_page_writes = on')
      await session.client.query('select pg_reload_conf()')
      await session.client.query('checkpoint')
      await session.client.query('update t set n = n + 1')
    },
  })
  return { settings: history.settings, types: samplesOf(history), ...(await readWal(history)) }
}

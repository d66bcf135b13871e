/** For tests: shards in this process, fed from a stopped cluster's files and WAL as import and safekeepers would. */
import { PAGE_SIZE } from '@understory/postgres/page'
import type { PgMajor } from '@understory/postgres/wal'
import { existsSync } from 'node:fs'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Semaphore } from '@understory/actor'
import { assert, present } from '@understory/base'
import type { Lsn, ShardIdentity, TenantId, TimelineId } from '@understory/base'
import { inlineWorkers, realEnv, silentLog } from '@understory/env'
import type { Disk, Log, Workers } from '@understory/env'
import { localObjectStore } from '@understory/object-store'
import type { ObjectStore } from '@understory/object-store'
import {
  CONTROL_FILE_PATH,
  RELATION_SEGMENT_BLOCKS,
  SLRU_PAGES_PER_SEGMENT,
  parseControlFile,
  parseDatabasePath,
  parseRelationPath,
  parseSlruSegmentPath,
  parseTwoPhaseName,
} from '@understory/postgres/cluster'
import type { RedoSettings } from '@understory/postgres/redo'
import { readRecordsOfSegments, walFileName } from '@understory/postgres/wal'
import { PLAIN_CLIENT } from '@understory/rpc'
import {
  BlockCache,
  KEY_CONTROL_FILE,
  KEY_DATABASE,
  KEY_RELATION_MAP,
  KEY_TWO_PHASE,
  ShardSplitter,
  blockKey,
  relationSizeBytes,
  relationSizeKey,
  shardOfKey,
  slruKey,
  smallKey,
} from '@understory/storage'
import type { ImageGenerationSettings, ImportValue, Key } from '@understory/storage'
import type { MergeJobs } from '../src/compaction/merge-protocol.ts'
import { mergeHandlers } from '../src/compaction/merge-worker.ts'
import type { ImageJobs } from '../src/images/image-protocol.ts'
import { CommitPositions } from '../src/ingest/commit-positions.ts'
import { SafekeeperStreams } from '../src/ingest/safekeeper-stream.ts'
import { imageHandlers } from '../src/images/image-worker.ts'
import { ObjectChunks } from '../src/layers/object-chunks.ts'
import { ShardRegistry } from '../src/shard/shard-registry.ts'
import type { ShardParts } from '../src/shard/connect-parts.ts'
import type { Shard } from '../src/shard/shard.ts'
import { ShardState } from '../src/state/shard-state.ts'
import type { WalBatch } from '../src/ingest/fragments.ts'

export const TENANT = 'a'.repeat(32) as TenantId
export const TIMELINE = 'b'.repeat(32) as TimelineId

export const LIMITS: ShardParts['limits'] = {
  openLayerBytesMax: 4 << 20,
  openLayerAgeMsMax: 3_600_000,
  importLayerBytesMax: 16 << 20,
  layerFilesBytesMax: undefined,
  compaction: { historyMs: 86_400_000, historyBytesMin: 64 << 20, mergedLayerBytesMax: 1 << 20 },
}

export interface Bench extends AsyncDisposable {
  readonly registry: ShardRegistry
  readonly store: ObjectStore
  readonly errors: string[]
  readonly warnings: string[]
}

interface BenchParts {
  readonly disk?: Disk
  readonly workers?: Workers<ImageJobs>
  /** By default `local` below the folder. */
  readonly dataDirectory?: string
  /** In place of the object store's own. */
  readonly getRange?: ObjectStore['getRange']
  /** False: shards are still being loaded when the bench is there. */
  readonly isLoaded?: boolean
}

/** A registry over folders below `directory`: `local` and `objects`. */
export async function openBench(
  directory: string,
  limits: ShardParts['limits'] = LIMITS,
  parts: BenchParts = {},
): Promise<Bench> {
  const errors: string[] = []
  const warnings: string[] = []
  const log: Log = {
    ...silentLog,
    error: (event, fields) => errors.push(`${event} ${String(fields?.['error'])}`),
    warn: (event, fields) => warnings.push(`${event} ${String(fields?.['error'])}`),
    child: () => log,
  }
  const env = { ...realEnv(log), ...(parts.disk === undefined ? {} : { disk: parts.disk }) }
  const store = await localObjectStore(join(directory, 'objects'), env)
  if (parts.getRange !== undefined) store.getRange = parts.getRange
  const workers = parts.workers ?? inlineWorkers<ImageJobs>(imageHandlers)
  const registry = new ShardRegistry(
    {
      env,
      store,
      cache: new BlockCache(32 << 20),
      chunks: new ObjectChunks({ store, keptBytesMax: 8 << 20 }),
      workers,
      imageTurns: new Semaphore(4),
      mergeWorkers: inlineWorkers<MergeJobs>(mergeHandlers),
      mergeTurns: new Semaphore(1),
      fetchTurns: new Semaphore(2),
      positions: new CommitPositions(env, PLAIN_CLIENT),
      streams: new SafekeeperStreams({ env, rpc: PLAIN_CLIENT }),
      limits,
    },
    parts.dataDirectory ?? join(directory, 'local'),
  )
  await registry.loadAll()
  if (parts.isLoaded !== false) await registry.loaded()
  return {
    registry,
    store,
    errors,
    warnings,
    [Symbol.asyncDispose]: async () => {
      await registry.stop()
      await store.close()
    },
  }
}

export async function attach(
  bench: Bench,
  layout: { readonly count: number; readonly stripeBlocks: number },
  generation: number,
  create: boolean,
  imageGeneration: ImageGenerationSettings,
  major: PgMajor = 17,
): Promise<Shard[]> {
  const shards: Shard[] = []
  for (let number = 0; number < layout.count; number++) {
    const shard: ShardIdentity = { ...layout, number }
    const postgres = { major, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 16 << 20 }
    await bench.registry.attach({
      owner: { tenantId: TENANT, timelineId: TIMELINE, shard },
      generation,
      create,
      safekeepers: [],
      postgres,
      imageGeneration,
    })
    shards.push(bench.registry.get(TENANT, TIMELINE, shard))
  }
  return shards
}

/** The state behind the reader of a shard: tests look at it, and put damage into it. */
export function stateOf({ reader }: Shard): ShardState {
  assert(reader instanceof ShardState, () => 'a reader of something else')
  return reader
}

const at = (path: string, root: string): string => path.slice(root.length + 1)

async function filesBelow(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => at(join(entry.parentPath, entry.name), root))
    .sort()
}

/** Every value of a stopped cluster's files. */
export async function* valuesOfCluster(
  root: string,
  major: PgMajor,
): AsyncGenerator<ImportValue, void, void> {
  const sizes = new Map<string, { readonly key: Key; blocks: number }>()
  for (const path of await filesBelow(root)) {
    const relation = parseRelationPath(path, major)
    const slru = parseSlruSegmentPath(path)
    const directory = path.slice(0, path.lastIndexOf('/'))
    const database = parseDatabasePath(directory, major)
    if (relation !== undefined) {
      const { spcOid, dbOid, relNumber, fork, segment } = relation
      const bytes = await readFile(join(root, path))
      for (let block = 0; block * PAGE_SIZE < bytes.length; block++) {
        const key = blockKey(spcOid, dbOid, relNumber, fork, segment * RELATION_SEGMENT_BLOCKS + block)
        yield { key, bytes: bytes.subarray(block * PAGE_SIZE, (block + 1) * PAGE_SIZE) }
      }
      const name = `${spcOid}/${dbOid}/${relNumber}/${fork}`
      const blocks = segment * RELATION_SEGMENT_BLOCKS + bytes.length / PAGE_SIZE
      const known = sizes.get(name)
      if (known === undefined)
        sizes.set(name, { key: relationSizeKey(spcOid, dbOid, relNumber, fork), blocks })
      else known.blocks = Math.max(known.blocks, blocks)
    } else if (slru !== undefined) {
      const bytes = await readFile(join(root, path))
      for (let page = 0; page * PAGE_SIZE < bytes.length; page++) {
        const key = slruKey(slru.kind, slru.segment * SLRU_PAGES_PER_SEGMENT + page)
        yield { key, bytes: bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE) }
      }
    } else if (path.endsWith('/pg_filenode.map') && database !== undefined) {
      const { spcOid, dbOid } = database
      yield { key: smallKey(KEY_RELATION_MAP, spcOid, dbOid, 0), bytes: await readFile(join(root, path)) }
    } else if (path.endsWith('/PG_VERSION') && database !== undefined) {
      yield { key: smallKey(KEY_DATABASE, database.spcOid, database.dbOid, 0), bytes: Uint8Array.of(1) }
    } else if (path.startsWith('pg_twophase/')) {
      const xid = parseTwoPhaseName(path.slice('pg_twophase/'.length), major)
      if (xid !== undefined)
        yield { key: smallKey(KEY_TWO_PHASE, 0, 0, xid), bytes: await readFile(join(root, path)) }
    } else if (path === CONTROL_FILE_PATH) {
      yield { key: smallKey(KEY_CONTROL_FILE, 0, 0, 0), bytes: await readFile(join(root, path)) }
    }
  }
  for (const { key, blocks } of sizes.values()) yield { key, bytes: relationSizeBytes(blocks) }
}

/**
 * Imports a cleanly stopped cluster into every shard; returns where its WAL continues. `endLsn`: where its pages can be
 * read from, as for a backup during which WAL was written.
 */
export async function importCluster(
  shards: readonly Shard[],
  root: string,
  major: PgMajor,
  endLsn?: Lsn,
): Promise<Lsn> {
  const { checkpoint } = parseControlFile(await readFile(join(root, CONTROL_FILE_PATH)))
  for (const shard of shards) {
    async function* batches(): AsyncGenerator<readonly ImportValue[], void, void> {
      for await (const value of valuesOfCluster(root, major)) {
        const owner = shardOfKey(shard.owner.shard, value.key)
        if (owner === shard.owner.shard.number || value.key.keyClass === KEY_CONTROL_FILE) yield [value]
      }
    }
    await shard.import(checkpoint.redoLsn, batches(), () => endLsn ?? checkpoint.redoLsn)
  }
  return checkpoint.redoLsn
}

/**
 * A shard's batches of about `batchBytes` of the WAL files of `root` from `startLsn` on, as a safekeeper sends them.
 */
export async function* batchesOf(
  root: string,
  shard: ShardIdentity,
  settings: RedoSettings,
  startLsn: Lsn,
  batchBytes: number,
): AsyncGenerator<WalBatch, void, void> {
  const splitter = new ShardSplitter(shard, settings)
  splitter.want(new Set([shard.number]))
  let from = startLsn
  let nextLsn = startLsn
  const batch = (): WalBatch => ({
    startLsn: from,
    endLsn: nextLsn,
    commitLsn: nextLsn,
    entries: present(splitter.take().get(shard.number), 'shard'),
  })
  const segments = await readSegments(root, startLsn)
  for (const record of readRecordsOfSegments((segment) => segments.get(segment), { startLsn })) {
    splitter.split(record)
    nextLsn = record.nextLsn
    if (splitter.written.bytes < batchBytes) continue
    yield batch()
    from = nextLsn
  }
  yield batch()
}

/** Feeds the WAL files of `root` from where the shards stand; gives the WAL's end. */
export async function feedWal(shards: readonly Shard[], root: string, batchBytes = 256 * 1024): Promise<Lsn> {
  let end = 0 as Lsn
  for (const shard of shards) {
    const { owner, reader, ingestedLsn } = shard
    for await (const batch of batchesOf(root, owner.shard, reader.settings, ingestedLsn, batchBytes)) {
      await shard.take(batch)
      end = batch.endLsn
    }
  }
  return end
}

const SEGMENT_BYTES = 16 << 20
async function readSegments(root: string, from: Lsn): Promise<Map<number, Uint8Array>> {
  const segments = new Map<number, Uint8Array>()
  for (let segment = Math.floor(from / SEGMENT_BYTES); ; segment++) {
    const path = join(root, 'pg_wal', walFileName(1, segment, SEGMENT_BYTES))
    if (!existsSync(path)) return segments
    segments.set(segment, await readFile(path))
  }
}

/**
 * Goal: a merge never takes what a shard cannot have again, never disturbs ingest, and waits for nothing for ever:
 * not for a file that is gone, a full disk, or another shard. Method: the real layers, files and object store of a
 * shard; layers made by hand; a disk and a thread that fail as the test wants.
 */
import { readdir, rm } from 'node:fs/promises'
import { Semaphore } from '@understory/actor'
import { LSN_MAX, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { inlineWorkers, realEnv, seededRng, silentLog } from '@understory/env'
import type { Disk, Workers } from '@understory/env'
import { KeyTable, LayerMap, META_IMAGE, OpenLayer, smallKey } from '@understory/storage'
import type { Key, LayerFile } from '@understory/storage'
import { temporaryDirectory } from '@understory/testcontainers'
import { expect, onTestFinished, test, vi } from 'vitest'
import { EMPTY_INDEX, layerStoreParts } from '../../test/layer-support.ts'
import { LayerStore } from '../layers/layer-store.ts'
import { rollBack } from '../shard/rollback.ts'
import { ShardState } from '../state/shard-state.ts'
import { Compactor } from './compactor.ts'
import type { MergeJobs } from './merge-protocol.ts'
import { mergeHandlers } from './merge-worker.ts'

const START = 0x1000 as Lsn
const WITHIN = { timeout: 10_000 }

const key = (number: number): Key => smallKey(7, 1663, number, 0)
const rng = seededRng(7)
/** Which do not get smaller when they are compressed. */
const randomBytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => rng.below(256))

/** Of the key, and of one that all layers have, so that no two lie behind each other. */
function layerOf(number: number, at: Lsn, bytes: number): OpenLayer {
  const layer = new OpenLayer(new KeyTable())
  layer.putBytes(layer.keys.intern(key(number)), at, META_IMAGE, randomBytes(bytes))
  layer.putBytes(layer.keys.intern(key(100 + number)), at, META_IMAGE, randomBytes(16))
  layer.freeze()
  return layer
}

interface Setup {
  readonly readableLsn?: Lsn
  readonly turns?: Semaphore
  readonly refusal?: (path: string) => Error | undefined
  readonly workers?: Workers<MergeJobs>
  readonly mergedLayerBytesMax?: number
}

/** A shard with five overlapping layers of an import. */
async function imported(setup: Setup = {}) {
  const {
    readableLsn = START,
    turns = new Semaphore(1),
    refusal,
    workers,
    mergedLayerBytesMax = 64 << 20,
  } = setup
  const directory = await temporaryDirectory({ prefix: 'compactor' })
  onTestFinished(() => directory[Symbol.asyncDispose]())
  const events: string[] = []
  const note = (event: string): void => void events.push(event)
  const env = realEnv({ ...silentLog, info: note, warn: note, error: note })
  const disk: Disk = {
    ...env.disk,
    durableReplace: async (path, bytes) => {
      const error = refusal?.(path)
      if (error !== undefined) throw error
      await env.disk.durableReplace(path, bytes)
    },
  }
  const parts = await layerStoreParts({ env, directory: directory.path, disk })
  const { files, stalls } = parts
  const layers = new LayerStore(parts, { ...EMPTY_INDEX, readableLsn })
  const state = new ShardState(EMPTY_INDEX.owner)
  const opened: LayerFile[] = []
  for (const number of [1, 2, 3, 4, 5])
    opened.push(await layers.writeImported(layerOf(number, START, 50_000), undefined))
  await state.load(opened, START)
  const compactor = new Compactor({
    env,
    state,
    layers,
    stalls,
    workers: workers ?? inlineWorkers<MergeJobs>(mergeHandlers),
    turns,
    limits: { historyMs: 600_000, historyBytesMin: 1, mergedLayerBytesMax },
    startUpload: () => undefined,
  })
  onTestFinished(async () => {
    const stopped = compactor.stop()
    stalls.stop()
    await stopped
    await layers.stop()
  })
  const addWal = async (at: Lsn): Promise<void> => {
    const file = await layers.write(layerOf(50, at, 50_000), at)
    state.map.replace([state.open], [file, state.open])
    state.ingestedLsn = at
    compactor.wake()
  }
  const isMerged = (count = 1): void =>
    expect(events.filter((event) => event === 'layers_merged').length).toBeGreaterThanOrEqual(count)
  return { env, files, stalls, layers, state, compactor, events, addWal, isMerged }
}

test('what an import has stays after a rollback, however its layers and those of WAL were merged', async () => {
  const { layers, state, compactor, addWal, isMerged } = await imported()
  compactor.start()
  await vi.waitFor(() => isMerged(), WITHIN)
  for (let lsn = 0x2000; lsn <= 0x9000; lsn += 0x1000) await addWal(lsn as Lsn)
  await vi.waitFor(() => isMerged(3), WITHIN)
  const kept = new Set(rollBack(layers.index, 0x2800 as Lsn).layers.map(({ name }) => name))
  const map = new LayerMap()
  for (const layer of state.map.layers) if (kept.has(layers.entryOf(layer)?.name ?? '')) map.push(layer)
  for (const number of [1, 2, 3, 4, 5])
    expect(await map.newest(key(number), LSN_MAX), `key ${number}`).toBeDefined()
})

test('nothing is merged before ingest has reached the LSN from which on a shard is read', async () => {
  const readableLsn = 0x9000 as Lsn
  const ingestedAtMerges: Lsn[] = []
  const merging = inlineWorkers<MergeJobs>(mergeHandlers)
  const workers: Workers<MergeJobs> = {
    ...merging,
    run: (kind, request) => {
      ingestedAtMerges.push(shard.state.ingestedLsn)
      return merging.run(kind, request)
    },
  }
  const shard = await imported({ readableLsn, workers })
  shard.compactor.start()
  await vi.waitFor(() => expect(shard.layers.index.history).toBeDefined(), WITHIN)
  // As ingest reads a page whose chain has grown too long.
  expect(await shard.state.readBytes(key(1), START)).toHaveLength(50_000)
  await shard.addWal(readableLsn)
  await vi.waitFor(() => shard.isMerged(), WITHIN)
  expect(Math.min(...ingestedAtMerges)).toBe(readableLsn)
})

test('a file that is gone is fetched again, and the merge continues', async () => {
  const { layers, stalls, compactor, isMerged, events } = await imported()
  await layers.uploads.upload()
  const [, second] = layers.index.layers
  await rm(layers.pathOf(second!))
  compactor.start()
  await vi.waitFor(() => isMerged(), WITHIN)
  expect(events).not.toContain('compaction_failed')
  expect(stalls.reason).toBeUndefined()
})

test('a merge for which the disk has no room leaves nothing behind, and stalls nothing', async () => {
  let roomFor = Infinity
  const refusal = (path: string): Error | undefined =>
    path.endsWith('.json') || --roomFor >= 0 ? undefined : fail('disk_full', 'no room')
  const setup = { refusal, mergedLayerBytesMax: 60_000 }
  const { files, layers, stalls, compactor, isMerged, events } = await imported(setup)
  // Parts of the merge, but not all.
  roomFor = 2
  compactor.start()
  await vi.waitFor(() => expect(events).toContain('compaction_failed'), WITHIN)
  expect(stalls.reason).toBeUndefined()
  expect((await readdir(files.directory)).sort()).toEqual(
    [...layers.index.layers.map(({ name }) => name), 'index.json'].sort(),
  )
  roomFor = Infinity
  await vi.waitFor(() => isMerged(), WITHIN)
})

test('a shard stops at once while another one merges', async () => {
  const turns = new Semaphore(1)
  const merge = Promise.withResolvers<void>()
  const merging = inlineWorkers<MergeJobs>(mergeHandlers)
  let isMerging = false
  const workers: Workers<MergeJobs> = {
    ...merging,
    run: async (kind, request) => {
      isMerging = true
      await merge.promise
      return merging.run(kind, request)
    },
  }
  const first = await imported({ turns, workers })
  const second = await imported({ turns })
  first.compactor.start()
  await vi.waitFor(() => expect(isMerging).toBe(true), WITHIN)
  second.compactor.start()
  await vi.waitFor(() => expect(second.layers.index.history).toBeDefined(), WITHIN)
  await second.compactor.stop()
  expect(first.events).not.toContain('layers_merged')
  merge.resolve()
  await vi.waitFor(() => first.isMerged(), WITHIN)
})

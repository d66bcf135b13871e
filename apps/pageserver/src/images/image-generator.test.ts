// Goal: all records of an image are redone with the settings that hold for them. Method: a shard's state by hand, whose
// settings change while the values of a page are read from a layer.
import { Semaphore } from '@understory/actor'
import type { Lsn } from '@understory/base'
import { realEnv, silentLog } from '@understory/env'
import type { Workers } from '@understory/env'
import { PAGE_SIZE } from '@understory/postgres/page'
import type { RedoSettings } from '@understory/postgres/redo'
import { META_IMAGE, OpenLayer, blockKey } from '@understory/storage'
import type { Key, ValueRef } from '@understory/storage'
import { expect, test, vi } from 'vitest'
import { ImageGenerator } from './image-generator.ts'
import type { ImageJobs } from './image-protocol.ts'
import { ShardState } from '../state/shard-state.ts'
import { Stalls } from '../layers/stalls.ts'

const OWNER = {
  tenantId: 'a'.repeat(32),
  timelineId: 'b'.repeat(32),
  shard: { number: 0, count: 1, stripeBlocks: 8 },
} as ShardState['owner']
const [BEFORE, AFTER] = [false, true].map((walLogHints): RedoSettings => ({
  major: 17,
  dataChecksums: false,
  walLogHints,
})) as [RedoSettings, RedoSettings]
const RECORD = 1

/** A layer whose bytes are read and not in memory. */
class LayerOnDisk extends OpenLayer {
  reading: () => void = () => undefined
  override gather(key: Key, at: Lsn, floor: Lsn, found: ValueRef[]): boolean {
    const isOver = super.gather(key, at, floor, found)
    for (const [i, value] of found.entries()) {
      if (value.lengthBytes === PAGE_SIZE) continue
      const { layer, lsn, meta, blockIndex, lengthBytes } = value
      const load = (): Promise<Uint8Array> => {
        this.reading()
        return value.load()
      }
      found[i] = { layer, lsn, meta, blockIndex, lengthBytes, bytes: () => undefined, load }
    }
    return isOver
  }
}

test('a page that was gathered before settings changed is not redone with those after', async () => {
  const env = realEnv(silentLog)
  const state = new ShardState(OWNER)
  let settings = BEFORE
  vi.spyOn(state, 'settings', 'get').mockImplementation(() => settings)
  vi.spyOn(state, 'hasSettingsOfNowSince').mockImplementation(() => settings === BEFORE)
  const layer = new LayerOnDisk(state.keys)
  const keyId = state.keys.intern(blockKey(1663, 5, 16384, 0, 0))
  layer.putBytes(keyId, 0x1000 as Lsn, META_IMAGE, new Uint8Array(PAGE_SIZE))
  layer.putBytes(keyId, 0x2000 as Lsn, RECORD, new Uint8Array(40))
  state.ledger.add(keyId)
  state.map.push(layer)
  state.map.push(state.open)
  layer.reading = () => {
    settings = AFTER
  }
  const run = vi.fn<Workers<ImageJobs>['run']>()
  const fail = vi.fn<(error: unknown) => void>()
  const generator = new ImageGenerator(
    {
      state,
      clock: env.clock,
      workers: { run } as unknown as Workers<ImageJobs>,
      turns: new Semaphore(1),
      stalls: new Stalls(env),
      made: async () => undefined,
      fail,
    },
    { enabled: true, thresholdRecords: 1 },
  )
  generator.queue(keyId)
  await generator.drained()
  expect(settings).toBe(AFTER)
  expect(fail).not.toHaveBeenCalled()
  expect(run).not.toHaveBeenCalled()
  generator.stop()
})

test('settings that change over many pages leave the event loop its turns, and the longest chains come first', async () => {
  const env = realEnv(silentLog)
  const state = new ShardState(OWNER)
  const pages = 150_000
  for (let block = 0; block < pages; block++)
    state.ledger.reset(state.keys.intern(blockKey(1663, 5, 16384, 0, block)), 4 + (block % 3))
  const queued: number[] = []
  const generator = new ImageGenerator(
    {
      state,
      clock: env.clock,
      workers: { run: vi.fn<Workers<ImageJobs>['run']>() } as unknown as Workers<ImageJobs>,
      turns: new Semaphore(1),
      stalls: new Stalls(env),
      made: async () => undefined,
      fail: (error) => {
        throw error
      },
    },
    { enabled: false, thresholdRecords: 5 },
  )
  vi.spyOn(generator, 'queue').mockImplementation((keyId) => void queued.push(keyId))
  let turns = 0
  const count = (): void => {
    turns++
    turn = setImmediate(count)
  }
  let turn = setImmediate(count)
  generator.change({ enabled: true, thresholdRecords: 5 })
  await generator.drained()
  clearImmediate(turn)
  expect(queued).toHaveLength((pages / 3) * 2)
  const lengths = queued.map((id) => state.ledger.countOf(id))
  expect(lengths).toEqual(lengths.toSorted((a, b) => b - a))
  expect(turns).toBeGreaterThan(1)
  generator.stop()
})

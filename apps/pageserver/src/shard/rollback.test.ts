import { parseTenantId, parseTimelineId } from '@understory/base'
import type { Lsn } from '@understory/base'
import { LAYER_KIND_DELTA, LAYER_KIND_IMAGE } from '@understory/storage'
import type { IndexPart, LayerEntry } from '@understory/storage'
import { expect, test } from 'vitest'
import { rollBack } from './rollback.ts'

const at = (lsn: number): Lsn => lsn as Lsn
const layer = (kind: LayerEntry['kind'], lsnMin: number, lsnMax: number): LayerEntry => ({
  name: `${kind}-${lsnMin}-${lsnMax}`,
  kind,
  sizeBytes: 1,
  crc: 0,
  lsnMin: at(lsnMin),
  lsnMax: at(lsnMax),
})
const LAYERS = [
  layer(LAYER_KIND_IMAGE, 100, 100),
  layer(LAYER_KIND_DELTA, 110, 195),
  layer(LAYER_KIND_DELTA, 205, 290),
  layer(LAYER_KIND_DELTA, 301, 340),
]
const INDEX: IndexPart = {
  owner: {
    tenantId: parseTenantId('1'.repeat(32)),
    timelineId: parseTimelineId('2'.repeat(32)),
    shard: { number: 0, count: 1, stripeBlocks: 256 },
  },
  generation: 4,
  postgres: { major: 17, systemId: 1n, pgTimelineId: 1, walSegmentBytes: 1 << 24 },
  startLsn: at(100),
  readableLsn: at(100),
  consistentLsn: at(350),
  imageGeneration: { enabled: true, thresholdRecords: 32 },
  nextSequence: 9,
  layers: LAYERS,
}

test('layers beyond are removed, and ingest continues where the last one that is kept ends', () => {
  expect(rollBack(INDEX, at(250))).toEqual({ ...INDEX, layers: LAYERS.slice(0, 2), consistentLsn: at(195) })
  expect(rollBack(INDEX, at(290))).toEqual({ ...INDEX, layers: LAYERS.slice(0, 3), consistentLsn: at(290) })
  expect(rollBack(INDEX, at(105))).toEqual({ ...INDEX, layers: LAYERS.slice(0, 1), consistentLsn: at(100) })
})

test('the WAL of a base backup that is in no layer is taken in, though nothing is read before its end', () => {
  const backup = { ...INDEX, readableLsn: at(250) }
  expect(rollBack(backup, at(250))).toMatchObject({ layers: LAYERS.slice(0, 2), consistentLsn: at(195) })
  expect(rollBack(backup, at(300))).toMatchObject({ layers: LAYERS.slice(0, 3), consistentLsn: at(290) })
  const oneLayer = {
    ...backup,
    layers: [layer(LAYER_KIND_IMAGE, 100, 100), layer(LAYER_KIND_DELTA, 110, 340)],
  }
  expect(rollBack(oneLayer, at(300))).toEqual({
    ...oneLayer,
    layers: oneLayer.layers.slice(0, 1),
    consistentLsn: at(100),
  })
  expect(() => rollBack(backup, at(249))).toThrow(/begins at 0\/FA, after 0\/F9/)
})

test('a layer before one that goes may not come after it', () => {
  const mixed = { ...INDEX, layers: [...LAYERS, layer(LAYER_KIND_DELTA, 210, 220)] }
  expect(rollBack(mixed, at(250)).layers).toEqual(LAYERS.slice(0, 2))
})

test('without a layer beyond only the position goes back, and never forward', () => {
  expect(rollBack(INDEX, at(345))).toEqual({ ...INDEX, consistentLsn: at(345) })
  expect(rollBack(INDEX, at(400))).toEqual(INDEX)
})

test('a shard that began later is refused', () => {
  expect(() => rollBack(INDEX, at(99))).toThrow(/begins at 0\/64, after 0\/63/)
})

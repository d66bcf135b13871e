// Goal: pageservers of two versions may write the same index. Method: fields of a later version are in what is written
// again; one that a later version closed to this one is refused.
import { lsn, parseTenantId, parseTimelineId } from '@understory/base'
import { expect, test } from 'vitest'
import { encodeIndexPart, parseIndexPart } from './index-part.ts'
import { LAYER_KIND_DELTA } from './layer-format.ts'

const part = {
  owner: {
    tenantId: parseTenantId('1'.repeat(32)),
    timelineId: parseTimelineId('2'.repeat(32)),
    shard: { number: 0, count: 1, stripeBlocks: 256 },
  },
  generation: 3,
  postgres: { major: 17, systemId: 5n, pgTimelineId: 1, walSegmentBytes: 16 * 1024 * 1024 },
  startLsn: lsn(0x100),
  readableLsn: lsn(0x200),
  consistentLsn: lsn(0x300),
  imageGeneration: { enabled: true, thresholdRecords: 32 },
  imageGenerationRevision: 4,
  nextSequence: 1,
  layers: [
    {
      name: `delta-${'0'.repeat(16)}-${'0'.repeat(16)}-00000001-g00000003`,
      kind: LAYER_KIND_DELTA,
      sizeBytes: 10,
      crc: 7,
      lsnMin: lsn(0x100),
      lsnMax: lsn(0x300),
    },
  ],
  history: { clockMs: 70, samples: [{ lsn: lsn(0x180), atMs: 40 }] },
  retiredLayers: [`delta-${'0'.repeat(16)}-${'0'.repeat(16)}-00000000-g00000003`],
  isCopy: true,
} as const

const json = (): Record<string, unknown> =>
  JSON.parse(encodeIndexPart(part).toString()) as Record<string, unknown>
const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))

test('an index reads as it was written', () => {
  expect(parseIndexPart(encodeIndexPart(part), 'index', part.owner)).toEqual(part)
})

test('fields of a later version, of the index and of its layers, are written again', () => {
  const later = {
    ...json(),
    minReader: 1,
    horizonLsn: '0/200',
    layers: (json()['layers'] as object[]).map((layer) => ({ ...layer, level: 1 })),
  }
  const again = encodeIndexPart(parseIndexPart(bytes(later), 'index', part.owner))
  expect(JSON.parse(again.toString())).toEqual(later)
})

test('an index that wants a later reader is refused', () => {
  expect(() => parseIndexPart(bytes({ ...json(), minReader: 2 }), 'index', part.owner)).toThrow(/minReader/)
})

test('the index of another shard, or of another generation, is not taken', () => {
  const [tenantId, timelineId] = [parseTenantId('3'.repeat(32)), parseTimelineId('4'.repeat(32))]
  const { owner } = part
  for (const wanted of [
    { ...owner, tenantId },
    { ...owner, timelineId },
    { ...owner, shard: { ...owner.shard, number: 1, count: 2 } },
    { ...owner, shard: { ...owner.shard, stripeBlocks: 8 } },
  ])
    expect(() => parseIndexPart(encodeIndexPart(part), 'index', wanted)).toThrow(
      /^index "index" is of shard 0/,
    )
  expect(() => parseIndexPart(encodeIndexPart(part), 'index', owner, 4)).toThrow('is of generation 3, not 4')
  expect(parseIndexPart(encodeIndexPart(part), 'index', owner, 3)).toEqual(part)
})

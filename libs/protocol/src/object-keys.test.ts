/**
 * The layouts, letter for letter: what is stored under them outlives every release. Where this test fails, objects that
 * exist would be lost, or would never be deleted; a new layout needs readers of the old one.
 */
import { lsn, parseTenantId, parseTimelineId } from '@understory/base'
import { LAYER_KIND_DELTA, indexPartName, layerName } from '@understory/storage'
import { expect, test } from 'vitest'
import {
  LEADER_KEY,
  TENANT_DOCUMENTS_PREFIX,
  TIMELINE_DOCUMENTS_PREFIX,
  configurationKey,
  shardPrefix,
  tenantDocumentKey,
  tenantNameKey,
  tenantOfDocumentKey,
  timelineDocumentKey,
  timelineOfDocumentKey,
  timelinePrefixes,
  walPartialKey,
  walPrefix,
  walSegmentKey,
  walTimelineKey,
} from './index.ts'

const TENANT = '0123456789abcdef0123456789abcdef'
const TIMELINE = 'fedcba9876543210fedcba9876543210'
const REF = { tenantId: parseTenantId(TENANT), timelineId: parseTimelineId(TIMELINE) }
const POSTGRES = { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 } as const
const SHARD = { ...REF, shard: { number: 3, count: 8, stripeBlocks: 256 } }

test('WAL of a timeline', () => {
  expect(walPrefix(REF)).toBe(`wal/${TENANT}/${TIMELINE}/`)
  expect(walSegmentKey(REF, POSTGRES, 258)).toBe(`wal/${TENANT}/${TIMELINE}/000000010000000100000002`)
  expect(walPartialKey(REF, POSTGRES, 258, lsn(0x1_02ab_cdef))).toBe(
    `wal/${TENANT}/${TIMELINE}/000000010000000100000002.partial.0000000102abcdef`,
  )
  expect(walTimelineKey(REF)).toBe(`wal/${TENANT}/${TIMELINE}/timeline.json`)
})

test('layers and index parts of a shard', () => {
  const prefix = `tenants/${TENANT}/timelines/${TIMELINE}/shard-3-of-8/`
  expect(shardPrefix(SHARD)).toBe(prefix)
  expect(shardPrefix(SHARD) + indexPartName(0xab)).toBe(`${prefix}index_part-000000ab.json`)
  const layer = layerName(LAYER_KIND_DELTA, lsn(0x16), lsn(0x1f), 4, 5)
  expect(shardPrefix(SHARD) + layer).toBe(
    `${prefix}delta-0000000000000016-000000000000001f-00000004-g00000005`,
  )
})

test('documents of the control plane', () => {
  expect(LEADER_KEY).toBe('control/lead.json')
  expect(TENANT_DOCUMENTS_PREFIX).toBe('control/tenants/')
  expect(tenantDocumentKey(TENANT)).toBe(`control/tenants/${TENANT}.json`)
  expect(tenantOfDocumentKey(tenantDocumentKey(TENANT))).toBe(TENANT)
  expect(TIMELINE_DOCUMENTS_PREFIX).toBe('control/timelines/')
  expect(timelineDocumentKey(REF)).toBe(`control/timelines/${TENANT}/${TIMELINE}.json`)
  expect(timelineOfDocumentKey(timelineDocumentKey(REF))).toEqual(REF)
  expect(tenantNameKey('shop')).toBe('control/names/shop')
  expect(configurationKey(TIMELINE)).toBe(`control/configurations/${TIMELINE}.json`)
})

test('what is deleted with a timeline is all that safekeepers and pageservers store of it', () => {
  const prefixes = timelinePrefixes(REF)
  const stored = [walSegmentKey(REF, POSTGRES, 1), walTimelineKey(REF), shardPrefix(SHARD)]
  for (const key of stored) expect(prefixes.filter((prefix) => key.startsWith(prefix))).toHaveLength(1)
  const another = { ...REF, timelineId: parseTimelineId('a'.repeat(32)) }
  for (const key of [
    walTimelineKey(another),
    shardPrefix({ ...SHARD, ...another }),
    tenantDocumentKey(TENANT),
  ])
    expect(prefixes.some((prefix) => key.startsWith(prefix))).toBe(false)
})

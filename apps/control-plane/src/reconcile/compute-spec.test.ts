/** The spec of a compute and its digest, which stands in documents that outlive the program. */
import { expect, test } from 'vitest'
import { computeSpecOf, specDigest } from './compute-spec.ts'
import { readTenantDocumentV1, splitTenant } from '../documents/tenant-document-v1.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import { FPW_INITIAL } from '../documents/timeline-document.ts'

function documents(): { tenant: TenantDocument; timeline: TimelineDocument } {
  const read = readTenantDocumentV1({
    version: 1,
    tenantId: 'a1'.repeat(16),
    name: 'shop',
    requestId: '',
    postgresMajor: 17,
    shardCount: 1,
    stripeBlocks: 256,
    imageThresholdRecords: 32,
    settings: { work_mem: '8MB' },
    createdAtS: 0,
    timelines: [
      {
        timelineId: 'b2'.repeat(16),
        name: 'main',
        startLsn: '0/1000000',
        bootstrapped: true,
        safekeeperNodes: ['sk-1', 'sk-2'],
        membershipGeneration: 2,
        newSafekeeperNodes: ['sk-2', 'sk-3'],
        shards: [{ node: 'ps-1', generation: 1 }],
        computeHost: 'host-1',
        addresses: { 'sk-1': 'a:1', 'sk-2': 'b:1', 'sk-3': 'c:1', 'ps-1': 'p:1' },
        sqlPort: 5432,
        specGeneration: 9,
        specText: '',
        fpw: FPW_INITIAL,
      },
    ],
  })
  if ('problem' in read) throw new Error(read.problem)
  const { tenant, timelines } = splitTenant(read.document)
  return { tenant, timeline: timelines[0]! }
}

test('the digest is that of earlier releases, so that an upgrade sends no compute a new spec', () => {
  const { tenant, timeline } = documents()
  expect(specDigest(computeSpecOf(tenant, timeline))).toBe(
    '48040332857c530a5b5fd287a15198cf11018b6545993b36fde78f5532f924ea',
  )
})

test('the digest changes with everything but the generation of the spec', () => {
  const { tenant, timeline } = documents()
  const digest = specDigest(computeSpecOf(tenant, timeline))
  expect(specDigest(computeSpecOf(tenant, { ...timeline, specGeneration: 10 }))).toBe(digest)
  for (const changed of [
    computeSpecOf({ ...tenant, stripeBlocks: 8 }, timeline),
    computeSpecOf(tenant, { ...timeline, membershipGeneration: 3 }),
    computeSpecOf(tenant, { ...timeline, addresses: { ...timeline.addresses, 'ps-1': 'p:2' } }),
  ])
    expect(specDigest(changed)).not.toBe(digest)
})

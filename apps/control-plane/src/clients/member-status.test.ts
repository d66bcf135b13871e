/**
 * Goal: one safekeeper that answers with an error never keeps a view of the others from being made. Method: by table.
 */
import { lsn, fail } from '@understory/base'
import { MemoryNodes } from '@understory/protocol/clients/memory'
import { expect, test } from 'vitest'
import { MEMBER_AWAY, memberStatus } from './member-status.ts'

const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }
const POSTGRES = { major: 17, systemId: 7n, pgTimelineId: 1, walSegmentBytes: 16 << 20 } as const

test('what a member answers becomes what is shown of it', async () => {
  const nodes = new MemoryNodes()
  const safekeeper = nodes.safekeeper('sk-1:1')
  await safekeeper.createTimeline(REF, POSTGRES, lsn(2))
  safekeeper.set(REF, { flushLsn: lsn(3), membershipGeneration: 1 })
  expect(await memberStatus(safekeeper.walStatus(REF))).toEqual({
    alive: true,
    flushLsn: 3n,
    commitLsn: 2n,
    membershipGeneration: 1n,
    failure: '',
  })
  for (const code of ['unavailable', 'timeout', 'unknown_timeline'] as const)
    expect(await memberStatus(Promise.reject(fail(code, 'away')))).toEqual(MEMBER_AWAY)
  for (const code of ['bad_file', 'disk_failed', 'precondition', 'disk_full', 'denied'] as const)
    expect(await memberStatus(Promise.reject(fail(code, 'why')))).toEqual({
      ...MEMBER_AWAY,
      alive: true,
      failure: 'why',
    })
  await expect(memberStatus(Promise.reject(new TypeError('a bug')))).rejects.toThrow('a bug')
})

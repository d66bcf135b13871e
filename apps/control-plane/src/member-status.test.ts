/** Goal: one safekeeper that answers with an error never keeps a view of the others from being made. Method: by table. */
import { refuse } from '@understory/base'
import { GetWalStatusResponse } from '@understory/rpc'
import { expect, test } from 'vitest'
import { MEMBER_AWAY, memberStatus } from './clients.ts'

test('what a member answers becomes what is shown of it', async () => {
  const whole = GetWalStatusResponse.fromPartial({ flushLsn: 3n, commitLsn: 2n, membershipGeneration: 1n })
  expect(await memberStatus(Promise.resolve(whole))).toEqual({
    alive: true,
    flushLsn: 3n,
    commitLsn: 2n,
    membershipGeneration: 1n,
    failure: '',
  })
  for (const code of ['unavailable', 'timeout', 'unknown_timeline'] as const)
    expect(await memberStatus(Promise.reject(refuse(code, 'away')))).toEqual(MEMBER_AWAY)
  for (const code of ['bad_file', 'disk_failed', 'precondition', 'disk_full', 'denied'] as const)
    expect(await memberStatus(Promise.reject(refuse(code, 'why')))).toEqual({
      ...MEMBER_AWAY,
      alive: true,
      failure: 'why',
    })
  await expect(memberStatus(Promise.reject(new TypeError('a bug')))).rejects.toThrow('a bug')
})

/** The report of one safekeeper about a timeline, for people to read. */
import { UnderstoryError, lsnToBigint } from '@understory/base'
import type { WalStatus } from '@understory/protocol/clients'
import type { SafekeeperMemberView } from '@understory/rpc'
import { ifReachable } from './node-clients.ts'

type MemberStatusView = Omit<SafekeeperMemberView, 'nodeId' | 'role'>

export const MEMBER_AWAY: MemberStatusView = {
  alive: false,
  membershipGeneration: 0n,
  flushLsn: 0n,
  commitLsn: 0n,
  failure: '',
}

/** No single safekeeper may keep the others from being shown: what it fails with is shown of it. */
export async function memberStatus(asked: Promise<WalStatus>): Promise<MemberStatusView> {
  try {
    const status = await ifReachable(asked)
    if (status === undefined) return MEMBER_AWAY
    const { membershipGeneration, flushLsn, commitLsn, failure } = status
    return {
      alive: true,
      membershipGeneration: BigInt(membershipGeneration),
      flushLsn: lsnToBigint(flushLsn),
      commitLsn: lsnToBigint(commitLsn),
      failure,
    }
  } catch (error) {
    if (error instanceof UnderstoryError) return { ...MEMBER_AWAY, alive: true, failure: error.message }
    throw error
  }
}

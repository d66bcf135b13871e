/** What must be so before a timeline goes on with one safekeeper that is left (membership-change.ts, `recoverFrom`). */
import { formatLsn, isErrorCode, lsnFromBigint, refuse } from '@understory/base'
import type { GetWalStatusResponse, TimelineRef } from '@understory/rpc'
import { allSafekeepers } from './membership-change.ts'
import { ifReachable } from './observed.ts'
import type { Peers } from './observed.ts'
import type { TimelineDocument } from './tenant-document.ts'

/** What the survivor says of itself. Errors: refused `bad_argument`, `precondition`. */
export async function checkRecovery(
  peers: Peers,
  ref: TimelineRef,
  timeline: TimelineDocument,
  survivor: string,
): Promise<GetWalStatusResponse> {
  const nodes = allSafekeepers(timeline)
  if (!nodes.includes(survivor))
    throw refuse('bad_argument', `"${survivor}" is no safekeeper of this timeline`)
  const statuses = new Map<string, GetWalStatusResponse>()
  await Promise.all(
    nodes.map(async (node) => {
      const status = await statusOf(peers, timeline.addresses[node], ref)
      if (status?.nodeId === node && status.failure === '') statuses.set(node, status)
    }),
  )
  for (const members of [timeline.safekeeperNodes, timeline.newSafekeeperNodes]) {
    const well = members.filter((node) => statuses.has(node))
    if (well.length * 2 > members.length) {
      throw refuse('precondition', `a majority of the safekeepers answers: ${well.join(', ')}`, {
        hint: 'Replace the lost one instead: that loses nothing.',
      })
    }
  }
  const status = statuses.get(survivor)
  if (status === undefined)
    throw refuse('precondition', `"${survivor}" does not answer, or its copy is damaged`, {
      hint: 'Start it, or name another that is left.',
    })
  await checkStorage(peers, ref, timeline, survivor, status)
  return status
}

async function statusOf(
  peers: Peers,
  address: string | undefined,
  ref: TimelineRef,
): Promise<GetWalStatusResponse | undefined> {
  if (address === undefined) return undefined
  try {
    return await ifReachable(peers.walStatus(address, ref))
  } catch (error) {
    if (
      isErrorCode(error, 'bad_file') ||
      isErrorCode(error, 'bad_wal') ||
      isErrorCode(error, 'unknown_timeline')
    )
      return undefined
    throw error
  }
}

/** Pages of WAL that is given up would stay, and be read with what comes instead of it. */
async function checkStorage(
  peers: Peers,
  ref: TimelineRef,
  timeline: TimelineDocument,
  survivor: string,
  { flushLsn }: GetWalStatusResponse,
): Promise<void> {
  for (const node of new Set(timeline.shards.map((shard) => shard.node))) {
    const address = timeline.addresses[node]
    const shards = address === undefined ? undefined : await ifReachable(peers.shards(address, ref))
    if (shards === undefined) {
      throw refuse('precondition', `pageserver "${node}" does not tell how much WAL it has`, {
        hint: 'Start it first.',
      })
    }
    const ahead = shards.find(({ ingestedLsn }) => ingestedLsn > flushLsn)
    if (ahead !== undefined) {
      const text = (lsn: bigint): string => formatLsn(lsnFromBigint(lsn))
      throw refuse(
        'precondition',
        `pageserver "${node}" has WAL up to ${text(ahead.ingestedLsn)}, "${survivor}" only up to ${text(flushLsn)}`,
        { hint: 'Name the safekeeper that is left and has most.' },
      )
    }
  }
}

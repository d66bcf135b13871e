/**
 * The conditions under which a timeline continues with one safekeeper that is left, or with none (membership-change.ts,
 * `recoverFrom` and `recoverFromStore`).
 */
import { formatLsn, isErrorCode, lsnFromBigint, fail } from '@understory/base'
import type { WalStatus } from '@understory/protocol/clients'
import type { TimelineRef } from '@understory/rpc'
import { allSafekeepers } from './membership-change.ts'
import type { StoredRecovery } from './membership-change.ts'
import type { Nodes } from '../documents/nodes.ts'
import { ifReachable, isCopyUnusable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'

/** The survivor's own report. Errors: `bad_argument`, `precondition`. */
export async function checkRecovery(
  clients: NodeClients,
  ref: TimelineRef,
  timeline: TimelineDocument,
  survivor: string,
): Promise<WalStatus> {
  const nodes = allSafekeepers(timeline)
  if (!nodes.includes(survivor))
    throw fail('bad_argument', `"${survivor}" is not a safekeeper of this timeline`)
  const statuses = new Map<string, WalStatus>()
  await Promise.all(
    nodes.map(async (node) => {
      const status = await statusOf(clients, timeline.addresses[node], ref)
      if (status?.nodeId === node && status.failure === '') statuses.set(node, status)
    }),
  )
  for (const members of [timeline.safekeeperNodes, timeline.newSafekeeperNodes]) {
    const well = members.filter((node) => statuses.has(node))
    if (well.length * 2 > members.length) {
      throw fail('precondition', `a majority of the safekeepers answers: ${well.join(', ')}`, {
        hint: 'Replace the lost one instead: that loses nothing.',
      })
    }
  }
  const status = statuses.get(survivor)
  if (status === undefined)
    throw fail('precondition', `"${survivor}" does not answer, or its copy is damaged`, {
      hint: 'Start it, or name another that is left.',
    })
  await checkStorage(clients, ref, timeline, survivor, status)
  return status
}

/**
 * The safekeepers that take the place of those that are lost, and what the object store has for them. Those of before
 * are taken where they are there again, empty. Errors: `precondition`, `not_found`.
 */
export async function prepareStoredRecovery(
  clients: NodeClients,
  nodes: Nodes,
  ref: TimelineRef,
  timeline: TimelineDocument,
): Promise<StoredRecovery> {
  const known = allSafekeepers(timeline)
  const announced = (await nodes.list()).filter(({ kind }) => kind === 'safekeeper')
  for (const { nodeId, address } of announced) {
    if (await isWithout(clients, address, ref)) continue
    throw fail('precondition', `safekeeper "${nodeId}" has the timeline`, {
      hint: `Recover from it: it has at least as much (--from ${nodeId}). Where its copy is of no use, remove it first.`,
    })
  }
  const count = timeline.safekeeperNodes.length
  const members = announced
    .toSorted((a, b) => Number(known.includes(b.nodeId)) - Number(known.includes(a.nodeId)))
    .slice(0, count)
  const [first] = members
  if (first === undefined || members.length < count) {
    throw fail('precondition', `the timeline needs ${count} safekeepers, and ${members.length} are there`, {
      hint: 'Start others, or the same ones with empty folders.',
    })
  }
  const { endLsn, term } = await clients.closeStoredWal(first.address, ref)
  return { members, endLsn, term }
}

async function isWithout(clients: NodeClients, address: string, ref: TimelineRef): Promise<boolean> {
  try {
    await clients.walStatus(address, ref)
    return false
  } catch (error) {
    if (isErrorCode(error, 'unknown_timeline')) return true
    if (!isErrorCode(error, 'unavailable') && !isErrorCode(error, 'timeout')) return false
    throw fail('precondition', `a safekeeper was at ${address} a moment ago and does not answer`, {
      hint: 'It may have the timeline. Start it, or wait until it is not listed any more (`understory nodes`).',
      cause: error,
    })
  }
}

async function statusOf(
  clients: NodeClients,
  address: string | undefined,
  ref: TimelineRef,
): Promise<WalStatus | undefined> {
  if (address === undefined) return undefined
  try {
    return await ifReachable(clients.walStatus(address, ref))
  } catch (error) {
    if (isCopyUnusable(error)) return undefined
    throw error
  }
}

/** Pages of WAL that is abandoned would stay, and be read with what comes instead of it. */
async function checkStorage(
  clients: NodeClients,
  ref: TimelineRef,
  timeline: TimelineDocument,
  survivor: string,
  { flushLsn }: WalStatus,
): Promise<void> {
  for (const node of new Set(timeline.shards.map((shard) => shard.node))) {
    const address = timeline.addresses[node]
    const shards = address === undefined ? undefined : await ifReachable(clients.shards(address, ref))
    if (shards === undefined) {
      throw fail('precondition', `pageserver "${node}" does not answer how much WAL it has`, {
        hint: 'Start it first.',
      })
    }
    const ahead = shards.find(({ ingestedLsn }) => lsnFromBigint(ingestedLsn) > flushLsn)
    if (ahead !== undefined) {
      throw fail(
        'precondition',
        `pageserver "${node}" has WAL up to ${formatLsn(lsnFromBigint(ahead.ingestedLsn))}, "${survivor}" only up to ${formatLsn(flushLsn)}`,
        { hint: 'Name the safekeeper that is left and has most.' },
      )
    }
  }
}

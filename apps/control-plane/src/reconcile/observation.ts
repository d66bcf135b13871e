/**
 * The present reports of the processes of a timeline: asked once for each pass, and for each request of the API.
 */
import { isErrorCode } from '@understory/base'
import { ComputeState } from '@understory/rpc'
import type { GetComputeStatusResponse, ShardStatus, TimelineRef } from '@understory/rpc'
import { computeMissing, ifReachable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { ComputeDriver, ComputePlace } from '../computes/compute-driver.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'

export interface Observation {
  readonly computeAddress: string | undefined
  /** Undefined where it does not answer. */
  readonly compute: GetComputeStatusResponse | undefined
  readonly shards: ObservedShards
}

/** By pageserver: its shards of the timeline, or undefined where it does not answer. */
export type ObservedShards = ReadonlyMap<string, readonly ShardStatus[] | undefined>

/** Undefined where the pageserver did not answer or has no such shard. */
export const shardOn = (shards: ObservedShards, node: string, number: number): ShardStatus | undefined =>
  shards.get(node)?.find(({ shard }) => shard?.number === number)

/** By shard number. */
export const shardsOf = (
  { shards }: TimelineDocument,
  observed: ObservedShards,
): readonly (ShardStatus | undefined)[] => shards.map(({ node }, number) => shardOn(observed, node, number))

export const computePlaceOf = (tenant: TenantDocument, timeline: TimelineDocument): ComputePlace => ({
  tenantName: tenant.name,
  timelineName: timeline.name,
  timeline: { tenantId: timeline.tenantId, timelineId: timeline.timelineId },
  hostAddress: timeline.addresses[timeline.computeHost],
})

export async function observeTimeline(
  { clients, computes }: { readonly clients: NodeClients; readonly computes: ComputeDriver },
  tenant: TenantDocument,
  timeline: TimelineDocument,
): Promise<Observation> {
  const hosted = await ifReachable(computes.find(computePlaceOf(tenant, timeline)))
  // Empty while its process is on its way.
  const computeAddress = hosted?.address || undefined
  const [compute, shards] = await Promise.all([
    computeAddress === undefined ? undefined : ifReachable(clients.computeStatus(computeAddress)),
    askPageservers(clients, timeline),
  ])
  return { computeAddress, compute, shards }
}

/** One question for each pageserver, with any number of the timeline's shards. */
export async function askPageservers(
  clients: NodeClients,
  { tenantId, timelineId, shards, addresses }: TimelineDocument,
): Promise<ObservedShards> {
  const ref: TimelineRef = { tenantId, timelineId }
  const nodes = [...new Set(shards.map(({ node }) => node))]
  const answers = nodes.map(async (node) => {
    const address = addresses[node]
    if (address === undefined) return [node, undefined] as const
    return [node, await ifReachable(clients.shards(address, ref).catch(noneWhenUnknown))] as const
  })
  return new Map(await Promise.all(answers))
}

/** Whether it takes SQL. */
export const isOpen = ({ compute }: Observation): boolean =>
  compute?.state === ComputeState.COMPUTE_STATE_RUNNING

/** Its address. Errors: `unavailable` where it does not take SQL. */
export function runningCompute(observed: Observation): string {
  if (!isOpen(observed) || observed.computeAddress === undefined) throw computeMissing()
  return observed.computeAddress
}

/** A pageserver that does not know the timeline has none of its shards. */
function noneWhenUnknown(error: unknown): readonly ShardStatus[] {
  if (isErrorCode(error, 'unknown_timeline')) return []
  throw error
}

/**
 * How a timeline leaves its tenant: its document is retired, which is its last change, and then the tenant's document
 * no longer lists it and has a removal instead (removals.ts). Where this is interrupted, the timeline's reconciler, or
 * the next look at a deleted tenant, finishes it.
 */
import type { TimelineRef } from '@understory/rpc'
import type { Removal, TenantDocument, TimelineEntry } from '../documents/tenant-document.ts'
import type { TenantStore } from '../documents/tenant-store.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import { unknownTimeline } from '../documents/timeline-store.ts'
import type { TimelineStore } from '../documents/timeline-store.ts'
import { allSafekeepers } from './membership-change.ts'

export interface Stores {
  readonly tenants: TenantStore
  readonly timelines: TimelineStore
}

/** Errors: `unknown_timeline` where it is not there, or begins again under another id. */
export async function deleteTimeline({ tenants, timelines }: Stores, ref: TimelineRef): Promise<void> {
  const retired = await timelines.retire(ref, 'deleted')
  if (retired.retired !== 'deleted') throw unknownTimeline(ref.timelineId)
  await tenants.update(ref.tenantId, (tenant) => withoutTimeline(tenant, retired))
}

/**
 * Replaces a timeline whose bootstrap was interrupted by a new one with the same name, and the same request for
 * full_page_writes. Under another id nothing of the cluster that is gone mixes with the next one.
 */
export async function restartTimeline(stores: Stores, ref: TimelineRef, newId: string): Promise<void> {
  await finishRetirement(stores, await stores.timelines.retire(ref, 'restarted'), newId)
}

/** The second step, of a document that is retired. `newId` is that of the next timeline, where there is one. */
export async function finishRetirement(
  { tenants }: Stores,
  retired: TimelineDocument,
  newId: string,
): Promise<void> {
  await tenants.update(retired.tenantId, (tenant) =>
    retired.retired === 'restarted' && !tenant.isDeleted
      ? restarted(tenant, retired, newId)
      : withoutTimeline(tenant, retired),
  )
}

/**
 * Retires what a deleted tenant still lists. Error: the first of those of its timelines, after all others were retired.
 */
export async function finishTenantDeletion(stores: Stores, tenant: TenantDocument): Promise<void> {
  const { tenantId } = tenant
  const failures: unknown[] = []
  for (const { timelineId } of tenant.timelines) {
    try {
      const retired = await stores.timelines.retire({ tenantId, timelineId }, 'deleted')
      await stores.tenants.update(tenantId, (document) => withoutTimeline(document, retired))
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
}

/** The tenant without a timeline, which is to be removed; itself where it does not list it. */
export function withoutTimeline(tenant: TenantDocument, timeline: TimelineDocument): TenantDocument {
  const timelines = tenant.timelines.filter(({ timelineId }) => timelineId !== timeline.timelineId)
  if (timelines.length === tenant.timelines.length) return tenant
  return { ...tenant, timelines, removals: [...tenant.removals, removalOf(timeline)] }
}

function restarted(tenant: TenantDocument, retired: TimelineDocument, timelineId: string): TenantDocument {
  const { name, sqlPort, fpw } = retired
  const next: TimelineEntry = { timelineId, name, beginning: { sqlPort, fpw } }
  const { removals } = withoutTimeline(tenant, retired)
  const timelines = tenant.timelines.map((item) => (item.timelineId === retired.timelineId ? next : item))
  return { ...tenant, timelines, removals }
}

/** All nodes that may have something of the timeline, in any state. */
export function removalOf(timeline: TimelineDocument): Removal {
  const {
    timelineId,
    name,
    computeHost,
    shards,
    safekeeperChange: change,
    retiredReplicas,
    addresses,
  } = timeline
  const safekeepers = [
    ...allSafekeepers(timeline),
    ...(change?.add ?? []),
    ...(change?.remove ?? []),
    ...retiredReplicas.map(({ node }) => node),
  ]
  return {
    timelineId,
    name,
    computeHost,
    computeAddress: addresses[computeHost] ?? '',
    isComputeRemoved: false,
    shards: shards.map(({ node }, number) => ({ node, number })),
    safekeeperNodes: [...new Set(safekeepers)],
  }
}

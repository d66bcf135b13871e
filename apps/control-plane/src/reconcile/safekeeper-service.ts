/** Requests about the safekeepers of a timeline: changes, their cancellation, and recovery where they are lost. */
import { formatLsn, fail } from '@understory/base'
import {
  allSafekeepers,
  cancelChange,
  recoverFrom,
  recoverFromStore,
  requestChange,
} from './membership-change.ts'
import type { ChangeRequest } from './membership-change.ts'
import { checkRecovery, prepareStoredRecovery } from './membership-recovery.ts'
import type { ReconcilerParts } from './timeline-reconciler.ts'
import type { Reconcilers } from './reconcilers.ts'
import type { TenantService } from './tenant-service.ts'
import type { SafekeepersView } from './timeline-view.ts'

type Parts = Pick<ReconcilerParts, 'clock' | 'log' | 'nodes' | 'clients'>

export class SafekeeperService {
  readonly #parts: Parts
  readonly #tenants: Pick<TenantService, 'findTimeline' | 'updateTimeline'>
  readonly #reconcilers: Reconcilers

  constructor(
    parts: Parts,
    tenants: Pick<TenantService, 'findTimeline' | 'updateTimeline'>,
    reconcilers: Reconcilers,
  ) {
    this.#parts = parts
    this.#tenants = tenants
    this.#reconcilers = reconcilers
  }

  /** Idempotent while it is under way or in force. Errors: `bad_argument`, `precondition`. */
  async change(tenantName: string, timelineName: string, request: ChangeRequest): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.#tenants.findTimeline(tenantName, timelineName)
    const known = await this.#parts.nodes.list()
    const addresses: Record<string, string> = {}
    for (const node of request.add) {
      const found = known.find(({ nodeId, kind }) => nodeId === node && kind === 'safekeeper')
      if (found === undefined)
        throw fail('bad_argument', `no safekeeper "${node}" is announced`, {
          hint: 'See `understory nodes`.',
        })
      addresses[node] = found.address
    }
    const nowMs = this.#parts.clock.wallMs()
    await this.#tenants.updateTimeline(timeline, (item) => ({
      ...requestChange(item, request, nowMs),
      addresses: { ...item.addresses, ...addresses },
    }))
    return this.view(tenant.tenantId, timeline.timelineId)
  }

  /** Errors: `precondition` where none is under way, or it is too late. */
  async cancel(tenantName: string, timelineName: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.#tenants.findTimeline(tenantName, timelineName)
    const nowMs = this.#parts.clock.wallMs()
    await this.#tenants.updateTimeline(timeline, (item) => cancelChange(item, nowMs))
    return this.view(tenant.tenantId, timeline.timelineId)
  }

  /**
   * Makes `survivor` the only safekeeper that counts. Refused `precondition` while a majority answers, or where storage
   * has WAL that the survivor does not have: pages of it would be of another history.
   */
  async recover(tenantName: string, timelineName: string, survivor: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.#tenants.findTimeline(tenantName, timelineName)
    const { clock, log, clients } = this.#parts
    const ref = { tenantId: tenant.tenantId, timelineId: timeline.timelineId }
    const { flushLsn } = await checkRecovery(clients, ref, timeline, survivor)
    const nowMs = clock.wallMs()
    await this.#tenants.updateTimeline(timeline, (item) => recoverFrom(item, survivor, nowMs))
    log.error('safekeepers_recovered_by_force', {
      tenant: tenant.tenantId,
      timeline: timeline.timelineId,
      survivor,
      abandoned: allSafekeepers(timeline).filter((node) => node !== survivor),
      flushLsn: formatLsn(flushLsn),
      consequence: 'commits that the survivor does not have are lost',
    })
    return this.view(tenant.tenantId, timeline.timelineId)
  }

  /**
   * Continues with the WAL that the object store has, where no safekeeper is left. Refused `precondition` where one has
   * the timeline, or where there are too few, `not_found` where nothing is stored.
   */
  async recoverFromStore(tenantName: string, timelineName: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.#tenants.findTimeline(tenantName, timelineName)
    const { clock, log, nodes, clients } = this.#parts
    const ref = { tenantId: tenant.tenantId, timelineId: timeline.timelineId }
    const recovery = await prepareStoredRecovery(clients, nodes, ref, timeline)
    const nowMs = clock.wallMs()
    await this.#tenants.updateTimeline(timeline, (item) => recoverFromStore(item, recovery, nowMs))
    log.error('safekeepers_recovered_from_store', {
      tenant: tenant.tenantId,
      timeline: timeline.timelineId,
      members: recovery.members.map(({ nodeId }) => nodeId),
      endLsn: formatLsn(recovery.endLsn),
      consequence: 'commits that the object store does not have are lost',
    })
    return this.view(tenant.tenantId, timeline.timelineId)
  }

  async view(tenantName: string, timelineName: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.#tenants.findTimeline(tenantName, timelineName)
    return { tenant, timeline, pull: this.#reconcilers.of(timeline).membership.pull }
  }
}

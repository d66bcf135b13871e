/** Requests to delete tenants and timelines, and the rounds that remove what is left of them (removals.ts). */
import { Loop, ProblemReport } from '@understory/actor'
import { describeError, isErrorCode, fail } from '@understory/base'
import type { Removal, TenantDocument, TimelineEntry } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import type { Rng } from '@understory/env'
import { computePlaceOf } from './observation.ts'
import type { Reconcilers } from './reconcilers.ts'
import { Removals, waitsFor } from './removals.ts'
import type { RemovalParts } from './removals.ts'
import { deleteTimeline, finishTenantDeletion, removalOf } from './retirement.ts'
import type { TenantService } from './tenant-service.ts'

const LOOK_MS = 2_000
/** Each look reads every tenant's document. */
const LOOK_MS_EACH = 50

export interface RemovalView {
  readonly tenant: TenantDocument
  readonly removal: Removal
  /** Names of nodes. */
  readonly waitsFor: readonly string[]
  readonly problem: string
}

type Tenants = Pick<TenantService, 'find' | 'findTimeline' | 'timelinesOf'>

export class DeletionService {
  readonly #parts: RemovalParts & { readonly rng: Rng }
  readonly #tenants: Tenants
  readonly #reconcilers: Reconcilers
  readonly #removals: Removals
  readonly #loop: Loop

  constructor(parts: RemovalParts & { readonly rng: Rng }, tenants: Tenants, reconcilers: Reconcilers) {
    this.#parts = parts
    this.#tenants = tenants
    this.#reconcilers = reconcilers
    this.#removals = new Removals(parts)
    const { clock, rng, log } = parts
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: LOOK_MS,
      backoff: { baseMs: LOOK_MS, pauseMsMax: LOOK_MS },
      problems: new ProblemReport({ clock, log, event: 'removals_not_advanced' }),
      round: () => this.#round(),
    })
  }

  /** Removes what is left of all that was deleted, until `stop`. */
  run(): Promise<void> {
    this.#loop.start()
    return this.#loop.ended
  }

  /** Resolves once the round that runs has ended. */
  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #round(): Promise<number> {
    const tenants = await this.#parts.tenants.list()
    const isInUse = (timelineId: string): boolean => this.#reconcilers.has(timelineId)
    const rounds = await Promise.allSettled(
      tenants.map(async (tenant) => {
        // A control plane that ended in the middle of a deletion has left them.
        if (tenant.isDeleted && tenant.timelines.length > 0) await finishTenantDeletion(this.#parts, tenant)
        else if (tenant.isDeleted || tenant.removals.length > 0) await this.#removals.advance(tenant, isInUse)
      }),
    )
    // After the others: a damaged document of one tenant does not keep another from its end.
    const failed = rounds.find((round) => round.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return Math.max(LOOK_MS, LOOK_MS_EACH * this.#reconcilers.count)
  }

  /** The removals that are not complete. */
  async removals(): Promise<RemovalView[]> {
    const views = (await this.#parts.tenants.list()).map(async (tenant) => {
      // Of a deleted tenant that still lists them: their removal follows.
      const entries = tenant.isDeleted ? tenant.timelines : []
      const listed = entries.map((entry) => this.#listedView(tenant, entry))
      const removals = tenant.removals.map((removal) => ({
        tenant,
        removal,
        waitsFor: waitsFor(removal),
        problem: this.#removals.problemOf(removal.timelineId),
      }))
      return [...removals, ...(await Promise.all(listed))]
    })
    return (await Promise.all(views)).flat()
  }

  /** Where its document is damaged or missing, what is left is not known: that is its problem, and hides no other. */
  async #listedView(tenant: TenantDocument, entry: TimelineEntry): Promise<RemovalView> {
    try {
      const removal = removalOf(await this.#parts.timelines.read(tenant, entry))
      return { tenant, removal, waitsFor: waitsFor(removal), problem: '' }
    } catch (error) {
      if (!isErrorCode(error, 'bad_file')) throw error
      const { timelineId, name } = entry
      const nothing = {
        computeHost: '',
        computeAddress: '',
        isComputeRemoved: false,
        shards: [],
        safekeeperNodes: [],
      }
      return {
        tenant,
        removal: { timelineId, name, ...nothing },
        waitsFor: [],
        problem: describeError(error),
      }
    }
  }

  /**
   * No request finds the timeline from then on, and its name is free; what there is of it is removed after that, by
   * nodes that are away once they are back. Errors: `precondition` where it has a compute, unless that is to be ended.
   */
  async deleteTimeline(tenantName: string, timelineName: string, stopCompute: boolean): Promise<void> {
    const { tenant, timeline } = await this.#tenants.findTimeline(tenantName, timelineName)
    if (!stopCompute) await this.#checkStopped(tenant, timeline)
    await deleteTimeline(this.#parts, timeline)
    this.#parts.log.warn('timeline_deleted', { tenant: tenant.tenantId, timeline: timeline.timelineId })
    this.#removeSoon(tenant)
  }

  /** The same of the tenant and all its timelines. */
  async deleteTenant(tenantName: string, stopCompute: boolean): Promise<void> {
    const tenant = await this.#tenants.find(tenantName)
    if (!stopCompute)
      for (const timeline of await this.#tenants.timelinesOf(tenant))
        await this.#checkStopped(tenant, timeline)
    const deleted = await this.#parts.tenants.update(tenant.tenantId, (document) => ({
      ...document,
      isDeleted: true,
    }))
    await finishTenantDeletion(this.#parts, deleted)
    this.#parts.log.warn('tenant_deleted', { tenant: tenant.tenantId, name: tenant.name })
    await this.#removals.releaseName(tenant)
    this.#removeSoon(tenant)
  }

  async #checkStopped(tenant: TenantDocument, timeline: TimelineDocument): Promise<void> {
    const { computes } = this.#parts
    const hint = 'Have it ended with the deletion: --stop-compute.'
    const name = `timeline "${timeline.name}" of tenant "${tenant.name}"`
    const found = await computes.find(computePlaceOf(tenant, timeline)).catch((cause: unknown) => {
      throw fail('precondition', `whether ${name} has a running compute is not known`, { hint, cause })
    })
    if (found !== undefined) throw fail('precondition', `${name} has a running compute`, { hint })
  }

  /** Its reconcilers end, and the next round begins now. */
  #removeSoon(tenant: TenantDocument): void {
    for (const { timelineId } of tenant.timelines) this.#reconcilers.wake(timelineId)
    this.#removals.hurry()
    this.#loop.wake()
  }
}

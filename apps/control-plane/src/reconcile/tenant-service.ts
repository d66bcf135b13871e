/**
 * All tenants with their reconcilers: the domain behind the API. A tenant made by another control plane is found at
 * the next look into the store.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { isErrorCode, fail } from '@understory/base'
import type { TimelineRef } from '@understory/rpc'
import type { TenantDocument, TimelineEntry } from '../documents/tenant-document.ts'
import type { FpwState, TimelineDocument } from '../documents/timeline-document.ts'
import { requestSwitch } from './fpw-switch.ts'
import { isAskedFor, newPassword } from './password.ts'
import type { PasswordRequest } from './password.ts'
import type { Reconcilers } from './reconcilers.ts'
import { checkTenantRequest, newTenant } from './tenant-request.ts'
import type { TenantRequest } from './tenant-request.ts'
import type { ReconcilerParts } from './timeline-reconciler.ts'
import type { TimelineView } from './timeline-view.ts'

/** How often tenants made elsewhere are looked for. */
const LOOK_MS = 2_000
const LOOK_MS_EACH = 50
const ORPHANS_LOOK_MS = 600_000

type Parts = Pick<ReconcilerParts, 'tenants' | 'timelines' | 'clock' | 'rng' | 'log'>

export interface FoundTimeline {
  readonly tenant: TenantDocument
  readonly timeline: TimelineDocument
}

export class TenantService {
  readonly #parts: Parts
  readonly #reconcilers: Reconcilers
  readonly #loop: Loop
  readonly #orphansLoop: Loop
  readonly #orphans = new Set<string>()
  /** By timeline. */
  readonly #unreadable = new Map<string, ProblemReport>()

  constructor(parts: Parts, reconcilers: Reconcilers) {
    this.#parts = parts
    this.#reconcilers = reconcilers
    const { clock, rng, log } = parts
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: LOOK_MS,
      backoff: { baseMs: LOOK_MS, pauseMsMax: LOOK_MS },
      problems: new ProblemReport({ clock, log, event: 'tenants_not_listed' }),
      round: () => this.#round(),
    })
    this.#orphansLoop = new Loop({
      clock,
      rng,
      pauseMs: ORPHANS_LOOK_MS,
      problems: new ProblemReport({ clock, log, event: 'orphans_not_listed' }),
      round: () => this.#reportOrphans(),
    })
  }

  /** Reconciles every tenant until `stop`. */
  async run(): Promise<void> {
    this.#loop.start()
    this.#orphansLoop.start()
    await Promise.all([this.#loop.ended, this.#orphansLoop.ended])
  }

  /** Resolves once what is under way has ended. */
  async stop(): Promise<void> {
    await Promise.all([this.#loop.stop(), this.#orphansLoop.stop(), this.#reconcilers.stop()])
  }

  async #round(): Promise<number> {
    for (const tenant of await this.#parts.tenants.list()) this.#reconcilers.ofTenant(tenant)
    // Each look reads every tenant's document.
    return Math.max(LOOK_MS, LOOK_MS_EACH * this.#reconcilers.count)
  }

  /** They are left as they are: an operator may have removed their tenant by mistake, and may put it back. */
  async #reportOrphans(): Promise<void> {
    for (const { tenantId: tenant, timelineId: timeline } of await this.#parts.timelines.orphans()) {
      if (this.#orphans.has(timeline)) continue
      this.#orphans.add(timeline)
      this.#parts.log.warn('timeline_document_orphaned', { tenant, timeline })
    }
  }

  /**
   * Idempotent by name and request id. Returns the random password, too: empty where the caller chose it, and for a
   * repeated call, because it is kept nowhere. Errors: `bad_argument`, `already_exists`.
   */
  async create(request: TenantRequest): Promise<{ document: TenantDocument; password: string }> {
    checkTenantRequest(request)
    const { verifier, password } = newPassword(request, this.#parts.rng)
    const known = await this.#parts.tenants.find(request.name).catch((error: unknown) => {
      if (isErrorCode(error, 'unknown_tenant')) return undefined
      throw error
    })
    if (known !== undefined && request.requestId !== '' && known.requestId === request.requestId) {
      if (known.timelines.length === 0)
        throw fail(
          'already_exists',
          `tenant "${request.name}" was made by this request, its timeline is deleted`,
        )
      if (known.password === undefined || isAskedFor(known.password.verifier, request))
        return { document: known, password: '' }
      throw fail('already_exists', `tenant "${request.name}" was made with another password`, {
        hint: 'Set a new one with `understory tenant password`.',
      })
    }
    const document = await this.#parts.tenants.create(newTenant(request, verifier, this.#parts))
    this.#parts.log.info('tenant_created', { tenant: document.tenantId, name: document.name })
    this.#reconcilers.ofTenant(document)
    return { document, password }
  }

  /**
   * Stores a new password of the role postgres, which every Postgres of the tenant gets as soon as it runs. Returns the
   * random password; empty where the caller chose it. Errors: `bad_argument`, `unknown_tenant`.
   */
  async setPassword(tenantName: string, request: PasswordRequest): Promise<string> {
    const { verifier, password } = newPassword(request, this.#parts.rng)
    const { tenantId } = await this.find(tenantName)
    const changed = await this.#parts.tenants.update(tenantId, (document) => ({
      ...document,
      password: { verifier, generation: (document.password?.generation ?? 0) + 1 },
    }))
    this.#parts.log.info('password_set', { tenant: tenantId, generation: changed.password?.generation })
    for (const reconciler of this.#reconcilers.ofTenant(changed)) reconciler.wake()
    return password
  }

  async list(): Promise<TenantDocument[]> {
    return (await this.#parts.tenants.list()).filter(({ isDeleted }) => !isDeleted)
  }

  find(nameOrId: string): Promise<TenantDocument> {
    return this.#parts.tenants.find(nameOrId)
  }

  async findTimeline(tenantName: string, timelineName: string): Promise<FoundTimeline> {
    const tenant = await this.find(tenantName)
    const wanted = timelineName === '' ? 'main' : timelineName
    const entry = tenant.timelines.find((item) => item.name === wanted || item.timelineId === wanted)
    const timeline = entry === undefined ? undefined : await this.#parts.timelines.read(tenant, entry)
    if (timeline !== undefined && timeline.retired === undefined) return { tenant, timeline }
    // Between the two steps of a restart (retirement.ts): its caller must not take it for deleted.
    if (timeline?.retired === 'restarted' && !tenant.isDeleted)
      throw fail('unavailable', `timeline "${wanted}" of tenant "${tenantName}" is about to begin again`, {
        hint: 'Try again in a moment.',
      })
    throw fail('unknown_timeline', `timeline "${wanted}" of tenant "${tenantName}" does not exist`, {
      hint: 'List the timelines with `understory timeline list`.',
    })
  }

  async listTimelines(tenantName: string): Promise<FoundTimeline[]> {
    const tenant = await this.find(tenantName)
    return (await this.timelinesOf(tenant)).map((timeline) => ({ tenant, timeline }))
  }

  /** Without those that are retired. */
  async timelinesOf(tenant: TenantDocument): Promise<TimelineDocument[]> {
    const { timelines } = this.#parts
    const all = await Promise.all(tenant.timelines.map((entry) => timelines.read(tenant, entry)))
    return all.filter(({ retired }) => retired === undefined)
  }

  async view(tenantName: string, timelineName: string): Promise<TimelineView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    return this.#reconcilers.of(timeline).view(tenant, timeline)
  }

  /** Of all but timelines whose document is damaged or missing, which are logged: they hide no other. */
  async views(): Promise<TimelineView[]> {
    const all = (await this.list()).flatMap((tenant) =>
      tenant.timelines.map((entry) => this.#viewOf(tenant, entry)),
    )
    return (await Promise.all(all)).filter((view) => view !== undefined)
  }

  async #viewOf(tenant: TenantDocument, entry: TimelineEntry): Promise<TimelineView | undefined> {
    const { clock, log, timelines } = this.#parts
    const { timelineId } = entry
    try {
      const timeline = await timelines.read(tenant, entry)
      this.#unreadable.delete(timelineId)
      if (timeline.retired !== undefined) return undefined
      return await this.#reconcilers.of(timeline).view(tenant, timeline)
    } catch (error) {
      if (!isErrorCode(error, 'bad_file')) throw error
      const known = this.#unreadable.get(timelineId)
      const problems = known ?? new ProblemReport({ clock, log, event: 'timeline_not_read' })
      this.#unreadable.set(timelineId, problems)
      problems.report(error, { tenant: tenant.tenantId, timeline: timelineId })
      return undefined
    }
  }

  async switchFpw(tenantName: string, wanted: 'on' | 'off'): Promise<FpwState> {
    const { timeline } = await this.findTimeline(tenantName, '')
    const nowMs = this.#parts.clock.wallMs()
    const changed = await this.updateTimeline(timeline, (item) => ({
      ...item,
      fpw: requestSwitch(item.fpw, wanted, nowMs),
    }))
    return changed.fpw
  }

  /** Stores a request, and wakes the reconciler. Errors: `unknown_timeline` where it is gone by now. */
  async updateTimeline(
    ref: TimelineRef,
    change: (timeline: TimelineDocument) => TimelineDocument,
  ): Promise<TimelineDocument> {
    const changed = await this.#parts.timelines.update(ref, change)
    this.#reconcilers.of(ref).wake()
    return changed
  }

  /** The switch's state, now and after every change, until the signal fires. */
  async *watchFpw(tenantName: string, signal: AbortSignal): AsyncGenerator<FpwState, void, void> {
    const { tenant, timeline } = await this.findTimeline(tenantName, '')
    const reconciler = this.#reconcilers.of(timeline)
    const over = AbortSignal.any([signal, this.#loop.stopped])
    while (!over.aborted) {
      // Before it is read: no change in between is missed.
      const late = new AbortController()
      const changed = reconciler.changes.next(AbortSignal.any([over, late.signal]))
      const { timeline: now } = await this.findTimeline(tenant.tenantId, timeline.timelineId)
      yield now.fpw
      // A change by another control plane is seen at the latest after a second.
      const timer = this.#parts.clock.setTimer(1_000, () => late.abort())
      await changed
      timer.cancel()
    }
  }
}

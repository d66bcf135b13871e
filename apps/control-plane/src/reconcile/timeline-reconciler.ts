/**
 * Brings one timeline to what is requested of it, by passes over the steps (steps/). Every pass reads both documents,
 * and looks at the processes once.
 */
import { Loop, ProblemReport, Signal } from '@understory/actor'
import { describeError, isErrorCode, unreachable } from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import type { TimelineRef } from '@understory/rpc'
import type { NodeClients } from '../clients/node-clients.ts'
import type { ComputeDriver } from '../computes/compute-driver.ts'
import type { ConfigurationStore } from '../documents/configuration-store.ts'
import type { Nodes } from '../documents/nodes.ts'
import { entryOf } from '../documents/tenant-document.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { TimelineDocument } from '../documents/timeline-document.ts'
import type { ReconcileObserver } from '../telemetry/reconcile-observer.ts'
import { nextStep } from './fpw-switch.ts'
import { MembershipReconciler } from './membership-reconciler.ts'
import { observeTimeline } from './observation.ts'
import type { Observation } from './observation.ts'
import { PublishedConfiguration } from './published-configuration.ts'
import { ReconcileInterval } from './reconcile-interval.ts'
import type { Stores } from './retirement.ts'
import { ShardFollowers } from './shard-followers.ts'
import { timelineSteps } from './steps/index.ts'
import type { Step, StepContext } from './steps/step.ts'
import { TimelineProblems } from './timeline-problems.ts'
import { timelineView } from './timeline-view.ts'
import type { TimelineView } from './timeline-view.ts'

export interface ReconcilerParts extends Stores {
  readonly configurations: ConfigurationStore
  readonly nodes: Nodes
  readonly clients: NodeClients
  readonly computes: ComputeDriver
  /** How long a safekeeper may be away or damaged before another takes its place, in milliseconds; 0 = for ever. */
  readonly replaceAfterMs: number
  /** Undefined where nothing is measured. */
  readonly observer?: ReconcileObserver | undefined
  /** The timelines that one control plane looks after. */
  readonly timelinesCount: () => number
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

/** The result of a pass. */
export type PassEnd = 'settled' | 'unsettled' | 'again' | 'end'

export class TimelineReconciler {
  /** Notified after every stored change. */
  readonly changes = new Signal()
  /** Of the safekeepers. */
  readonly membership: MembershipReconciler
  readonly #parts: ReconcilerParts
  readonly #ref: TimelineRef
  readonly #log: Log
  readonly #steps: readonly Step[]
  readonly #interval = new ReconcileInterval()
  readonly #timelineProblems: TimelineProblems
  readonly #problems: ProblemReport
  readonly #loop: Loop
  /** Whether both documents were written under this lead. */
  #isOurs = false

  constructor(parts: ReconcilerParts, ref: TimelineRef) {
    const { clock, rng, clients, configurations } = parts
    const log = parts.log.child({ tenant: ref.tenantId, timeline: ref.timelineId })
    const update = (change: (timeline: TimelineDocument) => TimelineDocument): Promise<TimelineDocument> =>
      this.#update(change)
    this.#parts = parts
    this.#ref = ref
    this.#log = log
    this.#problems = new ProblemReport({ clock, log, event: 'reconcile_failed' })
    // Each round says when the next is due.
    this.#loop = new Loop({ clock, rng, pauseMs: 0, problems: this.#problems, round: () => this.#round() })
    this.#timelineProblems = new TimelineProblems(clock)
    this.membership = new MembershipReconciler({ ...parts, log, ref, update })
    this.#steps = timelineSteps({
      ...parts,
      log,
      ref,
      update,
      configuration: new PublishedConfiguration(configurations, ref.timelineId),
      problems: this.#timelineProblems,
      membership: this.membership,
      followers: new ShardFollowers(clients),
    })
  }

  /** Something was requested: the next pass begins at once. */
  wake(): void {
    this.#interval.reset()
    this.#loop.wake()
  }

  /** Resolves once it was stopped, or the timeline is gone. Trouble is logged and tried again. */
  run(): Promise<void> {
    this.#loop.start()
    return this.#loop.ended
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  /** Positions and problems as they are now. */
  async view(tenant: TenantDocument, timeline: TimelineDocument): Promise<TimelineView> {
    const observed = await observeTimeline(this.#parts, tenant, timeline)
    return timelineView(tenant, timeline, observed, this.#timelineProblems, this.#problems.current)
  }

  async #round(): Promise<number | 'end'> {
    const { clock, timelinesCount } = this.#parts
    let end: PassEnd = 'unsettled'
    try {
      const documents = await this.#documents()
      if (documents === undefined) return 'end'
      end = await this.#pass(documents)
      this.#problems.clear()
    } catch (error) {
      // It was deleted, or its tenant.
      if (isErrorCode(error, 'unknown_tenant')) return 'end'
      await this.#report(error)
    }
    if (end === 'end') return 'end'
    if (end === 'again') this.wake()
    return this.#interval.pauseMs(end === 'settled', clock.nowMs(), timelinesCount())
  }

  /**
   * Both as stored, and no longer written under an earlier lead; undefined where the tenant does not list the timeline.
   */
  async #documents(): Promise<Pick<StepContext, 'tenant' | 'timeline'> | undefined> {
    const { tenants, timelines } = this.#parts
    const { tenantId, timelineId } = this.#ref
    const tenant = await tenants.find(tenantId)
    const entry = entryOf(tenant, timelineId)
    if (entry === undefined) return undefined
    if (this.#isOurs) return { tenant, timeline: await timelines.read(tenant, entry) }
    const timeline = await timelines.take(this.#ref)
    // Only now: a timeline whose entry has no beginning has a document.
    const taken = await tenants.update(tenantId, (document) => withoutBeginning(document, timelineId))
    this.#isOurs = true
    return { tenant: taken, timeline }
  }

  async #pass({ tenant, timeline }: Pick<StepContext, 'tenant' | 'timeline'>): Promise<PassEnd> {
    let isSettled = true
    let current = timeline
    let observed: Promise<Observation> | undefined
    const observe = (): Promise<Observation> => (observed ??= observeTimeline(this.#parts, tenant, timeline))
    for (const step of this.#steps) {
      const outcome = await step({ tenant, timeline: current, observe })
      switch (outcome.kind) {
        case 'settled':
        case 'unsettled':
          current = outcome.timeline ?? current
          if (outcome.kind === 'unsettled') isSettled = false
          break
        case 'wait':
          return 'unsettled'
        case 'again':
        case 'end':
          return outcome.kind
        default:
          return unreachable(outcome)
      }
    }
    return isSettled ? 'settled' : 'unsettled'
  }

  async #update(change: (timeline: TimelineDocument) => TimelineDocument): Promise<TimelineDocument> {
    const timeline = await this.#parts.timelines.update(this.#ref, change)
    this.changes.notify()
    return timeline
  }

  /** A switch of full_page_writes that is under way shows what keeps it. */
  async #report(error: unknown): Promise<void> {
    this.#parts.observer?.failed()
    if (!this.#problems.report(error)) return
    const problem = this.#problems.current
    try {
      await this.#update((timeline) =>
        nextStep(timeline.fpw) === undefined || timeline.fpw.problem === problem
          ? timeline
          : { ...timeline, fpw: { ...timeline.fpw, problem } },
      )
    } catch (storeError) {
      this.#log.warn('problem_not_stored', { problem: describeError(storeError) })
    }
  }
}

function withoutBeginning(tenant: TenantDocument, timelineId: string): TenantDocument {
  if (entryOf(tenant, timelineId)?.beginning === undefined) return tenant
  const timelines = tenant.timelines.map((entry) =>
    entry.timelineId === timelineId ? { timelineId, name: entry.name } : entry,
  )
  return { ...tenant, timelines }
}

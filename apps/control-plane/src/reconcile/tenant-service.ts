/**
 * All tenants with their reconcilers: the domain behind the API. A tenant made by another control plane is found at
 * the next look into the store.
 */
import { Loop, ProblemReport } from '@understory/actor'
import { describeError, formatLsn, hexId, isErrorCode, parseNodeId, refuse } from '@understory/base'
import type { Clock } from '@understory/env'
import { readPostgresMajor } from '@understory/postgres/cluster'
import { requestSwitch } from './fpw-switch.ts'
import {
  allSafekeepers,
  cancelChange,
  recoverFrom,
  recoverFromStore,
  requestChange,
} from './membership-change.ts'
import type { ChangeRequest } from './membership-change.ts'
import { checkRecovery, prepareStoredRecovery } from './membership-recovery.ts'
import { isAskedFor, newPassword } from './password.ts'
import type { PasswordRequest } from './password.ts'
import { Removals, waitsFor, withoutTimeline } from './removals.ts'
import type { RemovalParts } from './removals.ts'
import { FPW_INITIAL } from '../documents/tenant-document.ts'
import type { FpwState, Removal, TenantDocument, TimelineDocument } from '../documents/tenant-document.ts'
import { TimelineReconciler } from './timeline-reconciler.ts'
import type { ReconcilerParts } from './timeline-reconciler.ts'
import type { SafekeepersView, TimelineView } from './timeline-view.ts'

/** How often tenants made elsewhere are looked for. */
const LOOK_MS = 2_000
const LOOK_MS_EACH = 50

export interface TenantRequest extends PasswordRequest {
  readonly name: string
  readonly postgresMajor: number
  readonly shardCount: number
  readonly stripeBlocks: number
  readonly imageThresholdRecords: number
  readonly settings: Readonly<Record<string, string>>
  readonly sqlPort: number
  readonly requestId: string
  readonly allowsPlaintext: boolean
}

export interface RemovalView {
  readonly tenant: TenantDocument
  readonly removal: Removal
  /** Names of nodes. */
  readonly waitsFor: readonly string[]
  readonly problem: string
}

export class TenantService {
  readonly #parts: ReconcilerParts
  readonly #reconcilers = new Map<string, TimelineReconciler>()
  readonly #running = new Set<Promise<void>>()
  readonly #removals: Removals
  readonly #loop: Loop
  #looking: Promise<void> | undefined

  constructor(parts: Omit<ReconcilerParts, 'timelinesCount'> & Pick<RemovalParts, 'objects'>) {
    this.#parts = { ...parts, timelinesCount: () => this.#reconcilers.size }
    this.#removals = new Removals(parts)
    const { clock, rng, log } = parts
    this.#loop = new Loop({
      clock,
      rng,
      pauseMs: LOOK_MS,
      backoff: { baseMs: LOOK_MS, pauseMsMax: LOOK_MS },
      problems: new ProblemReport({ clock, log, event: 'tenants_not_listed' }),
      round: () => this.#round(),
    })
  }

  get clock(): Clock {
    return this.#parts.clock
  }

  /** Reconciles every tenant until `stop`. */
  run(): Promise<void> {
    this.#loop.start()
    return this.#loop.ended
  }

  async #round(): Promise<number> {
    for (const tenant of await this.#parts.store.list()) this.#take(tenant)
    this.#lookAtRemovals()
    // Each look reads every tenant's document.
    return Math.max(LOOK_MS, LOOK_MS_EACH * this.#reconcilers.size)
  }

  async stop(): Promise<void> {
    await Promise.all([
      this.#loop.stop(),
      ...[...this.#reconcilers.values()].map((reconciler) => reconciler.stop()),
      ...this.#running,
      this.#looking,
    ])
  }

  /**
   * Idempotent by name and request id. Gives the random password, too: empty where the caller chose it, and for a
   * repeated call, because it is kept nowhere. Errors: refused `bad_argument`, `already_exists`.
   */
  async create(request: TenantRequest): Promise<{ document: TenantDocument; password: string }> {
    validateRequest(request)
    const { verifier, password } = newPassword(request, this.#parts.rng)
    const known = await this.#parts.store.find(request.name).catch((error: unknown) => {
      if (isErrorCode(error, 'unknown_tenant')) return undefined
      throw error
    })
    if (known !== undefined && request.requestId !== '' && known.requestId === request.requestId) {
      if (known.password === undefined || isAskedFor(known.password.verifier, request))
        return { document: known, password: '' }
      throw refuse('already_exists', `tenant "${request.name}" was made with another password`, {
        hint: 'Set a new one with `understory tenant password`.',
      })
    }
    const document = await this.#parts.store.create(this.#newTenant(request, verifier))
    this.#parts.log.info('tenant_created', { tenant: document.tenantId, name: document.name })
    this.#take(document)
    return { document, password }
  }

  /**
   * Stores a new password of the role postgres, which every Postgres of the tenant gets as soon as it runs. Gives the
   * random password; empty where the caller chose it. Errors: refused `bad_argument`, `unknown_tenant`.
   */
  async setPassword(tenantName: string, request: PasswordRequest): Promise<string> {
    const { verifier, password } = newPassword(request, this.#parts.rng)
    const { tenantId } = await this.find(tenantName)
    const changed = await this.#parts.store.update(tenantId, (document) => ({
      ...document,
      password: { verifier, generation: (document.password?.generation ?? 0) + 1 },
    }))
    this.#parts.log.info('password_set', { tenant: tenantId, generation: changed.password?.generation })
    for (const item of changed.timelines) this.#take(changed, item).wake()
    return password
  }

  async list(): Promise<TenantDocument[]> {
    return (await this.#parts.store.list()).filter(({ isDeleted }) => !isDeleted)
  }

  /** What is on its way out. */
  async removals(): Promise<RemovalView[]> {
    return (await this.#parts.store.list()).flatMap((tenant) =>
      tenant.removals.map((removal) => ({
        tenant,
        removal,
        waitsFor: waitsFor(removal),
        problem: this.#removals.problemOf(removal.timelineId),
      })),
    )
  }

  /**
   * Nobody finds the timeline from then on, and its name is free; what there is of it is removed after that, by nodes
   * that are away once they are back. Error: refused `precondition` where it has a compute, unless that is to be ended.
   */
  async deleteTimeline(tenantName: string, timelineName: string, stopCompute: boolean): Promise<void> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    if (!stopCompute) await this.#checkStopped(tenant, timeline)
    await this.#parts.store.update(tenant.tenantId, (document) =>
      withoutTimeline(document, timeline.timelineId),
    )
    this.#parts.log.warn('timeline_deleted', { tenant: tenant.tenantId, timeline: timeline.timelineId })
    this.#removeSoon(tenant)
  }

  /** The same of the tenant and all its timelines. */
  async deleteTenant(tenantName: string, stopCompute: boolean): Promise<void> {
    const tenant = await this.find(tenantName)
    if (!stopCompute) for (const timeline of tenant.timelines) await this.#checkStopped(tenant, timeline)
    await this.#parts.store.update(tenant.tenantId, (document) => {
      let changed: TenantDocument = document
      for (const { timelineId } of document.timelines) changed = withoutTimeline(changed, timelineId)
      return { ...changed, isDeleted: true }
    })
    this.#parts.log.warn('tenant_deleted', { tenant: tenant.tenantId, name: tenant.name })
    await this.#removals.releaseName(tenant)
    this.#removeSoon(tenant)
  }

  async #checkStopped(tenant: TenantDocument, timeline: TimelineDocument): Promise<void> {
    const { computes } = this.#parts
    const hint = 'Have it ended with the deletion: --stop-compute.'
    const name = `timeline "${timeline.name}" of tenant "${tenant.name}"`
    const place = {
      tenantName: tenant.name,
      timelineName: timeline.name,
      timeline: { tenantId: tenant.tenantId, timelineId: timeline.timelineId },
      hostAddress: timeline.addresses[timeline.computeHost],
    }
    const found = await computes.find(place).catch((cause: unknown) => {
      throw refuse('precondition', `whether ${name} has a running compute is not known`, { hint, cause })
    })
    if (found !== undefined) throw refuse('precondition', `${name} has a running compute`, { hint })
  }

  /** Its reconcilers end, and the next look comes now. */
  #removeSoon(tenant: TenantDocument): void {
    for (const { timelineId } of tenant.timelines) this.#reconcilers.get(timelineId)?.wake()
    this.#removals.hurry()
    this.#loop.wake()
  }

  /** Unless the last look is still under way: a node that hangs holds nothing else up. */
  #lookAtRemovals(): void {
    this.#looking ??= this.#advanceRemovals()
      .catch((error: unknown) =>
        this.#parts.log.warn('removals_not_advanced', { problem: describeError(error) }),
      )
      .finally(() => {
        this.#looking = undefined
      })
  }

  async #advanceRemovals(): Promise<void> {
    const tenants = (await this.#parts.store.list()).filter(
      ({ removals, isDeleted }) => removals.length > 0 || isDeleted,
    )
    const isInUse = (timelineId: string): boolean => this.#reconcilers.has(timelineId)
    await Promise.all(tenants.map((tenant) => this.#removals.advance(tenant, isInUse)))
  }

  find(nameOrId: string): Promise<TenantDocument> {
    return this.#parts.store.find(nameOrId)
  }

  async findTimeline(
    tenantName: string,
    timelineName: string,
  ): Promise<{ tenant: TenantDocument; timeline: TimelineDocument }> {
    const tenant = await this.find(tenantName)
    const wanted = timelineName === '' ? 'main' : timelineName
    const timeline = tenant.timelines.find((item) => item.name === wanted || item.timelineId === wanted)
    if (timeline !== undefined) return { tenant, timeline }
    throw refuse('unknown_timeline', `timeline "${wanted}" of tenant "${tenantName}" does not exist`, {
      hint: 'List the timelines with `understory timeline list`.',
    })
  }

  async view(tenantName: string, timelineName: string): Promise<TimelineView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    const observed = await this.#take(tenant, timeline).observe(tenant, timeline)
    return { tenant, timeline, observed }
  }

  async views(): Promise<TimelineView[]> {
    const tenants = await this.list()
    const all = tenants.flatMap((tenant) =>
      tenant.timelines.map((timeline) => this.view(tenant.tenantId, timeline.timelineId)),
    )
    return Promise.all(all)
  }

  /** Idempotent while it is under way or in force. Errors: refused `bad_argument`, `precondition`. */
  async changeSafekeepers(
    tenantName: string,
    timelineName: string,
    request: ChangeRequest,
  ): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    const known = await this.#parts.nodes.list()
    const addresses: Record<string, string> = {}
    for (const node of request.add) {
      const found = known.find(({ nodeId, kind }) => nodeId === node && kind === 'safekeeper')
      if (found === undefined)
        throw refuse('bad_argument', `no safekeeper "${node}" is announced`, {
          hint: 'See `understory nodes`.',
        })
      addresses[node] = found.address
    }
    const nowMs = this.#parts.clock.wallMs()
    await this.#change(tenant, timeline, (item) => ({
      ...requestChange(item, request, nowMs),
      addresses: { ...item.addresses, ...addresses },
    }))
    return this.safekeepers(tenant.tenantId, timeline.timelineId)
  }

  /** Error: refused `precondition` where there is none to give up, or too late. */
  async cancelSafekeeperChange(tenantName: string, timelineName: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    const nowMs = this.#parts.clock.wallMs()
    await this.#change(tenant, timeline, (item) => cancelChange(item, nowMs))
    return this.safekeepers(tenant.tenantId, timeline.timelineId)
  }

  /**
   * Makes `survivor` the only safekeeper that counts. Refused `precondition` while a majority answers, or where storage
   * has WAL that the survivor does not have: pages of it would be of another history.
   */
  async recoverSafekeepers(
    tenantName: string,
    timelineName: string,
    survivor: string,
  ): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    const { clock, log, clients } = this.#parts
    const ref = { tenantId: tenant.tenantId, timelineId: timeline.timelineId }
    const { flushLsn } = await checkRecovery(clients, ref, timeline, survivor)
    const nowMs = clock.wallMs()
    await this.#change(tenant, timeline, (item) => recoverFrom(item, survivor, nowMs))
    log.error('safekeepers_recovered_by_force', {
      tenant: tenant.tenantId,
      timeline: timeline.timelineId,
      survivor,
      givenUp: allSafekeepers(timeline).filter((node) => node !== survivor),
      flushLsn: formatLsn(flushLsn),
      consequence: 'commits that the survivor does not have are lost',
    })
    return this.safekeepers(tenant.tenantId, timeline.timelineId)
  }

  /**
   * Goes on with what the object store has of the WAL, where no safekeeper is left. Refused `precondition` where one has
   * the timeline, or where there are too few, `not_found` where nothing is stored.
   */
  async recoverSafekeepersFromStore(tenantName: string, timelineName: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    const { clock, log, nodes, clients } = this.#parts
    const ref = { tenantId: tenant.tenantId, timelineId: timeline.timelineId }
    const recovery = await prepareStoredRecovery(clients, nodes, ref, timeline)
    const nowMs = clock.wallMs()
    await this.#change(tenant, timeline, (item) => recoverFromStore(item, recovery, nowMs))
    log.error('safekeepers_recovered_from_store', {
      tenant: tenant.tenantId,
      timeline: timeline.timelineId,
      members: recovery.members.map(({ nodeId }) => nodeId),
      endLsn: formatLsn(recovery.endLsn),
      consequence: 'commits that the object store does not have are lost',
    })
    return this.safekeepers(tenant.tenantId, timeline.timelineId)
  }

  async safekeepers(tenantName: string, timelineName: string): Promise<SafekeepersView> {
    const { tenant, timeline } = await this.findTimeline(tenantName, timelineName)
    return { tenant, timeline, pull: this.#take(tenant, timeline).membership.pull }
  }

  async switchFpw(tenantName: string, wanted: 'on' | 'off'): Promise<FpwState> {
    const { tenant, timeline } = await this.findTimeline(tenantName, '')
    const nowMs = this.#parts.clock.wallMs()
    const changed = await this.#change(tenant, timeline, (item) => ({
      ...item,
      fpw: requestSwitch(item.fpw, wanted, nowMs),
    }))
    return changed.fpw
  }

  /** What somebody asked for is stored, and its reconciler begins. Error: refused `unknown_timeline` where it is gone by now. */
  async #change(
    { tenantId }: TenantDocument,
    { timelineId }: TimelineDocument,
    change: (timeline: TimelineDocument) => TimelineDocument,
  ): Promise<TimelineDocument> {
    const tenant = await this.#parts.store.update(tenantId, (document) => ({
      ...document,
      timelines: document.timelines.map((item) => (item.timelineId === timelineId ? change(item) : item)),
    }))
    const changed = tenant.timelines.find((item) => item.timelineId === timelineId)
    if (changed === undefined)
      throw refuse('unknown_timeline', `timeline ${timelineId} was deleted, or begun again, meanwhile`, {
        hint: 'List the timelines with `understory timeline list`.',
      })
    this.#take(tenant, changed).wake()
    return changed
  }

  /** The switch's state, now and after every change, until the signal fires. */
  async *watchFpw(tenantName: string, signal: AbortSignal): AsyncGenerator<FpwState, void, void> {
    const { tenant, timeline } = await this.findTimeline(tenantName, '')
    const reconciler = this.#take(tenant, timeline)
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

  #take(tenant: TenantDocument): void
  #take(tenant: TenantDocument, timeline: TimelineDocument): TimelineReconciler
  #take(tenant: TenantDocument, wanted?: TimelineDocument): TimelineReconciler | undefined {
    for (const { timelineId } of tenant.timelines) {
      if (this.#reconcilers.has(timelineId)) continue
      const reconciler = new TimelineReconciler(this.#parts, tenant.tenantId, timelineId)
      this.#reconcilers.set(timelineId, reconciler)
      const running = reconciler.run()
      this.#running.add(running)
      // It ends before its time when its timeline was begun anew, under another id.
      void running.finally(() => {
        this.#running.delete(running)
        this.#reconcilers.delete(timelineId)
      })
    }
    return wanted === undefined ? undefined : this.#reconcilers.get(wanted.timelineId)
  }

  #newTenant(request: TenantRequest, verifier: string): TenantDocument {
    const newId = (): string => hexId(this.#parts.rng.bytes(16))
    return {
      version: 1,
      minReader: 1,
      epoch: 0,
      tenantId: newId(),
      name: request.name,
      requestId: request.requestId,
      postgresMajor: request.postgresMajor,
      shardCount: request.shardCount,
      stripeBlocks: request.stripeBlocks,
      imageThresholdRecords: request.imageThresholdRecords,
      settings: { ...request.settings },
      allowsPlaintext: request.allowsPlaintext,
      password: { verifier, generation: 1 },
      createdAtS: Math.floor(this.#parts.clock.wallMs() / 1_000),
      removals: [],
      isDeleted: false,
      timelines: [
        {
          timelineId: newId(),
          name: 'main',
          startLsn: '0/0',
          bootstrapped: false,
          leftCopies: [],
          safekeeperNodes: [],
          membershipGeneration: 0,
          newSafekeeperNodes: [],
          shards: [],
          computeHost: '',
          addresses: {},
          sqlPort: request.sqlPort,
          specGeneration: 0,
          specText: '',
          passwordGeneration: 0,
          fpw: FPW_INITIAL,
        },
      ],
    }
  }
}

function validateRequest(request: TenantRequest): void {
  parseNodeId(request.name)
  const within = (what: string, value: number, min: number, max: number): void => {
    if (value < min || value > max)
      throw refuse('bad_argument', `${what} ${value} is not within ${min} to ${max}`)
  }
  readPostgresMajor(request.postgresMajor)
  within('shard count', request.shardCount, 1, 256)
  within('stripe', request.stripeBlocks, 1, 2 ** 20)
  within('image threshold', request.imageThresholdRecords, 1, 10_000)
  within('sql port', request.sqlPort, 0, 65_535)
  within('length of the request id', request.requestId.length, 0, REQUEST_ID_LENGTH_MAX)
  const settingsLength = Object.entries(request.settings).reduce(
    (sum, pair) => sum + pair.join('=').length,
    0,
  )
  within('length of all settings together,', settingsLength, 0, SETTINGS_LENGTH_MAX)
  for (const [name, value] of Object.entries(request.settings)) {
    if (!SETTING_NAME.test(name)) throw refuse('bad_argument', `"${name}" is no name of a setting`)
    // It stands within quotes on one line of a file.
    if (CONTROL_CHARACTER.test(value))
      throw refuse('bad_argument', `the value of setting "${name}" has a control character`)
    if (MANAGED_SETTINGS.has(name.toLowerCase())) {
      throw refuse('bad_argument', `setting "${name}" is managed by Understory`, {
        hint: name === 'full_page_writes' ? 'Use `understory tenant fpw`.' : 'Leave it out.',
      })
    }
  }
}

/** In characters: they stand in the tenant's document, which every look at the tenant reads. */
const SETTINGS_LENGTH_MAX = 64 * 1024
const REQUEST_ID_LENGTH_MAX = 256

/** As guc.c of PostgreSQL takes them: valid_custom_variable_name. */
const SETTING_NAME = /^[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)*$/
// oxlint-disable-next-line no-control-regex -- that is what it is for
const CONTROL_CHARACTER = /[\x00-\x1f\x7f]/

/** What durability rests on, or what the compute fills in itself (docs/architecture.md, "Life of a compute"). */
const MANAGED_SETTINGS: ReadonlySet<string> = new Set([
  'full_page_writes',
  'fsync',
  'synchronous_standby_names',
  'restart_after_crash',
  'archive_mode',
  'port',
  'listen_addresses',
  'unix_socket_directories',
  'hba_file',
  'data_directory',
  'primary_conninfo',
])

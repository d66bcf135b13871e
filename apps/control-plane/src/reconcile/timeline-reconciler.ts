/**
 * Brings one timeline to what is wanted of it: placed, its shards attached, its compute running, full_page_writes as
 * asked for. One pass observes, does the next thing that is missing, and stores what it did; every action is
 * idempotent, so a pass may be cut at any point and be run again, also by another control plane.
 */
import { Loop, ProblemReport, Signal } from '@understory/actor'
import {
  describeError,
  formatLsn,
  hexId,
  isErrorCode,
  lsnFromBigint,
  parseLsn,
  present,
  refuse,
} from '@understory/base'
import type { Clock, Log, Rng } from '@understory/env'
import { ComputeState } from '@understory/rpc'
import type {
  Configuration,
  GetComputeStatusResponse,
  ImageGeneration,
  ShardRef,
  ShardStatus,
  TimelineRef,
} from '@understory/rpc'
import { computeSpecOf, safekeeperAddresses, specDigest } from './compute-spec.ts'
import type { ShardToAttach } from '@understory/protocol/clients'
import type { ComputeDriver, ComputePlace } from '../computes/compute-driver.ts'
import { isNewer } from '../documents/configuration-store.ts'
import type { ConfigurationStore } from '../documents/configuration-store.ts'
import { beginSwitch, completeStep, hasDrifted, nextStep, seenFullPageWrites, stepLsn } from './fpw-switch.ts'
import { allSafekeepers, isFromStore } from './membership-change.ts'
import { MembershipReconciler } from './membership-reconciler.ts'
import type { Nodes } from '../documents/nodes.ts'
import { computeMissing, ifReachable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import { ReconcileInterval } from './reconcile-interval.ts'
import { placeTimeline } from './placement.ts'
import type { ReconcileObserver } from '../telemetry/reconcile-observer.ts'
import { finishRetirement, restartTimeline } from './retirement.ts'
import type { Stores } from './retirement.ts'
import { ShardRecovery } from './shard-recovery.ts'
import { entryOf, identityToAttach, isPasswordPending } from '../documents/tenant-document.ts'
import type { TenantDocument } from '../documents/tenant-document.ts'
import type { FpwState, FpwStepName, TimelineDocument } from '../documents/timeline-document.ts'

/** Between looks at the WAL position that a switch waits for. */
const SEEN_POLL_MS = 10
/** How long one pass waits for the record before it lets other work go first. */
const SEEN_WAIT_MS = 5_000

/** Older than any that a compute has: of a timeline whose configuration was never published. */
const INITIAL_CONFIGURATION: Configuration = { version: { term: 0n, number: 1n }, files: {}, soundFiles: {} }

export interface ReconcilerParts extends Stores {
  readonly configurations: ConfigurationStore
  readonly nodes: Nodes
  readonly clients: NodeClients
  readonly computes: ComputeDriver
  /** How long a safekeeper may be away or damaged before another takes its place; 0 = for ever. */
  readonly replaceAfterMs: number
  /** Undefined where nothing is measured. */
  readonly observer?: ReconcileObserver | undefined
  /** Those that one control plane looks after. */
  readonly timelinesCount: () => number
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
}

/** What a pass saw; the API shows it. */
export interface Observation {
  readonly computeAddress: string | undefined
  readonly compute: GetComputeStatusResponse | undefined
  /** By shard number; undefined where the pageserver did not answer or has no such shard. */
  readonly shards: readonly (ShardStatus | undefined)[]
  /** By shard number: why it does not go on, empty where it does or nothing is known of it. */
  readonly shardProblems: readonly string[]
  /** What keeps the timeline, or its compute, from what is wanted; empty where nothing does that is known. */
  readonly problem: string
}

/** By pageserver: its shards of the timeline, or undefined where it does not answer. */
type ShardsOfNodes = ReadonlyMap<string, readonly ShardStatus[] | undefined>

const shardOf = (answers: ShardsOfNodes, node: string, number: number): ShardStatus | undefined =>
  answers.get(node)?.find(({ shard }) => shard?.number === number)

export class TimelineReconciler {
  readonly #parts: ReconcilerParts
  readonly #ref: TimelineRef
  readonly #log: Log
  /** Notified after every stored change. */
  readonly changes = new Signal()
  /** Of the safekeepers. */
  readonly membership: MembershipReconciler
  /** The safekeepers that the shards were last told. */
  #toldShards = ''
  readonly #interval = new ReconcileInterval()
  readonly #recovery: ShardRecovery
  readonly #problems: ProblemReport
  readonly #loop: Loop
  #isOurs = false
  #computeProblem = ''
  /** As in the object store; undefined until it was looked up. */
  #published: { readonly configuration: Configuration | undefined } | undefined

  constructor(parts: ReconcilerParts, ref: TimelineRef) {
    this.#parts = parts
    this.#ref = ref
    this.#log = parts.log.child({ tenant: ref.tenantId, timeline: ref.timelineId })
    this.#recovery = new ShardRecovery(parts.clock)
    const { clock, rng } = parts
    this.#problems = new ProblemReport({ clock, log: this.#log, event: 'reconcile_failed' })
    // Each round says when the next is due.
    this.#loop = new Loop({ clock, rng, pauseMs: 0, problems: this.#problems, round: () => this.#round() })
    this.membership = new MembershipReconciler({
      nodes: parts.nodes,
      clients: parts.clients,
      clock: parts.clock,
      log: this.#log,
      ref,
      update: (change) => this.#update(change),
      replaceAfterMs: parts.replaceAfterMs,
      observer: parts.observer,
    })
  }

  /** Something was asked for: the next pass begins at once. */
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

  async #round(): Promise<number | 'end'> {
    const { clock, timelinesCount } = this.#parts
    let isSettled = false
    try {
      const found = await this.#parts.tenants.find(this.#ref.tenantId)
      const entry = entryOf(found, this.#ref.timelineId)
      if (entry === undefined) return 'end'
      const timeline = this.#isOurs
        ? await this.#parts.timelines.read(found, entry)
        : await this.#parts.timelines.take(this.#ref)
      if (timeline.retired !== undefined) {
        await finishRetirement(this.#parts, timeline, this.#newId())
        return 'end'
      }
      const tenant = this.#isOurs ? found : await this.#takeTenant()
      this.#isOurs = true
      isSettled = await this.#pass(tenant, timeline)
      this.#problems.clear()
    } catch (error) {
      // It was deleted, or its tenant.
      if (isErrorCode(error, 'unknown_tenant')) return 'end'
      await this.#report(error)
    }
    return this.#interval.pauseMs(isSettled, clock.nowMs(), timelinesCount())
  }

  /** As the timeline's document before it: from now on neither is written under an earlier lead. */
  #takeTenant(): Promise<TenantDocument> {
    const { tenantId, timelineId } = this.#ref
    return this.#parts.tenants.update(tenantId, (tenant) =>
      entryOf(tenant, timelineId)?.beginning === undefined ? tenant : withDocumentOf(tenant, timelineId),
    )
  }

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

  /** One look and what follows from it; true when nothing is left to do. */
  async #pass(tenant: TenantDocument, before: TimelineDocument): Promise<boolean> {
    let timeline = before
    if (timeline.shards.length === 0) timeline = await this.#place(tenant)
    timeline = await this.#refreshAddresses(timeline)
    let shards = await this.#askPageservers(timeline)
    const attached = await this.#attachShards(tenant, timeline, shards)
    if (attached !== timeline) {
      timeline = attached
      shards = await this.#askPageservers(timeline)
    }
    const isHeldBack = isFromStore(timeline)
    if (isHeldBack) await this.#tellShards(tenant, timeline)
    else timeline = await this.#ensureCompute(tenant, timeline)
    const observed = await this.observe(tenant, timeline, shards)
    if (!timeline.bootstrapped && observed.compute?.birthInterrupted === true) {
      await this.#restart()
      return true
    }
    // Before the birth is noted: a timeline that counts as born never lacks its configuration.
    await this.#publishConfiguration(observed)
    if (!timeline.bootstrapped) {
      timeline = await this.#noteBirth(timeline, observed)
      if (!timeline.bootstrapped) return false
    }
    const { timeline: changed, isBusy } = await this.membership.advance(timeline, observed.compute)
    if (changed !== timeline) this.wake()
    if (isBusy) return false
    await this.#tellShards(tenant, timeline)
    timeline = await this.#applyPassword(tenant, timeline, observed)
    const seen = seenFullPageWrites(observed.shards[0])
    if (hasDrifted(timeline.fpw, seen)) {
      this.#log.warn('full_page_writes_drifted', {
        wanted: timeline.fpw.wanted,
        seen: seen?.value,
        sinceLsn: seen?.lsn,
      })
      timeline = await this.#update((item) => ({
        ...item,
        fpw: beginSwitch(item.fpw, this.#parts.clock.wallMs()),
      }))
    }
    const step = nextStep(timeline.fpw)
    if (step === undefined) return isOpen(observed) && !isPasswordPending(tenant, timeline)
    await this.#carryOut(step, tenant, timeline, observed)
    this.wake()
    return false
  }

  /** Positions and problems as they are now; `asked`: what pageservers have answered a moment ago. */
  async observe(
    tenant: TenantDocument,
    timeline: TimelineDocument,
    asked?: ShardsOfNodes,
  ): Promise<Observation> {
    const { clients } = this.#parts
    const hosted = await ifReachable(this.#parts.computes.find(this.#computePlace(tenant, timeline)))
    // Empty while its process is on its way.
    const computeAddress = hosted?.address || undefined
    const [compute, answers] = await Promise.all([
      computeAddress === undefined ? undefined : ifReachable(clients.computeStatus(computeAddress)),
      asked ?? this.#askPageservers(timeline),
    ])
    const shards = timeline.shards.map(({ node }, number) => shardOf(answers, node, number))
    return {
      computeAddress,
      compute,
      shards,
      shardProblems: shards.map((status, number) =>
        status === undefined ? '' : this.#recovery.problemOf(number, status),
      ),
      problem: this.#problems.current || this.#computeProblem,
    }
  }

  /** One question for each pageserver, whatever number of its shards the timeline has. */
  async #askPageservers({ shards, addresses }: TimelineDocument): Promise<ShardsOfNodes> {
    const nodes = [...new Set(shards.map(({ node }) => node))]
    const answers = nodes.map(async (node) => {
      const address = addresses[node]
      if (address === undefined) return [node, undefined] as const
      const asked = this.#parts.clients.shards(address, this.#ref).catch(noneWhenUnknown)
      return [node, await ifReachable(asked)] as const
    })
    return new Map(await Promise.all(answers))
  }

  #newId(): string {
    return hexId(this.#parts.rng.bytes(16))
  }

  async #update(change: (timeline: TimelineDocument) => TimelineDocument): Promise<TimelineDocument> {
    const timeline = await this.#parts.timelines.update(this.#ref, change)
    this.changes.notify()
    return timeline
  }

  async #place(tenant: TenantDocument): Promise<TimelineDocument> {
    const seed = Number.parseInt(tenant.tenantId.slice(0, 6), 16)
    const { nodes, computes } = this.#parts
    const announced = await nodes.list()
    const placement = placeTimeline(announced, tenant.shardCount, seed, computes.usesHosts)
    this.#log.info('timeline_placed', { ...placement })
    const placed = new Set([...placement.safekeeperNodes, ...placement.shardNodes, placement.computeHost])
    const addresses = announced
      .filter(({ nodeId }) => placed.has(nodeId))
      .map(({ nodeId, address }) => [nodeId, address] as const)
    return this.#update((timeline) =>
      timeline.shards.length > 0
        ? timeline
        : {
            ...timeline,
            safekeeperNodes: [...placement.safekeeperNodes],
            shards: placement.shardNodes.map((node) => ({ node, generation: 1 })),
            computeHost: placement.computeHost,
            addresses: { ...timeline.addresses, ...Object.fromEntries(addresses) },
          },
    )
  }

  /** Without the broker the addresses are those of the document: a lost compute has to come back without it. */
  async #refreshAddresses(timeline: TimelineDocument): Promise<TimelineDocument> {
    const wanted = [
      ...allSafekeepers(timeline),
      ...(timeline.safekeeperChange?.add ?? []),
      ...timeline.shards.map(({ node }) => node),
      ...(timeline.computeHost === '' ? [] : [timeline.computeHost]),
    ]
    const addresses = { ...timeline.addresses }
    for (const { nodeId, address } of this.#parts.nodes.known()) {
      if (wanted.includes(nodeId)) addresses[nodeId] = address
    }
    const missing = wanted.find((node) => addresses[node] === undefined)
    if (missing !== undefined)
      throw refuse('unavailable', `node "${missing}" is not announced`, { hint: 'Start it.' })
    if (wanted.every((node) => addresses[node] === timeline.addresses[node])) return timeline
    return this.#update((item) => ({ ...item, addresses }))
  }

  #shardRef(tenant: TenantDocument, number: number): ShardRef {
    return { number, count: tenant.shardCount, stripeBlocks: tenant.stripeBlocks }
  }

  #imageGeneration(tenant: TenantDocument, enabled: boolean): ImageGeneration {
    return { enabled, thresholdRecords: tenant.imageThresholdRecords }
  }

  /**
   * A pageserver that does not have its shard, or where it has stopped, gets it under a new generation: the old one can
   * publish no more, and a stopped shard is loaded afresh.
   */
  async #attachShards(
    tenant: TenantDocument,
    timeline: TimelineDocument,
    answers: ShardsOfNodes,
  ): Promise<TimelineDocument> {
    for (const [number, { node }] of timeline.shards.entries()) {
      if (answers.get(node) === undefined) continue
      const address = present(timeline.addresses[node], `address of ${node}`)
      const here = shardOf(answers, node, number)
      if (here !== undefined && !this.#mustAttachAgain(number, node, here)) continue
      timeline = await this.#update((item) => ({
        ...item,
        shards: item.shards.map((shard, i) =>
          i === number ? { ...shard, generation: shard.generation + 1 } : shard,
        ),
      }))
      const request = this.#attachRequest(tenant, timeline, number, !timeline.bootstrapped)
      const { generation } = request
      try {
        await this.#parts.clients.attachShard(address, request)
      } catch (error) {
        if (here === undefined) throw error
        // Everything else of the timeline goes on as it did.
        this.#log.warn('shard_not_reattached', { shard: number, node, generation, error })
        continue
      }
      this.#log.info('shard_attached', { shard: number, node, generation })
    }
    return timeline
  }

  #attachRequest(tenant: TenantDocument, timeline: TimelineDocument, number: number, create: boolean) {
    return {
      timeline: this.#ref,
      shard: this.#shardRef(tenant, number),
      generation: present(timeline.shards[number], `shard ${number}`).generation,
      postgres: identityToAttach(tenant, timeline),
      create,
      safekeepers: safekeeperAddresses(timeline),
      imageGeneration: this.#imageGeneration(tenant, needsImages(timeline.fpw)),
      rollback: rollbackOf(timeline, number),
    }
  }

  #mustAttachAgain(number: number, node: string, { failure }: ShardStatus): boolean {
    if (failure === '') {
      this.#recovery.noteServing(number)
      return false
    }
    if (!this.#recovery.isDue(number)) return false
    const attempt = this.#recovery.triesOf(number)
    this.#log.warn('stopped_shard_reattached', { shard: number, node, attempt, failure })
    return true
  }

  /** Which safekeepers to follow, under the generation that they have. */
  async #tellShards(tenant: TenantDocument, timeline: TimelineDocument): Promise<void> {
    const safekeepers = safekeeperAddresses(timeline)
    const told = JSON.stringify([safekeepers, timeline.shards])
    if (timeline.membershipGeneration === 0 || told === this.#toldShards) return
    const done = await Promise.all(
      timeline.shards.map(async ({ node }, number) => {
        const address = present(timeline.addresses[node], 'address')
        const request = this.#attachRequest(tenant, timeline, number, false)
        const attached = this.#parts.clients.attachShard(address, request)
        return (await ifReachable(attached.then(() => true))) ?? false
      }),
    )
    if (done.every(Boolean)) this.#toldShards = told
  }

  async #ensureCompute(tenant: TenantDocument, timeline: TimelineDocument): Promise<TimelineDocument> {
    const digest = specDigest(computeSpecOf(tenant, timeline))
    if (digest !== timeline.specDigest) {
      timeline = await this.#update((item) => ({
        ...item,
        specDigest: digest,
        specGeneration: item.specGeneration + 1,
      }))
    }
    const { computes, configurations } = this.#parts
    this.#published ??= { configuration: await configurations.read(this.#ref.timelineId) }
    const spec = computeSpecOf(tenant, timeline)
    const known = this.#published.configuration ?? (spec.bootstrap ? undefined : INITIAL_CONFIGURATION)
    const ensured = computes.ensure(this.#computePlace(tenant, timeline), spec, known)
    const problem = (await ifReachable(ensured)) ?? ''
    // Told once: its words change while it lasts.
    if (problem !== '' && this.#computeProblem === '') this.#log.warn('waiting_for_compute', { problem })
    this.#computeProblem = problem
    return timeline
  }

  #computePlace(
    tenant: TenantDocument,
    timeline: TimelineDocument,
    timelineId: string = this.#ref.timelineId,
    host: string = timeline.computeHost,
  ): ComputePlace {
    return {
      tenantName: tenant.name,
      timelineName: timeline.name,
      timeline: { tenantId: this.#ref.tenantId, timelineId },
      hostAddress: timeline.addresses[host],
    }
  }

  /** What a user changed there is in no WAL. */
  async #publishConfiguration({ compute, computeAddress }: Observation): Promise<void> {
    if (compute === undefined || computeAddress === undefined) return
    if (!isNewer(compute.configurationVersion, this.#published?.configuration?.version)) return
    const configuration = await ifReachable(this.#parts.clients.configuration(computeAddress))
    if (configuration === undefined) return
    const published = await this.#parts.configurations.publish(this.#ref.timelineId, configuration)
    this.#published = { configuration: published }
    this.#log.info('configuration_published', {
      term: published.version?.term.toString(),
      number: published.version?.number.toString(),
    })
  }

  /** A reconciler of the new id takes over. */
  async #restart(): Promise<void> {
    const timelineId = this.#newId()
    this.#log.warn('bootstrap_interrupted', { newTimeline: timelineId })
    await restartTimeline(this.#parts, this.#ref, timelineId)
    this.changes.notify()
  }

  /** The timeline is born once its compute takes SQL: initdb and import are behind it then. */
  async #noteBirth(timeline: TimelineDocument, { compute }: Observation): Promise<TimelineDocument> {
    if (compute?.state !== ComputeState.COMPUTE_STATE_RUNNING || compute.postgres === undefined)
      return timeline
    const { major, systemId, pgTimelineId, walSegmentBytes } = compute.postgres
    const startLsn = formatLsn(lsnFromBigint(compute.startLsn))
    this.#log.info('timeline_bootstrapped', { systemId, startLsn })
    return this.#update((item) => ({
      ...item,
      bootstrapped: true,
      startLsn,
      postgres: { major, systemId: systemId.toString(), pgTimelineId, walSegmentBytes },
    }))
  }

  /** After a change of the safekeepers, which the change of the password needs, and never the other way round. */
  async #applyPassword(
    tenant: TenantDocument,
    timeline: TimelineDocument,
    observed: Observation,
  ): Promise<TimelineDocument> {
    const { password } = tenant
    if (password === undefined || !isPasswordPending(tenant, timeline) || !isOpen(observed)) return timeline
    await this.#parts.clients.setPassword(runningCompute(observed), password)
    this.#log.info('password_applied', { generation: password.generation })
    return this.#update((item) => ({
      ...item,
      passwordGeneration: Math.max(item.passwordGeneration, password.generation),
    }))
  }

  async #carryOut(
    step: FpwStepName,
    tenant: TenantDocument,
    timeline: TimelineDocument,
    observed: Observation,
  ): Promise<void> {
    const { clock } = this.#parts
    const startedMs = clock.nowMs()
    const { observer } = this.#parts
    const work = (): Promise<string | undefined> => this.#carryOutStep(step, tenant, timeline, observed)
    const lsn = await (observer === undefined ? work() : observer.carryOut(timeline, step, work))
    if (lsn === undefined) return
    const tookMs = Math.round(clock.nowMs() - startedMs)
    const { fpw } = await this.#update((item) =>
      // A newer request has begun another plan meanwhile: this step belongs to none of its own.
      item.fpw.generation === timeline.fpw.generation
        ? { ...item, fpw: completeStep(item.fpw, step, lsn, tookMs, clock.wallMs()) }
        : item,
    )
    if (fpw.generation === timeline.fpw.generation) observer?.fpwStepped(timeline.timelineId, fpw)
    this.#log.info('fpw_step_done', { step, lsn, tookMs })
  }

  /** The LSN at which the step took effect (0/0 where none belongs to it), or undefined when it is not done yet. */
  async #carryOutStep(
    step: FpwStepName,
    tenant: TenantDocument,
    timeline: TimelineDocument,
    observed: Observation,
  ): Promise<string | undefined> {
    switch (step) {
      case 'image_generation':
      case 'image_generation_off':
        await this.#switchImageGeneration(tenant, timeline, step === 'image_generation')
        return '0/0'
      case 'setting':
        return this.#parts.clients.setFullPageWrites(runningCompute(observed), timeline.fpw.wanted === 'on')
      case 'seen_in_wal':
        return this.#waitUntilSeen(timeline)
      case 'checkpoint': {
        const redo = await this.#parts.clients.runCheckpoint(runningCompute(observed))
        const seenAt = present(stepLsn(timeline.fpw, 'seen_in_wal'), 'the position where the change was seen')
        // A checkpoint that began before the record does not count: pages dirtied before it would have no image.
        return parseLsn(redo) >= parseLsn(seenAt) ? redo : undefined
      }
    }
  }

  async #switchImageGeneration(
    tenant: TenantDocument,
    timeline: TimelineDocument,
    enabled: boolean,
  ): Promise<void> {
    const settings = this.#imageGeneration(tenant, enabled)
    await Promise.all(
      timeline.shards.map(({ node }, number) => {
        const address = present(timeline.addresses[node], `address of ${node}`)
        return this.#parts.clients.setImageGeneration(
          address,
          this.#ref,
          this.#shardRef(tenant, number),
          settings,
          timeline.fpw.generation,
        )
      }),
    )
  }

  async #waitUntilSeen(timeline: TimelineDocument): Promise<string | undefined> {
    const { clock } = this.#parts
    const setAt = parseLsn(stepLsn(timeline.fpw, 'setting') ?? '0/0')
    const untilMs = clock.nowMs() + SEEN_WAIT_MS
    const first = present(timeline.shards[0], 'shard 0')
    while (clock.nowMs() < untilMs) {
      const answers = await this.#askPageservers({ ...timeline, shards: [first] })
      const shardZero = shardOf(answers, first.node, 0)
      if (shardZero !== undefined && shardZero.failure !== '') {
        throw refuse('precondition', `shard 0 has stopped: ${shardZero.failure}`)
      }
      const seen = seenFullPageWrites(shardZero)
      if (seen?.value === timeline.fpw.wanted && lsnFromBigint(shardZero?.ingestedLsn ?? 0n) >= setAt)
        return seen.lsn
      await clock.sleep(SEEN_POLL_MS)
    }
    throw refuse('timeout', `full_page_writes = ${timeline.fpw.wanted} was not seen in the WAL yet`, {
      hint: 'The change needs a running compute and a shard 0 that keeps up; the switch goes on by itself.',
    })
  }
}

/** The tenant's document once the timeline's own is stored. */
const withDocumentOf = (tenant: TenantDocument, timelineId: string): TenantDocument => ({
  ...tenant,
  timelines: tenant.timelines.map((entry) =>
    entry.timelineId === timelineId ? { timelineId, name: entry.name } : entry,
  ),
})

const needsImages = (fpw: FpwState): boolean => fpw.wanted === 'off' || fpw.phase !== 'on'

const isOpen = ({ compute }: Observation): boolean => compute?.state === ComputeState.COMPUTE_STATE_RUNNING

function runningCompute({ compute, computeAddress }: Observation): string {
  if (compute?.state !== ComputeState.COMPUTE_STATE_RUNNING || computeAddress === undefined)
    throw computeMissing()
  return computeAddress
}

/** A pageserver that never heard of the timeline has none of its shards. */
function noneWhenUnknown(error: unknown): readonly ShardStatus[] {
  if (isErrorCode(error, 'unknown_timeline')) return []
  throw error
}

/** What a shard is to give up of WAL that was, where it was. */
function rollbackOf({ rollback }: TimelineDocument, shard: number): ShardToAttach['rollback'] {
  const beforeGeneration = rollback?.shardGenerations[shard]
  if (rollback === undefined || beforeGeneration === undefined) return undefined
  return { lsn: parseLsn(rollback.lsn), beforeGeneration }
}

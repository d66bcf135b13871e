/**
 * Carries out changes of a timeline's safekeepers (membership-change.ts), and begins one by itself where a member is lost
 * for good. One call does what can be done now; whatever cuts it short, the next call goes on.
 */
import { LSN_ZERO, formatLsn, isErrorCode, parseLsn, present, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { MemberStatus } from '@understory/consensus'
import type { Clock, Log } from '@understory/env'
import type { GetComputeStatusResponse, TimelineRef } from '@understory/rpc'
import {
  allSafekeepers,
  beginJoint,
  completeChangeStep,
  describeChange,
  endJoint,
  isUnderWay,
  knownMembershipOf,
  leftOut,
  nextChangeStep,
  requestChange,
} from './membership-change.ts'
import type { Nodes } from '../documents/nodes.ts'
import { ifReachable, isCopyUnusable } from '../clients/node-clients.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { ReconcileObserver } from '../telemetry/reconcile-observer.ts'
import type { ChangeStepName, SafekeeperChange, TimelineDocument } from '../documents/timeline-document.ts'

/** How long a proposer may take to hear of a membership before its safekeepers are told all the same: then they tell it. */
const PROPOSER_WAIT_MS = 3_000
/** How long newcomers may take, in one try, to get to where the old members were when they were asked. */
const SYNC_WAIT_MS = 1_000
const SYNC_POLL_MS = 10
/** Between two looks at whether every member is well. */
const HEALTH_LOOK_MS = 2_000
/** Between two tries to remove what safekeepers that left still have. */
const COPIES_LOOK_MS = 5_000

export interface MembershipParts {
  readonly nodes: Pick<Nodes, 'known' | 'list'>
  readonly clients: NodeClients
  readonly clock: Clock
  readonly log: Log
  readonly ref: TimelineRef
  readonly update: (change: (timeline: TimelineDocument) => TimelineDocument) => Promise<TimelineDocument>
  /** 0: never. */
  readonly replaceAfterMs: number
  readonly observer?: ReconcileObserver | undefined
}

export class MembershipReconciler {
  readonly #parts: MembershipParts
  /** How far behind the furthest newcomer is. */
  pull: { readonly flushLsn: Lsn; readonly goalLsn: Lsn } | undefined
  #stepSinceMs: number | undefined
  #copiesNotBeforeMs = 0
  readonly #ailingSinceMs = new Map<string, number>()
  #lookedMs = -Infinity

  constructor(parts: MembershipParts) {
    this.#parts = parts
  }

  /** The document after it, and whether there is more to do at once. */
  async advance(
    timeline: TimelineDocument,
    compute: GetComputeStatusResponse | undefined,
  ): Promise<{ readonly timeline: TimelineDocument; readonly isBusy: boolean }> {
    const { safekeeperChange: change } = timeline
    if (change === undefined || !isUnderWay(change)) {
      this.pull = undefined
      const cleared = await this.#removeRetiredReplicas(timeline)
      const begun = await this.#replaceLost(cleared)
      return { timeline: begun, isBusy: begun !== timeline }
    }
    const step = present(nextChangeStep(change), 'step')
    const nowMs = this.#parts.clock.nowMs()
    this.#stepSinceMs ??= nowMs
    let after: TimelineDocument | undefined
    try {
      after = await this.#carryOut(step, timeline, change, compute, nowMs - this.#stepSinceMs)
    } catch (error) {
      if (isErrorCode(error, 'stale')) throw error
      return { timeline: await this.#note(timeline, change, error), isBusy: true }
    }
    if (after === undefined) return { timeline, isBusy: true }
    this.#stepSinceMs = undefined
    return { timeline: after, isBusy: true }
  }

  /** Why it does not go on, for whoever asks. */
  async #note(
    timeline: TimelineDocument,
    change: SafekeeperChange,
    error: unknown,
  ): Promise<TimelineDocument> {
    const problem = error instanceof Error ? error.message : String(error)
    if (problem === change.problem) return timeline
    this.#parts.log.warn('safekeeper_change_waiting', { change: describeChange(change), problem })
    return this.#parts.update((item) =>
      item.safekeeperChange?.number === change.number
        ? { ...item, safekeeperChange: { ...item.safekeeperChange, problem } }
        : item,
    )
  }

  /** The document after it; undefined where it is not done yet. */
  async #carryOut(
    step: ChangeStepName,
    timeline: TimelineDocument,
    change: SafekeeperChange,
    compute: GetComputeStatusResponse | undefined,
    sinceMs: number,
  ): Promise<TimelineDocument | undefined> {
    const isProposerTold =
      compute === undefined ||
      change.reason === 'stored' ||
      compute.membershipGeneration >= BigInt(timeline.membershipGeneration) ||
      sinceMs > PROPOSER_WAIT_MS
    switch (step) {
      case 'pull':
        return (await this.#haveNewcomersPulled(timeline, change))
          ? this.#complete(change, step, (item) => item)
          : undefined
      case 'rollback':
        await this.#checkRolledBack(timeline)
        return this.#complete(change, step, (item) => item)
      case 'joint':
        return this.#complete(change, step, beginJoint)
      case 'finish': {
        if (!isProposerTold) return undefined
        const statuses = await this.#syncMembers(timeline)
        if (endJoint(timeline, (node) => statuses.get(node)) === undefined)
          throw refuse('unavailable', describeUnsynced(timeline, statuses))
        const isSame = (item: TimelineDocument): boolean =>
          item.membershipGeneration === timeline.membershipGeneration
        return this.#complete(change, step, (item) =>
          isSame(item) ? (endJoint(item, (node) => statuses.get(node)) ?? item) : item,
        )
      }
      case 'spread':
        if (!isProposerTold) return undefined
        await this.#spread(timeline, change)
        return this.#complete(change, step, (item) => item)
    }
  }

  async #complete(
    { number, ...change }: SafekeeperChange,
    step: ChangeStepName,
    also: (timeline: TimelineDocument) => TimelineDocument,
  ): Promise<TimelineDocument> {
    const { clock, log, update } = this.#parts
    const tookMs = Math.round(clock.nowMs() - (this.#stepSinceMs ?? clock.nowMs()))
    const after = await update((item) => {
      const isCurrent =
        item.safekeeperChange?.number === number && nextChangeStep(item.safekeeperChange) === step
      return isCurrent ? completeChangeStep(also(item), number, step, tookMs, clock.wallMs()) : item
    })
    log.info('safekeeper_change_step_done', {
      change: describeChange({ number, ...change }),
      step,
      tookMs,
      generation: after.membershipGeneration,
    })
    const changed = after.safekeeperChange
    if (changed?.number === number) this.#parts.observer?.membershipStepped(changed)
    return after
  }

  async #checkRolledBack({ shards, addresses, rollback }: TimelineDocument): Promise<void> {
    const { clients, ref } = this.#parts
    for (const [number, { node }] of shards.entries()) {
      const address = addresses[node]
      const known = address === undefined ? undefined : await ifReachable(clients.shards(address, ref))
      const own = known?.find(({ shard }) => shard?.number === number)
      if (own === undefined || own.generation < BigInt(rollback?.shardGenerations[number] ?? 0))
        throw refuse('unavailable', `pageserver "${node}" has not given up WAL beyond ${rollback?.lsn} yet`)
    }
  }

  async #haveNewcomersPulled(
    timeline: TimelineDocument,
    { add, reason }: SafekeeperChange,
  ): Promise<boolean> {
    const { clients, ref } = this.#parts
    const isStored = reason === 'stored'
    const donors = isStored ? [] : knownMembershipOf(timeline).members
    const stored = isStored ? storedEndOf(timeline) : undefined
    const answers = await Promise.all(
      add.map(async (node) => ({
        node,
        ...(await clients.pullTimeline(this.#address(timeline, node), ref, donors, stored)),
      })),
    )
    this.#noteProgress(answers)
    const stuck = answers.find(({ problem }) => problem !== '')
    if (stuck !== undefined) throw refuse('unavailable', `"${stuck.node}" cannot pull: ${stuck.problem}`)
    return answers.every(({ isRunning, goalLsn }) => !isRunning && goalLsn > LSN_ZERO)
  }

  #noteProgress(answers: readonly { readonly flushLsn: Lsn; readonly goalLsn: Lsn }[]): void {
    const [furthest] = answers.toSorted((a, b) => b.goalLsn - b.flushLsn - (a.goalLsn - a.flushLsn))
    this.pull =
      furthest === undefined ? undefined : { flushLsn: furthest.flushLsn, goalLsn: furthest.goalLsn }
  }

  #address(timeline: TimelineDocument, node: string): string {
    const address = timeline.addresses[node]
    if (address !== undefined) return address
    throw refuse('unavailable', `node "${node}" is not announced`, { hint: 'Start it.' })
  }

  /**
   * What every member says of itself under this membership. The newcomers last, and as often as it takes them to get to
   * where the others were: under load one that is asked first is never as far.
   */
  async #syncMembers(timeline: TimelineDocument): Promise<Map<string, MemberStatus>> {
    const { clock } = this.#parts
    const statuses = new Map<string, MemberStatus>()
    const ask = async (nodes: readonly string[]): Promise<void> => {
      const answers = await Promise.all(
        nodes.map(async (node) => [node, await this.#configure(timeline, node)] as const),
      )
      for (const [node, status] of answers) if (status !== undefined) statuses.set(node, status)
    }
    const newcomers = timeline.newSafekeeperNodes.filter((node) => !timeline.safekeeperNodes.includes(node))
    const leaving = timeline.safekeeperNodes.filter((node) => !timeline.newSafekeeperNodes.includes(node))
    await ask(leaving)
    await ask(timeline.safekeeperNodes.filter((node) => !leaving.includes(node)))
    const untilMs = clock.nowMs() + SYNC_WAIT_MS
    for (;;) {
      await ask(newcomers)
      if (endJoint(timeline, (node) => statuses.get(node)) !== undefined || clock.nowMs() > untilMs)
        return statuses
      await clock.sleep(SYNC_POLL_MS)
      // Those that stay may have been asked a moment too early, too.
      await ask(timeline.newSafekeeperNodes.filter((node) => !newcomers.includes(node)))
    }
  }

  /** Undefined where it does not answer, or has the timeline no more. */
  async #configure(timeline: TimelineDocument, node: string): Promise<MemberStatus | undefined> {
    const { clients, ref } = this.#parts
    const address = timeline.addresses[node]
    if (address === undefined) return undefined
    const told = clients.configureMembership(address, ref, knownMembershipOf(timeline))
    const answer = await ifReachable(told.catch(undefinedWhenDamaged))
    if (answer === undefined || answer.nodeId !== node) return undefined
    return answer
  }

  async #spread(timeline: TimelineDocument, change: SafekeeperChange): Promise<void> {
    const { safekeeperNodes: members } = timeline
    const answers = await Promise.all(members.map((node) => this.#configure(timeline, node)))
    const knowing = answers.filter((status) => status !== undefined).length
    if (knowing * 2 <= members.length)
      throw refuse('unavailable', `${knowing} of ${members.length} safekeepers know that the change is over`)
    // Those that are away stay behind: whoever asks them by the old membership gets no majority.
    await Promise.all(leftOut(change).map((node) => this.#configure(timeline, node)))
  }

  /** Of safekeepers that left. While no change is under way: none of them pulls its copy anew meanwhile. */
  async #removeRetiredReplicas(timeline: TimelineDocument): Promise<TimelineDocument> {
    const { clock, log, nodes, clients, ref, update } = this.#parts
    if (timeline.retiredReplicas.length === 0 || clock.nowMs() < this.#copiesNotBeforeMs) return timeline
    this.#copiesNotBeforeMs = clock.nowMs() + COPIES_LOOK_MS
    const announced = nodes.known()
    const gone: string[] = []
    for (const { node, generation } of timeline.retiredReplicas) {
      const address = announced.find(({ nodeId }) => nodeId === node)?.address
      if (address === undefined) continue
      // It is a member again by a change that this look is too old for: then the document will say so.
      const removed = clients.deleteWal(address, ref, generation).catch(undefinedWhenStale)
      if ((await ifReachable(removed.then(() => true))) !== true) continue
      gone.push(node)
      log.info('replica_removed', { node, generation })
    }
    if (gone.length === 0) return timeline
    return update((item) => ({
      ...item,
      retiredReplicas: item.retiredReplicas.filter(({ node }) => !gone.includes(node)),
    }))
  }

  // Members that are lost.

  /** Begins a change where a member has been away or damaged for long, most others are well, and another node is free. */
  async #replaceLost(timeline: TimelineDocument): Promise<TimelineDocument> {
    const { clock, log, nodes, replaceAfterMs, update } = this.#parts
    const nowMs = clock.nowMs()
    if (replaceAfterMs === 0 || !timeline.bootstrapped || nowMs - this.#lookedMs < HEALTH_LOOK_MS)
      return timeline
    this.#lookedMs = nowMs
    const members = timeline.safekeeperNodes
    const healthy = await Promise.all(members.map((node) => this.#isWell(timeline, node)))
    members.forEach((node, index) => {
      if (healthy[index] === true) this.#ailingSinceMs.delete(node)
      else if (!this.#ailingSinceMs.has(node)) this.#ailingSinceMs.set(node, nowMs)
    })
    const isMajorityWell = healthy.filter(Boolean).length * 2 > members.length
    const lost = members.find(
      (node) => nowMs - (this.#ailingSinceMs.get(node) ?? nowMs) >= Math.max(1, replaceAfterMs),
    )
    if (lost === undefined || !isMajorityWell) return timeline
    // Without the broker nobody knows of a spare that lives: the replacement waits, all else of the pass goes on.
    const spares = ((await ifReachable(nodes.list())) ?? [])
      .filter(({ kind, nodeId }) => kind === 'safekeeper' && !members.includes(nodeId))
      .filter(({ nodeId }) => !this.#ailingSinceMs.has(nodeId))
    const spare = spares[Number.parseInt(timeline.timelineId.slice(0, 6), 16) % Math.max(1, spares.length)]
    if (spare === undefined) return timeline
    log.warn('safekeeper_replacement_started', { node: lost, by: spare.nodeId, afterMs: replaceAfterMs })
    this.#ailingSinceMs.delete(lost)
    const request = { add: [spare.nodeId], remove: [lost], reason: 'lost_node' } as const
    return update((item) => {
      const begun = requestChange(item, request, clock.wallMs())
      return begun === item
        ? item
        : { ...begun, addresses: { ...begun.addresses, [spare.nodeId]: spare.address } }
    })
  }

  async #isWell(timeline: TimelineDocument, node: string): Promise<boolean> {
    const address = timeline.addresses[node]
    if (address === undefined) return false
    const asked = this.#parts.clients.walStatus(address, this.#parts.ref)
    const status = await ifReachable(asked.catch(undefinedWhenDamaged))
    return status !== undefined && status.nodeId === node && status.failure === ''
  }
}

/** A member whose copy cannot be used is as good as away. */
function undefinedWhenDamaged(error: unknown): undefined {
  if (isCopyUnusable(error)) return undefined
  throw error
}

function undefinedWhenStale(error: unknown): undefined {
  if (isErrorCode(error, 'stale')) return undefined
  throw error
}

function describeUnsynced(timeline: TimelineDocument, statuses: ReadonlyMap<string, MemberStatus>): string {
  const parts = allSafekeepers(timeline).map((node) => {
    const status = statuses.get(node)
    if (status === undefined) return `"${node}" does not answer`
    const isAware = status.membershipGeneration === timeline.membershipGeneration
    return isAware
      ? `"${node}" has ${formatLsn(status.flushLsn)} of term ${status.lastLogTerm}`
      : `"${node}" knows another membership`
  })
  return `the new safekeepers do not have everything yet: ${parts.join(', ')}`
}

function storedEndOf({ rollback }: TimelineDocument): { readonly endLsn: Lsn; readonly term: number } {
  const { lsn, term } = present(rollback, 'rollback')
  return { endLsn: parseLsn(lsn), term }
}

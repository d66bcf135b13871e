/**
 * Carries out changes of a timeline's safekeepers (membership-change.ts), and begins one by itself where a member is
 * lost for good. One call does what can be done now; after an interruption the next call continues.
 */
import { LSN_ZERO, formatLsn, isErrorCode, parseLsn, present, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { MemberStatus } from '@understory/consensus'
import type { GetComputeStatusResponse } from '@understory/rpc'
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
} from './membership-change.ts'
import { askPageservers, shardOn } from './observation.ts'
import { LostMembers, undefinedWhenUnusable } from './lost-members.ts'
import type { LostMembersParts } from './lost-members.ts'
import { RetiredReplicas } from './retired-replicas.ts'
import type { RetiredReplicasParts } from './retired-replicas.ts'
import type { Nodes } from '../documents/nodes.ts'
import { ifReachable } from '../clients/node-clients.ts'
import type { ReconcileObserver } from '../telemetry/reconcile-observer.ts'
import type { ChangeStepName, SafekeeperChange, TimelineDocument } from '../documents/timeline-document.ts'

/**
 * How long a proposer may take to learn of a membership before its safekeepers are sent it all the same: they report it
 * then.
 */
const PROPOSER_WAIT_MS = 3_000
/** How long newcomers may take, in one try, to get to where the old members were when they were asked. */
const SYNC_WAIT_MS = 1_000
const SYNC_POLL_MS = 10

export interface MembershipParts extends LostMembersParts, RetiredReplicasParts {
  readonly nodes: Pick<Nodes, 'known' | 'list'>
  readonly observer?: ReconcileObserver | undefined
}

export class MembershipReconciler {
  readonly #parts: MembershipParts
  /** How far behind the furthest newcomer is. */
  pull: { readonly flushLsn: Lsn; readonly goalLsn: Lsn } | undefined
  #stepSinceMs: number | undefined
  readonly #lostMembers: LostMembers
  readonly #retiredReplicas: RetiredReplicas

  constructor(parts: MembershipParts) {
    this.#parts = parts
    this.#lostMembers = new LostMembers(parts)
    this.#retiredReplicas = new RetiredReplicas(parts)
  }

  /** The document after it, and whether there is more to do at once. */
  async advance(
    timeline: TimelineDocument,
    compute: GetComputeStatusResponse | undefined,
  ): Promise<{ readonly timeline: TimelineDocument; readonly isBusy: boolean }> {
    const { safekeeperChange: change } = timeline
    if (change === undefined || !isUnderWay(change)) {
      this.pull = undefined
      const cleared = await this.#retiredReplicas.remove(timeline)
      const begun = await this.#lostMembers.replace(cleared)
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

  /** The reason why it waits, for the API to show. */
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
    const isProposerInformed =
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
        if (!isProposerInformed) return undefined
        const statuses = await this.#syncMembers(timeline)
        if (endJoint(timeline, (node) => statuses.get(node)) === undefined)
          throw fail('unavailable', describeUnsynced(timeline, statuses))
        const isSame = (item: TimelineDocument): boolean =>
          item.membershipGeneration === timeline.membershipGeneration
        return this.#complete(change, step, (item) =>
          isSame(item) ? (endJoint(item, (node) => statuses.get(node)) ?? item) : item,
        )
      }
      case 'spread':
        if (!isProposerInformed) return undefined
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

  async #checkRolledBack(timeline: TimelineDocument): Promise<void> {
    const { rollback } = timeline
    const answers = await askPageservers(this.#parts.clients, timeline)
    for (const [number, { node }] of timeline.shards.entries()) {
      const own = shardOn(answers, node, number)
      if (own === undefined || own.generation < BigInt(rollback?.shardGenerations[number] ?? 0))
        throw fail('unavailable', `pageserver "${node}" has not discarded WAL beyond ${rollback?.lsn} yet`)
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
    if (stuck !== undefined) throw fail('unavailable', `"${stuck.node}" cannot pull: ${stuck.problem}`)
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
    throw fail('unavailable', `node "${node}" is not announced`, { hint: 'Start it.' })
  }

  /**
   * The reports of every member under this membership. The newcomers last, and as often as it takes them to get to
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
      // The safekeepers that stay may have been asked a moment too early, too.
      await ask(timeline.newSafekeeperNodes.filter((node) => !newcomers.includes(node)))
    }
  }

  /** Undefined where it does not answer, or no longer has the timeline. */
  async #configure(timeline: TimelineDocument, node: string): Promise<MemberStatus | undefined> {
    const { clients, ref } = this.#parts
    const address = timeline.addresses[node]
    if (address === undefined) return undefined
    const configured = clients.configureMembership(address, ref, knownMembershipOf(timeline))
    const answer = await ifReachable(configured.catch(undefinedWhenUnusable))
    if (answer === undefined || answer.nodeId !== node) return undefined
    return answer
  }

  async #spread(timeline: TimelineDocument, change: SafekeeperChange): Promise<void> {
    const { safekeeperNodes: members } = timeline
    const answers = await Promise.all(members.map((node) => this.#configure(timeline, node)))
    const knowing = answers.filter((status) => status !== undefined).length
    if (knowing * 2 <= members.length)
      throw fail('unavailable', `${knowing} of ${members.length} safekeepers know that the change is over`)
    // Members that are away stay behind: by the old membership there is no majority without the others.
    await Promise.all(leftOut(change).map((node) => this.#configure(timeline, node)))
  }
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

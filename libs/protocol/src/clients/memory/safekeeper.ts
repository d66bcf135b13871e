/** A safekeeper that keeps positions and memberships in memory. It refuses what a real one refuses. */
import { LSN_ZERO, formatLsn, maxLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import type { CallOptions, TimelineRef } from '@understory/rpc'
import type { KnownMembership, Member } from '@understory/consensus/driver'
import type { MemberAnswer, PullProgress, SafekeeperClient, StoredWalEnd, WalStatus } from '../safekeeper.ts'
import { MemoryNode } from './node.ts'

type Copy = Omit<WalStatus, 'nodeId'>

export class MemorySafekeeper extends MemoryNode implements SafekeeperClient {
  readonly nodeId: string
  /** The WAL of every timeline in the object store, where there is one. */
  stored: StoredWalEnd | undefined
  /** What `readWal` gives of any timeline. */
  wal: { readonly startLsn: Lsn; readonly bytes: Uint8Array } = { startLsn: LSN_ZERO, bytes: Buffer.alloc(0) }
  readonly #copies = new Map<string, Copy>()
  readonly #at: (address: string) => MemorySafekeeper

  constructor(nodeId: string, at: (address: string) => MemorySafekeeper) {
    super(`safekeeper "${nodeId}"`)
    this.nodeId = nodeId
    this.#at = at
  }

  has({ timelineId }: TimelineRef): boolean {
    return this.#copies.has(timelineId)
  }

  /** Changes what it says of a timeline that it has. */
  set(timeline: TimelineRef, change: Partial<Copy>): void {
    this.#copies.set(timeline.timelineId, { ...this.#copyOf(timeline), ...change })
  }

  async createTimeline(
    timeline: TimelineRef,
    postgres: PostgresIdentity,
    startLsn: Lsn,
    options?: CallOptions,
  ): Promise<void> {
    await this.reach('createTimeline', options)
    if (this.has(timeline)) return
    this.#copies.set(timeline.timelineId, {
      postgres,
      timelineStartLsn: startLsn,
      term: 0,
      history: [{ term: 0, startLsn }],
      flushLsn: startLsn,
      commitLsn: startLsn,
      remoteConsistentLsn: LSN_ZERO,
      oldestLsn: startLsn,
      failure: '',
      membershipGeneration: 0,
    })
  }

  async walStatus(timeline: TimelineRef, options?: CallOptions): Promise<WalStatus> {
    await this.reach('walStatus', options)
    return { nodeId: this.nodeId, ...this.#copyOf(timeline) }
  }

  async commitPositions(timelines: readonly TimelineRef[], options?: CallOptions): Promise<readonly Lsn[]> {
    await this.reach('commitPositions', options)
    return timelines.map(({ timelineId }) => this.#copies.get(timelineId)?.commitLsn ?? LSN_ZERO)
  }

  async *readWal(
    timeline: TimelineRef,
    startLsn: Lsn,
    endLsn: Lsn,
    options?: CallOptions,
  ): AsyncGenerator<Uint8Array, void, void> {
    await this.reach('readWal', options)
    const { commitLsn } = this.#copyOf(timeline)
    if (endLsn > commitLsn) throw fail('out_of_range', `WAL is committed up to ${formatLsn(commitLsn)} here`)
    yield this.wal.bytes.subarray(startLsn - this.wal.startLsn, endLsn - this.wal.startLsn)
  }

  async configureMembership(
    timeline: TimelineRef,
    { generation }: KnownMembership,
    options?: CallOptions,
  ): Promise<MemberAnswer> {
    await this.reach('configureMembership', options)
    const copy = this.#copyOf(timeline)
    if (generation < copy.membershipGeneration)
      throw fail('stale', `membership generation ${copy.membershipGeneration} is newer than ${generation}`)
    this.set(timeline, { membershipGeneration: generation })
    const { term, history, flushLsn, commitLsn } = copy
    const lastLogTerm = history.at(-1)?.term ?? 0
    return { nodeId: this.nodeId, membershipGeneration: generation, term, lastLogTerm, flushLsn, commitLsn }
  }

  /** Done at once. */
  async pullTimeline(
    timeline: TimelineRef,
    donors: readonly Member[],
    stored?: StoredWalEnd,
    options?: CallOptions,
  ): Promise<PullProgress> {
    await this.reach('pullTimeline', options)
    const furthest = donors
      .map(({ address }) => this.#at(address))
      .filter((donor) => !donor.isAway)
      .map((donor) => donor.#copies.get(timeline.timelineId))
      .filter((copy) => copy !== undefined)
      .toSorted((a, b) => b.commitLsn - a.commitLsn)[0]
    const own = this.#copies.get(timeline.timelineId)
    if (stored !== undefined && own !== undefined) {
      const { endLsn } = stored
      this.set(timeline, { flushLsn: endLsn, commitLsn: endLsn })
      return { flushLsn: endLsn, goalLsn: endLsn, isRunning: false, problem: '' }
    }
    if (furthest === undefined) {
      const flushLsn = own?.flushLsn ?? LSN_ZERO
      return { flushLsn, goalLsn: LSN_ZERO, isRunning: false, problem: 'no donor has the timeline' }
    }
    const { commitLsn } = furthest
    const flushLsn = maxLsn(commitLsn, own?.flushLsn ?? LSN_ZERO)
    const membershipGeneration = own?.membershipGeneration ?? 0
    this.#copies.set(timeline.timelineId, { ...furthest, flushLsn, membershipGeneration })
    return { flushLsn, goalLsn: commitLsn, isRunning: false, problem: '' }
  }

  async closeStoredWal(timeline: TimelineRef, options?: CallOptions): Promise<StoredWalEnd> {
    await this.reach('closeStoredWal', options)
    if (this.has(timeline)) throw fail('precondition', `safekeeper "${this.nodeId}" has the timeline`)
    if (this.stored === undefined) throw fail('not_found', 'nothing of the timeline is stored')
    return this.stored
  }

  async deleteTimeline(
    timeline: TimelineRef,
    leftWithGeneration: number,
    options?: CallOptions,
  ): Promise<void> {
    await this.reach('deleteTimeline', options)
    const known = this.#copies.get(timeline.timelineId)?.membershipGeneration ?? 0
    if (leftWithGeneration > 0 && known > leftWithGeneration)
      throw fail('stale', `membership generation ${known} is newer than ${leftWithGeneration}`)
    this.#copies.delete(timeline.timelineId)
  }

  #copyOf({ timelineId }: TimelineRef): Copy {
    const copy = this.#copies.get(timelineId)
    if (copy !== undefined) return copy
    throw fail('unknown_timeline', `timeline ${timelineId} is not on this safekeeper`)
  }
}

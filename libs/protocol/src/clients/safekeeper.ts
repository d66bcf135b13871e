/** Calls to one safekeeper, in terms of the domain. The streams of proposers and shards are none of them. */
import { LSN_ZERO, lsnFromBigint, lsnToBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { MemberStatus, TermHistory } from '@understory/consensus'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { SafekeeperServiceClient, callServerStream, callUnary, createClient } from '@understory/rpc'
import type { CallOptions, ClientContext, GetWalStatusResponse, TimelineRef } from '@understory/rpc'
import { writeMembership } from '../membership.ts'
import type { KnownMembership, Member } from '@understory/consensus/driver'
import { readGeneration, readTerm } from '../numbers.ts'
import { readPostgresIdentity } from '../postgres-identity.ts'
import { readHistory } from '../term-history.ts'

/** Positions of a timeline on one safekeeper. */
export interface WalStatus {
  readonly nodeId: string
  readonly postgres: PostgresIdentity
  readonly timelineStartLsn: Lsn
  readonly term: number
  readonly history: TermHistory
  readonly flushLsn: Lsn
  readonly commitLsn: Lsn
  readonly remoteConsistentLsn: Lsn
  /** Oldest byte on its disk. */
  readonly oldestLsn: Lsn
  /** Empty, or why the timeline does not take WAL any more. */
  readonly failure: string
  readonly membershipGeneration: number
}

/** The report of a member about itself once it knows a membership. */
export interface MemberAnswer extends MemberStatus {
  readonly nodeId: string
  readonly commitLsn: Lsn
}

export interface PullProgress {
  readonly flushLsn: Lsn
  /** The commit position of the furthest donor; 0 before the first answer. */
  readonly goalLsn: Lsn
  readonly isRunning: boolean
  /** Empty, or why the last try ended. */
  readonly problem: string
}

/** Where WAL in the object store ends, and the last term that is known of it. */
export interface StoredWalEnd {
  readonly endLsn: Lsn
  readonly term: number
}

export type ReadWalOptions = CallOptions & { readonly term?: number }

/** Errors of all calls: those of the safekeeper, `unavailable`, `timeout` and `cancelled`. */
export interface SafekeeperClient {
  /** Idempotent with the same arguments. */
  createTimeline(
    timeline: TimelineRef,
    postgres: PostgresIdentity,
    startLsn: Lsn,
    options?: CallOptions,
  ): Promise<void>
  /** Errors: `unknown_timeline`; the damage of the copy. */
  walStatus(timeline: TimelineRef, options?: CallOptions): Promise<WalStatus>
  /** In the order of `timelines`; 0 where the safekeeper does not serve one. */
  commitPositions(timelines: readonly TimelineRef[], options?: CallOptions): Promise<readonly Lsn[]>
  /**
   * Committed bytes [startLsn, endLsn), piece by piece; with the term that the safekeeper voted for last, flushed ones.
   */
  readWal(
    timeline: TimelineRef,
    startLsn: Lsn,
    endLsn: Lsn,
    options?: ReadWalOptions,
  ): AsyncGenerator<Uint8Array, void, void>
  /** Errors: `stale` where a newer membership is known. */
  configureMembership(
    timeline: TimelineRef,
    membership: KnownMembership,
    options?: CallOptions,
  ): Promise<MemberAnswer>
  /** Begins, or continues; from the object store where `stored` is given. */
  pullTimeline(
    timeline: TimelineRef,
    donors: readonly Member[],
    stored?: StoredWalEnd,
    options?: CallOptions,
  ): Promise<PullProgress>
  /** Only where no safekeeper has the timeline any more. */
  closeStoredWal(timeline: TimelineRef, options?: CallOptions): Promise<StoredWalEnd>
  /** `leftWithGeneration` not 0: `stale` where a newer membership is known. */
  deleteTimeline(timeline: TimelineRef, leftWithGeneration: number, options?: CallOptions): Promise<void>
  close(): void
}

/** `peer` names the safekeeper in errors. */
export function safekeeperClient(
  rpc: ClientContext,
  address: string,
  peer: string = `safekeeper ${address}`,
): SafekeeperClient {
  return new GrpcSafekeeper(createClient(rpc, SafekeeperServiceClient, address), peer)
}

class GrpcSafekeeper implements SafekeeperClient {
  readonly #client: SafekeeperServiceClient
  readonly #peer: string

  constructor(client: SafekeeperServiceClient, peer: string) {
    this.#client = client
    this.#peer = peer
  }

  async createTimeline(
    timeline: TimelineRef,
    postgres: PostgresIdentity,
    startLsn: Lsn,
    options?: CallOptions,
  ): Promise<void> {
    const request = { timeline, postgres, startLsn: lsnToBigint(startLsn) }
    await callUnary(this.#client.createTimeline.bind(this.#client), request, this.#with(options))
  }

  async walStatus(timeline: TimelineRef, options?: CallOptions): Promise<WalStatus> {
    const get = this.#client.getWalStatus.bind(this.#client)
    return readWalStatus(await callUnary(get, { timeline }, this.#with(options)))
  }

  async commitPositions(timelines: readonly TimelineRef[], options?: CallOptions): Promise<readonly Lsn[]> {
    const get = this.#client.getCommitPositions.bind(this.#client)
    const { commitLsns } = await callUnary(get, { timelines }, this.#with(options))
    return timelines.map((_, i) => lsnFromBigint(commitLsns[i] ?? 0n))
  }

  async *readWal(
    timeline: TimelineRef,
    startLsn: Lsn,
    endLsn: Lsn,
    options?: ReadWalOptions,
  ): AsyncGenerator<Uint8Array, void, void> {
    const read = this.#client.readWal.bind(this.#client)
    const term = BigInt(options?.term ?? 0)
    const request = { timeline, startLsn: lsnToBigint(startLsn), endLsn: lsnToBigint(endLsn), term }
    for await (const { wal } of callServerStream(read, request, this.#with(options))) yield wal
  }

  async configureMembership(
    timeline: TimelineRef,
    membership: KnownMembership,
    options?: CallOptions,
  ): Promise<MemberAnswer> {
    const configure = this.#client.configureMembership.bind(this.#client)
    const request = { timeline, membership: writeMembership(membership) }
    const answer = await callUnary(configure, request, this.#with(options))
    return {
      nodeId: answer.nodeId,
      membershipGeneration: readGeneration('membership', answer.membershipGeneration),
      term: readTerm(answer.term),
      lastLogTerm: readTerm(answer.lastLogTerm),
      flushLsn: lsnFromBigint(answer.flushLsn),
      commitLsn: lsnFromBigint(answer.commitLsn),
    }
  }

  async pullTimeline(
    timeline: TimelineRef,
    donors: readonly Member[],
    stored?: StoredWalEnd,
    options?: CallOptions,
  ): Promise<PullProgress> {
    const pull = this.#client.pullTimeline.bind(this.#client)
    const request = {
      timeline,
      donors,
      storedUntilLsn: lsnToBigint(stored?.endLsn ?? LSN_ZERO),
      storedTerm: BigInt(stored?.term ?? 0),
    }
    const { flushLsn, goalLsn, running, problem } = await callUnary(pull, request, this.#with(options))
    return {
      flushLsn: lsnFromBigint(flushLsn),
      goalLsn: lsnFromBigint(goalLsn),
      isRunning: running,
      problem,
    }
  }

  async closeStoredWal(timeline: TimelineRef, options?: CallOptions): Promise<StoredWalEnd> {
    const close = this.#client.closeStoredWal.bind(this.#client)
    const request = { timeline, noSafekeeperIsLeft: true }
    const { endLsn, term } = await callUnary(close, request, this.#with(options))
    return { endLsn: lsnFromBigint(endLsn), term: readTerm(term) }
  }

  async deleteTimeline(
    timeline: TimelineRef,
    leftWithGeneration: number,
    options?: CallOptions,
  ): Promise<void> {
    const request = { timeline, leftWithGeneration: BigInt(leftWithGeneration) }
    await callUnary(this.#client.deleteTimeline.bind(this.#client), request, this.#with(options))
  }

  close(): void {
    this.#client.close()
  }

  #with(options: CallOptions | undefined): CallOptions {
    return { peer: this.#peer, ...options }
  }
}

function readWalStatus(status: GetWalStatusResponse): WalStatus {
  return {
    nodeId: status.nodeId,
    postgres: readPostgresIdentity(status.postgres),
    timelineStartLsn: lsnFromBigint(status.timelineStartLsn),
    term: readTerm(status.term),
    history: readHistory(status.termHistory),
    flushLsn: lsnFromBigint(status.flushLsn),
    commitLsn: lsnFromBigint(status.commitLsn),
    remoteConsistentLsn: lsnFromBigint(status.remoteConsistentLsn),
    oldestLsn: lsnFromBigint(status.oldestLsn),
    failure: status.failure,
    membershipGeneration: readGeneration('membership', status.membershipGeneration),
  }
}

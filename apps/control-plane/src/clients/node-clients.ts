/**
 * Calls to the processes that serve a timeline, each with the time that the control plane has for it. Clients are kept
 * per address (client-cache.ts).
 */
import { UnderstoryError, formatLsn, isErrorCode, fail } from '@understory/base'
import type { Clock } from '@understory/env'
import type { KnownMembership, Member } from '@understory/protocol'
import type {
  ComputeClient,
  ComputeHostClient,
  MemberAnswer,
  NodeConnector,
  PageserverClient,
  PasswordVerifier,
  PullProgress,
  SafekeeperClient,
  ShardToAttach,
  StoredWalEnd,
  WalStatus,
} from '@understory/protocol/clients'
import type {
  ComputeSpec,
  Configuration,
  GetComputeStatusResponse,
  HostedCompute,
  ShardRef,
  ShardStatus,
  TimelineRef,
  VerifyTimelineResponse,
} from '@understory/rpc'
import type { ImageGenerationSettings } from '@understory/storage'
import { ClientCache } from './client-cache.ts'

/** Short: what does not answer is asked again at the next round. */
const OBSERVE = { deadlineMs: 2_000 }
const ACT = { deadlineMs: 30_000 }
const REMOVE = { deadlineMs: 90_000 }
/** A few segments are read from the object store. */
const CLOSE = { deadlineMs: 60_000 }
/** A checkpoint of a busy server takes as long as its disk needs. */
const CHECKPOINT = { deadlineMs: 10 * 60_000 }

export class NodeClients {
  readonly #pageservers: ClientCache<PageserverClient>
  readonly #safekeepers: ClientCache<SafekeeperClient>
  readonly #hosts: ClientCache<ComputeHostClient>
  readonly #computes: ClientCache<ComputeClient>

  constructor(clock: Pick<Clock, 'nowMs'>, connector: NodeConnector) {
    this.#pageservers = new ClientCache(clock, (address) => connector.pageserver(address))
    this.#safekeepers = new ClientCache(clock, (address) => connector.safekeeper(address))
    this.#hosts = new ClientCache(clock, (address) => connector.computeHost(address))
    this.#computes = new ClientCache(clock, (address) => connector.compute(address))
  }

  /** Ends calls that are under way. None is made after it. */
  close(): void {
    for (const cache of [this.#pageservers, this.#safekeepers, this.#hosts, this.#computes]) cache.close()
  }

  // Pageservers.

  /** All shards of a timeline that one pageserver serves. */
  shards(address: string, timeline: TimelineRef): Promise<readonly ShardStatus[]> {
    return this.#pageservers.at(address).shards(timeline, OBSERVE)
  }

  async attachShard(address: string, shard: ShardToAttach): Promise<void> {
    await this.#pageservers.at(address).attachShard(shard, ACT)
  }

  detachShard(address: string, timeline: TimelineRef, shard: ShardRef): Promise<void> {
    return this.#pageservers.at(address).detachShard(timeline, shard, ACT)
  }

  setImageGeneration(
    address: string,
    timeline: TimelineRef,
    shard: ShardRef,
    settings: ImageGenerationSettings,
    revision: number,
  ): Promise<void> {
    return this.#pageservers.at(address).setImageGeneration(timeline, shard, settings, revision, ACT)
  }

  // Safekeepers.

  walStatus(address: string, timeline: TimelineRef): Promise<WalStatus> {
    return this.#safekeepers.at(address).walStatus(timeline, OBSERVE)
  }

  configureMembership(
    address: string,
    timeline: TimelineRef,
    membership: KnownMembership,
  ): Promise<MemberAnswer> {
    return this.#safekeepers.at(address).configureMembership(timeline, membership, OBSERVE)
  }

  /** Of a safekeeper that left with `generation`, or of a timeline that is to be nowhere. */
  deleteWal(address: string, timeline: TimelineRef, generation = 0): Promise<void> {
    return this.#safekeepers.at(address).deleteTimeline(timeline, generation, REMOVE)
  }

  closeStoredWal(address: string, timeline: TimelineRef): Promise<StoredWalEnd> {
    return this.#safekeepers.at(address).closeStoredWal(timeline, CLOSE)
  }

  pullTimeline(
    address: string,
    timeline: TimelineRef,
    donors: readonly Member[],
    stored?: StoredWalEnd,
  ): Promise<PullProgress> {
    return this.#safekeepers.at(address).pullTimeline(timeline, donors, stored, OBSERVE)
  }

  // Computes and their hosts.

  ensureCompute(address: string, spec: ComputeSpec, configuration: Configuration | undefined): Promise<void> {
    return this.#hosts.at(address).ensureCompute(spec, configuration, ACT)
  }

  /** Ends the compute first: as long as that takes. */
  removeCompute(address: string, timeline: TimelineRef): Promise<void> {
    return this.#hosts.at(address).removeCompute(timeline, REMOVE)
  }

  /** The timeline's compute on this host; undefined where the host has none. */
  async hostedCompute(hostAddress: string, timeline: TimelineRef): Promise<HostedCompute | undefined> {
    const computes = await this.#hosts.at(hostAddress).computes(OBSERVE)
    return computes.find((item) => item.timeline?.timelineId === timeline.timelineId)
  }

  configuration(address: string): Promise<Configuration | undefined> {
    return this.#computes.at(address).configuration(OBSERVE)
  }

  computeStatus(address: string): Promise<GetComputeStatusResponse> {
    return this.#computes.at(address).status(OBSERVE)
  }

  /** The WAL position before the reload, as text. */
  async setFullPageWrites(address: string, on: boolean): Promise<string> {
    return formatLsn(await this.#computes.at(address).setFullPageWrites(on, ACT))
  }

  /** It is committed by a quorum when this resolves. */
  setPassword(address: string, password: PasswordVerifier): Promise<void> {
    return this.#computes.at(address).setPassword(password, ACT)
  }

  /** Redo position of the checkpoint, as text. */
  async runCheckpoint(address: string): Promise<string> {
    return formatLsn(await this.#computes.at(address).runCheckpoint(CHECKPOINT))
  }

  verifyTimeline(address: string, signal: AbortSignal): AsyncGenerator<VerifyTimelineResponse, void, void> {
    return this.#computes.at(address).verifyTimeline({ signal })
  }
}

/** The result of `promise` where the other side answered, undefined where it cannot be reached now. */
export async function ifReachable<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise
  } catch (error) {
    if (
      isErrorCode(error, 'unavailable') ||
      isErrorCode(error, 'timeout') ||
      isErrorCode(error, 'unknown_timeline')
    ) {
      return undefined
    }
    throw error
  }
}

/** Whether a safekeeper answers and its copy of the timeline cannot be used: for a quorum that is as good as away. */
export const isCopyUnusable = (error: unknown): error is UnderstoryError =>
  isErrorCode(error, 'bad_file') || isErrorCode(error, 'bad_wal') || isErrorCode(error, 'disk_failed')

export const computeMissing = (): Error =>
  fail('unavailable', 'the compute is not running', {
    hint: 'It is restarted by itself; see `understory timeline show`.',
  })

/**
 * Calls to the processes that serve a timeline, with clients kept per address (client-cache.ts).
 */
import {
  LSN_ZERO,
  UnderstoryError,
  formatLsn,
  isErrorCode,
  lsnFromBigint,
  lsnToBigint,
  refuse,
} from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock } from '@understory/env'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import {
  ComputeHostServiceClient,
  ComputeServiceClient,
  FullPageWrites,
  PageserverServiceClient,
  SafekeeperServiceClient,
  callUnary,
  createClient,
} from '@understory/rpc'
import type {
  ClientContext,
  CloseStoredWalResponse,
  ComputeSpec,
  Configuration,
  ConfigureMembershipResponse,
  GetComputeStatusResponse,
  GetWalStatusResponse,
  HostedCompute,
  ImageGeneration,
  Membership,
  PullTimelineResponse,
  SafekeeperMember,
  SafekeeperMemberView,
  ShardRef,
  ShardStatus,
  TimelineRef,
  WalRollback,
} from '@understory/rpc'
import { ClientCache } from './client-cache.ts'
import type { SeenFullPageWrites } from './fpw-switch.ts'

/** Short: what does not answer is asked again at the next round. */
const OBSERVE_DEADLINE_MS = 2_000
const ACT_DEADLINE_MS = 30_000
const REMOVE_DEADLINE_MS = 90_000
/** A few segments are read from the object store. */
const CLOSE_DEADLINE_MS = 60_000

export class NodeClients {
  readonly #pageservers: ClientCache<PageserverServiceClient>
  readonly #safekeepers: ClientCache<SafekeeperServiceClient>
  readonly #hosts: ClientCache<ComputeHostServiceClient>
  readonly #computes: ClientCache<ComputeServiceClient>

  constructor(clock: Clock, rpc: ClientContext) {
    this.#pageservers = new ClientCache(clock, (address) =>
      createClient(rpc, PageserverServiceClient, address),
    )
    this.#safekeepers = new ClientCache(clock, (address) =>
      createClient(rpc, SafekeeperServiceClient, address),
    )
    this.#hosts = new ClientCache(clock, (address) => createClient(rpc, ComputeHostServiceClient, address))
    this.#computes = new ClientCache(clock, (address) => createClient(rpc, ComputeServiceClient, address))
  }

  compute(address: string): ComputeServiceClient {
    return this.#computes.at(address)
  }

  /** All shards of a timeline that one pageserver serves. */
  async shards(address: string, timeline: TimelineRef): Promise<readonly ShardStatus[]> {
    const client = this.#pageservers.at(address)
    const options = { deadlineMs: OBSERVE_DEADLINE_MS, peer: `pageserver ${address}` }
    return (await callUnary(client.getShardStatus.bind(client), { timeline }, options)).shards
  }

  async attachShard(
    address: string,
    shard: {
      readonly timeline: TimelineRef
      readonly shard: ShardRef
      readonly generation: number
      readonly postgres: PostgresIdentity | undefined
      readonly create: boolean
      readonly safekeepers: readonly string[]
      readonly imageGeneration: ImageGeneration
      readonly rollback: WalRollback | undefined
    },
  ): Promise<void> {
    const client = this.#pageservers.at(address)
    const request = { ...shard, generation: BigInt(shard.generation), safekeepers: [...shard.safekeepers] }
    await callUnary(client.attachShard.bind(client), request, {
      deadlineMs: ACT_DEADLINE_MS,
      peer: `pageserver ${address}`,
    })
  }

  async detachShard(address: string, timeline: TimelineRef, shard: ShardRef): Promise<void> {
    const client = this.#pageservers.at(address)
    await callUnary(
      client.detachShard.bind(client),
      { timeline, shard },
      { deadlineMs: ACT_DEADLINE_MS, peer: `pageserver ${address}` },
    )
  }

  async setImageGeneration(
    address: string,
    timeline: TimelineRef,
    shard: ShardRef,
    imageGeneration: ImageGeneration,
    wish: number,
  ): Promise<void> {
    const client = this.#pageservers.at(address)
    const request = { timeline, shard, imageGeneration, generation: BigInt(wish) }
    await callUnary(client.setImageGeneration.bind(client), request, {
      deadlineMs: ACT_DEADLINE_MS,
      peer: `pageserver ${address}`,
    })
  }

  walStatus(address: string, timeline: TimelineRef): Promise<GetWalStatusResponse> {
    const client = this.#safekeepers.at(address)
    return callUnary(
      client.getWalStatus.bind(client),
      { timeline },
      { deadlineMs: OBSERVE_DEADLINE_MS, peer: `safekeeper ${address}` },
    )
  }

  configureMembership(
    address: string,
    timeline: TimelineRef,
    membership: Membership,
  ): Promise<ConfigureMembershipResponse> {
    const client = this.#safekeepers.at(address)
    return callUnary(
      client.configureMembership.bind(client),
      { timeline, membership },
      { deadlineMs: OBSERVE_DEADLINE_MS, peer: `safekeeper ${address}` },
    )
  }

  /** Of a safekeeper that left with `generation`, or of a timeline that is to be nowhere. */
  async deleteWal(address: string, timeline: TimelineRef, generation = 0): Promise<void> {
    const client = this.#safekeepers.at(address)
    await callUnary(
      client.deleteTimeline.bind(client),
      { timeline, leftWithGeneration: BigInt(generation) },
      { deadlineMs: REMOVE_DEADLINE_MS, peer: `safekeeper ${address}` },
    )
  }

  closeStoredWal(address: string, timeline: TimelineRef): Promise<CloseStoredWalResponse> {
    const client = this.#safekeepers.at(address)
    const options = { deadlineMs: CLOSE_DEADLINE_MS, peer: `safekeeper ${address}` }
    return callUnary(client.closeStoredWal.bind(client), { timeline, noSafekeeperIsLeft: true }, options)
  }

  pullTimeline(
    address: string,
    timeline: TimelineRef,
    donors: readonly SafekeeperMember[],
    stored?: { readonly endLsn: Lsn; readonly term: number },
  ): Promise<PullTimelineResponse> {
    const client = this.#safekeepers.at(address)
    return callUnary(
      client.pullTimeline.bind(client),
      {
        timeline,
        donors: [...donors],
        storedUntilLsn: lsnToBigint(stored?.endLsn ?? LSN_ZERO),
        storedTerm: BigInt(stored?.term ?? 0),
      },
      { deadlineMs: OBSERVE_DEADLINE_MS, peer: `safekeeper ${address}` },
    )
  }

  async ensureCompute(
    address: string,
    spec: ComputeSpec,
    configuration: Configuration | undefined,
  ): Promise<void> {
    const client = this.#hosts.at(address)
    await callUnary(
      client.ensureCompute.bind(client),
      { spec, configuration },
      { deadlineMs: ACT_DEADLINE_MS, peer: `compute host ${address}` },
    )
  }

  /** Ends the compute first: as long as that takes. */
  async removeCompute(address: string, timeline: TimelineRef): Promise<void> {
    const client = this.#hosts.at(address)
    await callUnary(
      client.removeCompute.bind(client),
      { timeline },
      { deadlineMs: REMOVE_DEADLINE_MS, peer: `compute host ${address}` },
    )
  }

  /** The timeline's compute on this host; undefined where the host has none. */
  async hostedCompute(hostAddress: string, timeline: TimelineRef): Promise<HostedCompute | undefined> {
    const client = this.#hosts.at(hostAddress)
    const options = { deadlineMs: OBSERVE_DEADLINE_MS, peer: `compute host ${hostAddress}` }
    const { computes } = await callUnary(client.listComputes.bind(client), {}, options)
    return computes.find((item) => item.timeline?.timelineId === timeline.timelineId)
  }

  async configuration(address: string): Promise<Configuration | undefined> {
    const client = this.#computes.at(address)
    const options = { deadlineMs: OBSERVE_DEADLINE_MS, peer: `compute ${address}` }
    return (await callUnary(client.getConfiguration.bind(client), {}, options)).configuration
  }

  computeStatus(address: string): Promise<GetComputeStatusResponse> {
    const client = this.#computes.at(address)
    return callUnary(
      client.getComputeStatus.bind(client),
      {},
      { deadlineMs: OBSERVE_DEADLINE_MS, peer: `compute ${address}` },
    )
  }

  /** The WAL position before the reload, as text. */
  async setFullPageWrites(address: string, on: boolean): Promise<string> {
    const client = this.#computes.at(address)
    const response = await callUnary(
      client.setFullPageWrites.bind(client),
      { on },
      { deadlineMs: ACT_DEADLINE_MS, peer: `compute ${address}` },
    )
    return formatLsn(lsnFromBigint(response.insertLsn))
  }

  /** It is committed by a quorum when this resolves. */
  async setPassword(
    address: string,
    password: { readonly verifier: string; readonly generation: number },
  ): Promise<void> {
    const client = this.#computes.at(address)
    const request = { verifier: password.verifier, generation: BigInt(password.generation) }
    await callUnary(client.setPassword.bind(client), request, {
      deadlineMs: ACT_DEADLINE_MS,
      peer: `compute ${address}`,
    })
  }

  /** Redo position of the checkpoint, as text. A checkpoint of a busy server takes as long as its disk needs. */
  async runCheckpoint(address: string): Promise<string> {
    const client = this.#computes.at(address)
    const response = await callUnary(
      client.runCheckpoint.bind(client),
      {},
      { deadlineMs: 10 * 60_000, peer: `compute ${address}` },
    )
    return formatLsn(lsnFromBigint(response.redoLsn))
  }
}

/** What of `promise` where the other side answered, undefined where it cannot be reached now. */
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

type MemberStatusView = Omit<SafekeeperMemberView, 'nodeId' | 'role'>

export const MEMBER_AWAY: MemberStatusView = {
  alive: false,
  membershipGeneration: 0n,
  flushLsn: 0n,
  commitLsn: 0n,
  failure: '',
}

/** What one safekeeper says of a timeline, for people to read: no single one of them may keep the others from being shown. */
export async function memberStatus(asked: Promise<GetWalStatusResponse>): Promise<MemberStatusView> {
  try {
    const status = await ifReachable(asked)
    if (status === undefined) return MEMBER_AWAY
    const { membershipGeneration, flushLsn, commitLsn, failure } = status
    return { alive: true, membershipGeneration, flushLsn, commitLsn, failure }
  } catch (error) {
    if (error instanceof UnderstoryError) return { ...MEMBER_AWAY, alive: true, failure: error.message }
    throw error
  }
}

export function seenFullPageWrites(shardZero: ShardStatus | undefined): SeenFullPageWrites | undefined {
  switch (shardZero?.fullPageWrites) {
    case FullPageWrites.FULL_PAGE_WRITES_ON:
      return { value: 'on', lsn: formatLsn(lsnFromBigint(shardZero.fullPageWritesLsn)) }
    case FullPageWrites.FULL_PAGE_WRITES_OFF:
      return { value: 'off', lsn: formatLsn(lsnFromBigint(shardZero.fullPageWritesLsn)) }
    default:
      return undefined
  }
}

export const computeMissing = (): Error =>
  refuse('unavailable', 'the compute is not running', {
    hint: 'It is restarted by itself; see `understory timeline show`.',
  })

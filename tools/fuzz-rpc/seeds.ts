/**
 * For every RPC valid messages, of which the changed ones are made. Where a message as it is would be an order (make a
 * tenant, stop a compute), it is wrong in one respect, so that only a change that corrects just this would be obeyed.
 */
import {
  ElectionKind,
  AnnounceRequest,
  AppendRequest,
  AttachShardRequest,
  ChangeSafekeepersRequest,
  ConfigureMembershipRequest,
  CreateTenantRequest,
  CreateTimelineRequest,
  ControlPlaneServiceDeleteTimelineRequest,
  DeleteTenantRequest,
  DeleteTimelineRequest,
  DetachShardRequest,
  EnsureComputeRequest,
  FlushShardRequest,
  GetControlStateRequest,
  GetFullPageWritesRequest,
  GetPagesRequest,
  GetSafekeepersRequest,
  GetCommitPositionsRequest,
  GetShardStatusRequest,
  GetTenantRequest,
  GetTimelineRequest,
  GetWalStatusRequest,
  ImportShardRequest,
  ListAnnouncementsRequest,
  ListTenantsRequest,
  ListTimelinesRequest,
  ProposeRequest,
  CloseStoredWalRequest,
  PullTimelineRequest,
  ReadWalRequest,
  RemoveComputeRequest,
  SetImageGenerationRequest,
  StreamFilesRequest,
  FollowWalRequest,
  SubscribeWalRequest,
  SwitchFullPageWritesRequest,
  VerifyTenantTimelineRequest,
  WatchAnnouncementsRequest,
  WatchFullPageWritesRequest,
  WithdrawRequest,
} from '@understory/rpc'
import type { PostgresIdentity, TimelineRef } from '@understory/rpc'

export interface SeedFacts {
  /** Of a tenant that is at work, and must stay as it is. */
  readonly tenant: string
  readonly timeline: TimelineRef
  readonly stripeBlocks: number
  readonly lsn: bigint
  /** Of a timeline on one safekeeper alone, with which a peer may do what the protocol lets it. */
  readonly decoy: TimelineRef
  readonly decoyPostgres: PostgresIdentity
  readonly decoyStartLsn: bigint
  readonly decoyWal: Uint8Array
}

/** Methods whose every message that can be decoded is an order to the compute that must stay as it is. */
export const ONLY_ORDERS: ReadonlySet<string> = new Set([
  'ComputeService/StopCompute',
  'ComputeService/SetFullPageWrites',
  'ComputeService/RunCheckpoint',
  'ComputeService/VerifyTimeline',
])

const UNKNOWN: TimelineRef = { tenantId: '0'.repeat(31) + '1', timelineId: '0'.repeat(31) + '2' }
const bytesOf = (writer: { finish(): Uint8Array }): Buffer => Buffer.from(writer.finish())

/** By `Service/Method`, lists of messages that are sent together. An RPC that is not named gets the empty message. */
export function seedMessages(facts: SeedFacts): ReadonlyMap<string, readonly (readonly Buffer[])[]> {
  const { tenant, timeline, decoy, decoyPostgres, decoyStartLsn, decoyWal, lsn, stripeBlocks } = facts
  const shard = { number: 0, count: 2, stripeBlocks }
  const membership = {
    generation: 1n,
    members: [{ nodeId: 'safekeeper-1', address: '127.0.0.1:1' }],
    newMembers: [],
  }
  const propose = (...messages: readonly NonNullable<ProposeRequest['message']>[]): readonly Buffer[] =>
    messages.map((message) => bytesOf(ProposeRequest.encode({ message })))
  const greeting = (ref: TimelineRef, postgres: PostgresIdentity) =>
    ({
      $case: 'greeting',
      value: {
        protocolVersion: 1,
        protocolVersionMax: 0,
        timeline: ref,
        postgres,
        nodeId: 'fuzz',
        membershipGeneration: 0n,
        membership: undefined,
        commitLsn: 0n,
      },
    }) as const
  const hello = greeting(decoy, decoyPostgres)
  const vote = { $case: 'vote', value: { term: 2n } } as const
  const termHistory = [{ term: 2n, startLsn: decoyStartLsn }]
  const elected = {
    $case: 'elected',
    value: {
      term: 2n,
      startStreamingLsn: decoyStartLsn,
      termHistory,
      kind: ElectionKind.ELECTION_KIND_REBUILD,
    },
  } as const
  const append = (wal: Uint8Array) =>
    ({
      $case: 'append',
      value: AppendRequest.fromPartial({ term: 2n, beginLsn: decoyStartLsn, wal: Buffer.from(wal) }),
    }) as const
  const subscribe = (message: NonNullable<SubscribeWalRequest['message']>): Buffer =>
    bytesOf(SubscribeWalRequest.encode({ message }))
  const follow = (message: NonNullable<FollowWalRequest['message']>): Buffer =>
    bytesOf(FollowWalRequest.encode({ message }))
  const importing = (message: NonNullable<ImportShardRequest['message']>): Buffer =>
    bytesOf(ImportShardRequest.encode({ message }))
  const named = { tenant, timeline: 'main' }
  const absent = { tenant: 'absent', timeline: 'main' }
  const lists: Readonly<Record<string, readonly (readonly Buffer[])[]>> = {
    'SafekeeperService/CreateTimeline': [
      // Not the start of a segment.
      [bytesOf(CreateTimelineRequest.encode({ timeline: decoy, postgres: decoyPostgres, startLsn: 17n }))],
    ],
    'SafekeeperService/DeleteTimeline': [
      [bytesOf(DeleteTimelineRequest.encode({ timeline: UNKNOWN, leftWithGeneration: 0n }))],
    ],
    'ControlPlaneService/DeleteTimeline': [
      [bytesOf(ControlPlaneServiceDeleteTimelineRequest.encode({ ...absent, stopCompute: true }))],
    ],
    'ControlPlaneService/DeleteTenant': [
      [bytesOf(DeleteTenantRequest.encode({ tenant: absent.tenant, stopCompute: true }))],
    ],
    'SafekeeperService/Propose': [
      propose(hello),
      propose(hello, vote),
      propose(hello, vote, elected, append(decoyWal)),
      // Of the timeline at work: another system, so that nothing behind it counts.
      propose(greeting(timeline, { ...decoyPostgres, systemId: 1n }), {
        $case: 'vote',
        value: { term: 900n },
      }),
    ],
    'SafekeeperService/FollowWal': [
      [
        follow({ $case: 'hello', value: { protocolVersion: 1, protocolVersionMax: 1 } }),
        ...[timeline, decoy, UNKNOWN].map((followed, i) =>
          follow({
            $case: 'subscribe',
            value: {
              subscriptionId: i + 1,
              timeline: followed,
              shard,
              startLsn: i === 1 ? decoyStartLsn : lsn,
              windowBytes: 0n,
              trackCommitTimestamp: false,
            },
          }),
        ),
        follow({
          $case: 'positions',
          value: { positions: [{ subscriptionId: 1, ingestedLsn: 0n, remoteConsistentLsn: 0n }] },
        }),
        follow({ $case: 'unsubscribe', value: { subscriptionId: 1 } }),
      ],
    ],
    'SafekeeperService/SubscribeWal': [
      [
        subscribe({
          $case: 'open',
          value: {
            protocolVersion: 1,
            protocolVersionMax: 0,
            timeline,
            shard,
            startLsn: lsn,
            windowBytes: 0n,
            trackCommitTimestamp: false,
          },
        }),
        subscribe({ $case: 'feedback', value: { ingestedLsn: 0n, remoteConsistentLsn: 0n } }),
      ],
    ],
    'SafekeeperService/ReadWal': [
      [bytesOf(ReadWalRequest.encode({ timeline, startLsn: lsn - 8_192n, endLsn: lsn, term: 0n }))],
    ],
    'SafekeeperService/GetWalStatus': [[bytesOf(GetWalStatusRequest.encode({ timeline }))]],
    'SafekeeperService/GetCommitPositions': [
      [bytesOf(GetCommitPositionsRequest.encode({ timelines: [timeline, decoy] }))],
    ],
    'SafekeeperService/ConfigureMembership': [
      [bytesOf(ConfigureMembershipRequest.encode({ timeline: decoy, membership }))],
      [bytesOf(ConfigureMembershipRequest.encode({ timeline, membership: { ...membership, members: [] } }))],
    ],
    'SafekeeperService/PullTimeline': [
      [
        bytesOf(
          PullTimelineRequest.encode({
            timeline: decoy,
            donors: membership.members,
            storedUntilLsn: lsn,
            storedTerm: 9n,
          }),
        ),
      ],
    ],
    'SafekeeperService/CloseStoredWal': [
      [bytesOf(CloseStoredWalRequest.encode({ timeline, noSafekeeperIsLeft: true }))],
      [bytesOf(CloseStoredWalRequest.encode({ timeline: decoy, noSafekeeperIsLeft: true }))],
    ],
    'PageserverService/AttachShard': [
      [
        bytesOf(
          AttachShardRequest.encode({
            timeline: UNKNOWN,
            shard,
            generation: 1n,
            postgres: decoyPostgres,
            create: false,
            safekeepers: ['127.0.0.1:1'],
            imageGeneration: { enabled: true, thresholdRecords: 32 },
            rollback: { lsn, beforeGeneration: 2n },
          }),
        ),
      ],
    ],
    'PageserverService/DetachShard': [[bytesOf(DetachShardRequest.encode({ timeline: UNKNOWN, shard }))]],
    'PageserverService/ImportShard': [
      [
        importing({ $case: 'open', value: { timeline, shard, startLsn: lsn } }),
        importing({ $case: 'values', value: Buffer.alloc(100, 7) }),
        importing({ $case: 'finish', value: { endLsn: lsn } }),
      ],
    ],
    'PageserverService/GetPages': [
      [bytesOf(GetPagesRequest.encode({ timeline, shard, requests: Buffer.alloc(96, 1) }))],
    ],
    'PageserverService/GetControlState': [[bytesOf(GetControlStateRequest.encode({ timeline, shard, lsn }))]],
    'PageserverService/StreamFiles': [
      [bytesOf(StreamFilesRequest.encode({ timeline, shard, lsn, after: Buffer.alloc(18) }))],
    ],
    'PageserverService/SetImageGeneration': [
      // Of an older generation.
      [
        bytesOf(
          SetImageGenerationRequest.encode({
            timeline,
            shard,
            imageGeneration: { enabled: false, thresholdRecords: 32 },
            generation: 0n,
          }),
        ),
      ],
    ],
    'PageserverService/GetShardStatus': [[bytesOf(GetShardStatusRequest.encode({ timeline }))]],
    'PageserverService/FlushShard': [[bytesOf(FlushShardRequest.encode({ timeline: UNKNOWN, shard }))]],
    'ControlPlaneService/CreateTenant': [
      [
        bytesOf(
          CreateTenantRequest.encode(
            CreateTenantRequest.fromPartial({
              // No part of it is a name.
              name: '//////////',
              postgresMajor: 15,
              shardCount: 2,
              settings: { '//': '/' },
            }),
          ),
        ),
      ],
    ],
    'ControlPlaneService/ListTenants': [
      [bytesOf(ListTenantsRequest.encode({ pageSize: 10, pageToken: '' }))],
    ],
    'ControlPlaneService/GetTenant': [[bytesOf(GetTenantRequest.encode({ tenant }))]],
    'ControlPlaneService/ListTimelines': [[bytesOf(ListTimelinesRequest.encode({ tenant }))]],
    'ControlPlaneService/GetTimeline': [[bytesOf(GetTimelineRequest.encode(named))]],
    'ControlPlaneService/SwitchFullPageWrites': [
      [bytesOf(SwitchFullPageWritesRequest.encode({ tenant: 'absent', on: false }))],
    ],
    'ControlPlaneService/GetFullPageWrites': [[bytesOf(GetFullPageWritesRequest.encode({ tenant }))]],
    'ControlPlaneService/WatchFullPageWrites': [[bytesOf(WatchFullPageWritesRequest.encode({ tenant }))]],
    'ControlPlaneService/VerifyTenantTimeline': [[bytesOf(VerifyTenantTimelineRequest.encode(absent))]],
    'ControlPlaneService/ChangeSafekeepers': [
      [bytesOf(ChangeSafekeepersRequest.encode({ ...named, add: ['stranger'], remove: ['other'] }))],
      [bytesOf(ChangeSafekeepersRequest.encode({ ...absent, add: ['safekeeper-1'], remove: [] }))],
    ],
    'ControlPlaneService/GetSafekeepers': [[bytesOf(GetSafekeepersRequest.encode(named))]],
    'BrokerService/Announce': [
      [bytesOf(AnnounceRequest.encode({ key: 'fuzz/1', value: Buffer.from('{"a":1}'), ttlMs: 500 }))],
    ],
    'BrokerService/Withdraw': [[bytesOf(WithdrawRequest.encode({ key: 'fuzz/1' }))]],
    'BrokerService/ListAnnouncements': [[bytesOf(ListAnnouncementsRequest.encode({ prefix: 'fuzz/' }))]],
    'BrokerService/WatchAnnouncements': [[bytesOf(WatchAnnouncementsRequest.encode({ prefix: 'fuzz/' }))]],
    'ComputeHostService/EnsureCompute': [
      [
        bytesOf(
          EnsureComputeRequest.encode({
            configuration: undefined,
            spec: {
              timeline: { tenantId: 'not an id', timelineId: 'nor this' },
              postgresMajor: 17,
              bootstrap: false,
              safekeepers: ['127.0.0.1:1'],
              pageservers: ['127.0.0.1:1'],
              stripeBlocks: 256,
              sqlPort: 0,
              settings: { work_mem: '4MB' },
              specGeneration: 1n,
              fullPageWritesOff: false,
              requireTls: true,
              membership: undefined,
            },
          }),
        ),
      ],
    ],
    'ComputeHostService/RemoveCompute': [[bytesOf(RemoveComputeRequest.encode({ timeline: UNKNOWN }))]],
  }
  return new Map(Object.entries(lists))
}

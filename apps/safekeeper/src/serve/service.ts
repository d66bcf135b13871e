/** SafekeeperService: parse, call the domain, convert. */
import {
  LSN_ZERO,
  advance,
  describeError,
  formatLsn,
  lsnFromBigint,
  lsnToBigint,
  minLsn,
  fail,
} from '@understory/base'
import type { Clock, Log } from '@understory/env'
import {
  readGeneration,
  readMembers,
  readMembership,
  readPostgresIdentity,
  readTerm,
  readTimelineRef,
  writeHistory,
} from '@understory/protocol'
import { SafekeeperServiceService, bidiStream, serverStream, service, unary } from '@understory/rpc'
import type {
  GetWalStatusResponse,
  ReadWalRequest,
  ReadWalResponse,
  RpcService,
  SafekeeperServiceServer,
  TimelineRef,
} from '@understory/rpc'
import { noObjectStore } from '../recovery/catch-up-scheduler.ts'
import type { CatchUpScheduler } from '../recovery/catch-up-scheduler.ts'
import { propose } from './propose.ts'
import type { RemoteWal } from '../timeline/remote-wal.ts'
import { closeStoredWal } from '../recovery/stored-wal.ts'
import { followWal } from './follow.ts'
import { FanOuts } from './shard-subscription.ts'
import { subscribeWal } from './subscribe.ts'
import type { Timelines } from '../timeline/timelines.ts'
import { isDamage } from '../timeline/wal-check.ts'

const READ_BYTES_MAX = 1024 * 1024

export interface ServiceParts {
  readonly timelines: Timelines
  readonly catchUpScheduler: CatchUpScheduler
  readonly nodeId: string
  readonly clock: Clock
  readonly log: Log
  /** A timeline's WAL in the object store, where there is one. */
  readonly remoteOf?: ((ref: TimelineRef) => RemoteWal) | undefined
}

export function safekeeperService({
  timelines,
  catchUpScheduler,
  nodeId,
  clock,
  log,
  remoteOf,
}: ServiceParts): RpcService {
  const subscriptions = { timelines, fanOuts: new FanOuts(clock), nodeId, log }
  return service<SafekeeperServiceServer>(SafekeeperServiceService, {
    createTimeline: unary(async ({ timeline, postgres, startLsn }) => {
      await timelines.create(timeline, readPostgresIdentity(postgres), lsnFromBigint(startLsn))
      return {}
    }),
    propose: bidiStream((requests, { signal }) =>
      propose({ timelines, catchUpScheduler, nodeId }, requests, signal),
    ),
    followWal: bidiStream((requests, { signal }) => followWal(subscriptions, requests, signal)),
    subscribeWal: bidiStream((requests, { signal }) => subscribeWal(subscriptions, requests, signal)),
    readWal: serverStream((request) => readWal(timelines, request)),
    getWalStatus: unary(({ timeline }) => walStatus(timelines, timeline, nodeId)),
    getCommitPositions: unary(({ timelines: refs }) => ({
      commitLsns: refs.map((ref) => lsnToBigint(timelines.find(ref)?.commitLsn ?? LSN_ZERO)),
    })),
    configureMembership: unary(async ({ timeline, membership }) => {
      const status = await timelines.get(timeline).configure(readMembership(membership))
      return {
        nodeId,
        membershipGeneration: BigInt(status.membershipGeneration),
        term: BigInt(status.term),
        lastLogTerm: BigInt(status.lastLogTerm),
        flushLsn: lsnToBigint(status.flushLsn),
        commitLsn: lsnToBigint(status.commitLsn),
      }
    }),
    pullTimeline: unary(({ timeline: ref, donors, storedUntilLsn, storedTerm }) => {
      const timeline = readTimelineRef(ref)
      const stored =
        storedUntilLsn === 0n
          ? undefined
          : { endLsn: lsnFromBigint(storedUntilLsn), term: readTerm(storedTerm) }
      const { flushLsn, goalLsn, isRunning, problem } = catchUpScheduler.pull(
        timeline,
        readMembers(donors),
        stored,
      )
      return { flushLsn: lsnToBigint(flushLsn), goalLsn: lsnToBigint(goalLsn), running: isRunning, problem }
    }),
    closeStoredWal: unary(async ({ timeline: ref, noSafekeeperIsLeft }, { signal }) => {
      const timeline = readTimelineRef(ref)
      if (!noSafekeeperIsLeft) throw fail('precondition', 'a safekeeper may still store WAL of the timeline')
      if (timelines.has(timeline)) {
        throw fail('precondition', `safekeeper "${nodeId}" has the timeline`, {
          hint: 'Recover from it, or remove its copy where it is damaged.',
        })
      }
      const remote = remoteOf?.(timeline)
      if (remote === undefined) throw noObjectStore()
      const { endLsn, term } = await closeStoredWal(remote, signal)
      return { endLsn: lsnToBigint(endLsn), term: BigInt(term) }
    }),
    deleteTimeline: unary(async ({ timeline: ref, leftWithGeneration }) => {
      const timeline = readTimelineRef(ref)
      await timelines.delete(timeline, readGeneration('membership', leftWithGeneration))
      return {}
    }),
    listWalTimelines: unary(() => ({ timelines: timelines.list() })),
  })
}

async function* readWal(
  timelines: Timelines,
  request: ReadWalRequest,
): AsyncGenerator<ReadWalResponse, void, void> {
  const timeline = timelines.get(request.timeline)
  const startLsn = lsnFromBigint(request.startLsn)
  const endLsn = lsnFromBigint(request.endLsn)
  const { control, flushLsn, commitLsn } = timeline.state
  const isElected = request.term !== 0n
  if (isElected && request.term !== BigInt(control.term))
    throw fail('stale', `term ${request.term} is not the term ${control.term} of this safekeeper`)
  const limit = isElected ? flushLsn : commitLsn
  if (startLsn < control.timelineStartLsn || startLsn > endLsn || endLsn > limit) {
    throw fail(
      'out_of_range',
      `WAL from ${formatLsn(startLsn)} to ${formatLsn(endLsn)} is not within ${formatLsn(control.timelineStartLsn)} and ${formatLsn(limit)}`,
    )
  }
  for (let at = startLsn; at < endLsn;) {
    const to = minLsn(endLsn, advance(at, READ_BYTES_MAX))
    const reading = isElected ? timeline.readInTerm(control.term, at, to) : timeline.read(at, to)
    const wal = await reading.catch((error: unknown) => {
      if (request.timeline !== undefined && isDamage(error)) timelines.onDamage(request.timeline)
      throw error
    })
    yield { startLsn: lsnToBigint(at), wal: Buffer.from(wal.buffer, wal.byteOffset, wal.byteLength) }
    at = to
  }
}

function walStatus(timelines: Timelines, ref: TimelineRef | undefined, nodeId: string): GetWalStatusResponse {
  const timeline = timelines.get(ref)
  const { control, flushLsn, commitLsn } = timeline.state
  const trouble = timeline.failure ?? timeline.shortage
  return {
    nodeId,
    postgres: timeline.identity,
    timelineStartLsn: lsnToBigint(control.timelineStartLsn),
    term: BigInt(control.term),
    termHistory: writeHistory(control.history),
    flushLsn: lsnToBigint(flushLsn),
    commitLsn: lsnToBigint(commitLsn),
    remoteConsistentLsn: lsnToBigint(timeline.remoteConsistentLsn),
    oldestLsn: lsnToBigint(timeline.oldestLsn),
    failure: trouble === undefined ? '' : describeError(trouble),
    membershipGeneration: BigInt(control.membershipGeneration),
  }
}

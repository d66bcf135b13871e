/** Several safekeepers in this process, with real files, over real gRPC. */
import { join } from 'node:path'
import { Semaphore } from '@understory/actor'
import { LSN_ZERO, advance, lsnToBigint } from '@understory/base'
import type { Lsn } from '@understory/base'
import { realClock, realDisk, realRng, silentLog } from '@understory/env'
import type { Disk, Log } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import {
  PLAIN_SERVER,
  PLAIN_CLIENT,
  SafekeeperServiceClient,
  callServerStream,
  callUnary,
  createClient,
  startServer,
} from '@understory/rpc'
import type { Membership } from '@understory/rpc'
import { temporaryDirectory } from '@understory/testcontainers'
import { onTestFinished } from 'vitest'
import { unlimitedQuota } from '../src/timeline/node-quota.ts'
import type { NodeQuota } from '../src/timeline/node-quota.ts'
import { Offloader } from '../src/offload/offloader.ts'
import type { OffloadSettings } from '../src/offload/timeline-offload.ts'
import { CatchUpScheduler } from '../src/recovery/catch-up-scheduler.ts'
import { Scrubber } from '../src/scrub/scrubber.ts'
import { safekeeperService } from '../src/serve/service.ts'
import { Timelines } from '../src/timeline/timelines.ts'
import { SingleProposer } from './single-proposer.ts'
import { IDENTITY, START, WalMaker } from './wal-maker.ts'

export const REF = { tenantId: 'a'.repeat(32), timelineId: 'b'.repeat(32) }

export interface Safekeeper {
  readonly nodeId: string
  readonly address: string
  readonly client: SafekeeperServiceClient
  readonly timelines: Timelines
  /** Not begun; undefined without a store. */
  readonly offloader: Offloader | undefined
  stop(): Promise<void>
}

export interface SafekeeperOptions {
  /** That of before, where it was there before. */
  readonly port?: number
  readonly disk?: Disk
  readonly log?: Log
  readonly quota?: NodeQuota
  readonly store?: ObjectStore
  readonly offload?: Partial<OffloadSettings>
  readonly offloadLog?: Log
}

export async function start(
  nodeId: string,
  folder: string,
  options: SafekeeperOptions = {},
): Promise<Safekeeper> {
  const { port = 0, disk = realDisk, log = silentLog, quota = unlimitedQuota(realClock) } = options
  const [clock, rng] = [realClock, realRng]
  const offloader = makeOffloader(nodeId, options)
  const scrub = { rpc: PLAIN_CLIENT, disk: realDisk, nodeId, clock, rng, turns: new Semaphore(1) }
  const timelines = new Timelines({
    disk,
    log,
    clock,
    rng,
    dataDir: join(folder, nodeId),
    quota,
    remoteOf: offloader?.remoteOf,
    children: [Scrubber.factory(scrub), ...(offloader === undefined ? [] : [offloader.factory])],
  })
  await timelines.openAll()
  const catchUpScheduler = new CatchUpScheduler({ rpc: PLAIN_CLIENT, timelines, nodeId, clock })
  const services = [safekeeperService({ timelines, catchUpScheduler, nodeId, clock, log })]
  const server = await startServer(PLAIN_SERVER, { host: '127.0.0.1', port, services })
  timelines.start()
  const client = createClient(PLAIN_CLIENT, SafekeeperServiceClient, server.address)
  let isRunning = true
  const stop = async (): Promise<void> => {
    if (!isRunning) return
    isRunning = false
    client.close()
    await Promise.all([offloader?.stop(), timelines.stop()])
    await timelines.close()
    await server.stop(50)
  }
  onTestFinished(stop)
  return { nodeId, address: server.address, client, timelines, offloader, stop }
}

/** Stores everything at once, and looks often. */
function makeOffloader(
  nodeId: string,
  { store, offload, offloadLog: log = silentLog }: SafekeeperOptions,
): Offloader | undefined {
  const settings = { quietMs: 3_600_000, takeOverMs: 0, keepBytes: IDENTITY.walSegmentBytes, ...offload }
  return store && new Offloader({ store, nodeId, clock: realClock, rng: realRng, log, settings, roundMs: 20 })
}

export async function folder(): Promise<string> {
  const made = await temporaryDirectory({ prefix: 'skr' })
  onTestFinished(() => made[Symbol.asyncDispose]())
  return made.path
}

export const create = ({ client }: Safekeeper, ref = REF): Promise<unknown> =>
  callUnary(client.createTimeline.bind(client), {
    timeline: ref,
    postgres: IDENTITY,
    startLsn: lsnToBigint(START),
  })
export const status = ({ client }: Safekeeper) =>
  callUnary(client.getWalStatus.bind(client), { timeline: REF })
export const configure = ({ client }: Safekeeper, membership: Membership) =>
  callUnary(client.configureMembership.bind(client), { timeline: REF, membership })
export const membership = (
  generation: number,
  members: readonly Safekeeper[],
  newMembers: readonly Safekeeper[] = [],
) => ({
  generation: BigInt(generation),
  members: members.map(({ nodeId, address }) => ({ nodeId, address })),
  newMembers: newMembers.map(({ nodeId, address }) => ({ nodeId, address })),
})

export async function committedWal({ client }: Safekeeper): Promise<Buffer> {
  const { commitLsn } = await callUnary(client.getWalStatus.bind(client), { timeline: REF })
  const request = { timeline: REF, startLsn: lsnToBigint(START), endLsn: commitLsn, term: 0n }
  const parts = await Array.fromAsync(callServerStream(client.readWal.bind(client), request))
  return Buffer.concat(parts.map(({ wal }) => wal))
}

export interface Written {
  readonly maker: WalMaker
  readonly leader: SingleProposer
}

/** Has a leader of `term` write and commit `count` records on this safekeeper. */
export async function write(
  safekeeper: Safekeeper,
  term: number,
  count: number,
  bytes = 7_000,
  lastRecordLsn: Lsn = LSN_ZERO,
  ref = REF,
): Promise<Written> {
  const leader = new SingleProposer(safekeeper.client)
  onTestFinished(() => leader.close())
  const maker = new WalMaker(term)
  maker.lastRecordLsn = lastRecordLsn
  maker.endLsn = await leader.lead(ref, IDENTITY, term)
  const wal = maker.records(count, bytes)
  const begin = advance(maker.endLsn, -wal.length)
  for (let at = 0; at < wal.length; at += 200_000)
    await leader.append(advance(begin, at), wal.subarray(at, at + 200_000))
  await leader.flushed(maker.endLsn)
  await leader.commit(maker.endLsn)
  return { maker, leader }
}

export async function pulled(to: Safekeeper, donors: readonly Safekeeper[]) {
  const members = donors.map(({ nodeId, address }) => ({ nodeId, address }))
  const request = { timeline: REF, donors: members, storedUntilLsn: 0n, storedTerm: 0n }
  for (;;) {
    const answer = await callUnary(to.client.pullTimeline.bind(to.client), request)
    if (!answer.running && answer.goalLsn > 0n) return answer
    if (answer.problem !== '') throw new Error(answer.problem)
    await realClock.sleep(5)
  }
}

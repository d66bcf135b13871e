/**
 * Sends messages to every RPC of a cluster at work, and holds it to this: each call ends with a gRPC status (a stream
 * may continue), a call that was refused changed nothing, no process dies, hangs or grows, and no handler threw what it
 * should have refused.
 */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, formatLsn, lsnFromBigint, lsnToBigint, present } from '@understory/base'
import {
  BrokerServiceService,
  ComputeHostServiceService,
  ComputeServiceService,
  ControlPlaneServiceService,
  PageserverServiceService,
  SafekeeperServiceClient,
  SafekeeperServiceService,
  callServerStream,
  callUnary,
  createClient as createRpcClient,
} from '@understory/rpc'
import type { GetTimelineResponse, GetWalStatusResponse, TimelineRef } from '@understory/rpc'
import type { UnderstoryClient } from '@understory/sdk'
import type { Cluster, ClusterNode } from '@understory/testcontainers'
import fc from 'fast-check'
import { IDENTITY, START, WalMaker } from '../../apps/safekeeper/test/wal-maker.ts'
import { Peer, frame } from './grpc-call.ts'
import type { CallEnd } from './grpc-call.ts'
import { sendHostileCalls } from './hostile.ts'
import { drawSamples } from './messages.ts'
import type { Method, Sample } from './messages.ts'
import { ONLY_ORDERS, seedMessages } from './seeds.ts'

const CALLS_AT_ONCE = 24
const ROUND_MESSAGES = 2_000
/** One call in so many is made alone, with everything compared before and after it. */
const WATCHED_EVERY = 40
const FRAMES_A_ROUND = 60
const GROWTH_MAX_MIB = 150
/** Of a process with a small heap, all that it has beside its heap included. */
const PEAK_MAX_MIB = 512
const INTERNAL = 13
const SETTLED_LOOK_MS = 250
const SETTLED_COUNT = 8
const FAULTS_MAX = 20

/**
 * For the processes that are fuzzed. With all of the machine's memory a heap grows for minutes before anything is
 * collected: with this little, what grows is not garbage, and what leaks ends its process.
 */
const SMALL_HEAP = { NODE_OPTIONS: '--max-old-space-size=96 --max-semi-space-size=4' } as const

/** Demanded by the processes that are fuzzed. */
export const FUZZ_TOKEN = 'the token of the fuzzer'

/** The environment of the processes that are fuzzed. */
export const FUZZ_ENVIRONMENT = { ...SMALL_HEAP, UNDERSTORY_TOKEN: FUZZ_TOKEN } as const

export interface FuzzOptions {
  /** Its processes demand `FUZZ_TOKEN`. */
  readonly cluster: Cluster
  readonly client: UnderstoryClient
  readonly tenant: string
  readonly messages: number
  readonly seed: number
  readonly say: (line: string) => void
}

export interface FuzzReport {
  readonly seed: number
  readonly messages: number
  readonly seconds: number
  readonly methods: number
  /** By gRPC status, or how else a call ended. */
  readonly ends: Readonly<Record<string, number>>
  /** Calls after which everything was compared. */
  readonly watched: number
  readonly frames: number
  /** Calls made to take memory: compressed, half open, without a token. */
  readonly hostile: number
  /** Resident memory in MiB, after the first round and in the end. */
  readonly memory: Readonly<Record<string, { readonly beforeMib: number; readonly afterMib: number }>>
  readonly faults: readonly string[]
}

interface Target {
  readonly name: string
  readonly peer: Peer
  readonly method: Method
}

export async function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  const { cluster, client, tenant, messages, seed, say } = options
  const view = await client.getTimeline(tenant)
  const shardAddress = view.spec?.pageservers[0]
  const nodes = [
    present(cluster.safekeepers[0], 'safekeeper'),
    present(
      cluster.pageservers.find(({ address }) => address === shardAddress),
      'pageserver',
    ),
    cluster.controlPlane,
    cluster.computeHost,
  ]
  const [safekeeper, pageserver, controlPlane, computeHost] = nodes.map(
    ({ address }) => new Peer(address, FUZZ_TOKEN),
  )
  const compute = new Peer(view.computeAddress, FUZZ_TOKEN)
  const targets = [
    ...targetsOf(present(safekeeper, 'peer'), 'SafekeeperService', SafekeeperServiceService),
    ...targetsOf(present(pageserver, 'peer'), 'PageserverService', PageserverServiceService),
    ...targetsOf(present(controlPlane, 'peer'), 'ControlPlaneService', ControlPlaneServiceService),
    ...targetsOf(present(controlPlane, 'peer'), 'BrokerService', BrokerServiceService),
    ...targetsOf(present(computeHost, 'peer'), 'ComputeHostService', ComputeHostServiceService),
    ...targetsOf(compute, 'ComputeService', ComputeServiceService),
  ]
  const peers = [safekeeper, pageserver, controlPlane, computeHost, compute].filter(
    (peer) => peer !== undefined,
  )
  const fuzzer = new Fuzzer(options, targets, nodes, view)
  const startedMs = performance.now()
  try {
    await fuzzer.run()
  } finally {
    for (const peer of peers) peer[Symbol.dispose]()
  }
  const { ends, faults, watched, frames, hostile, memory } = fuzzer
  say(`${messages} messages sent`)
  return {
    seed,
    messages,
    seconds: (performance.now() - startedMs) / 1_000,
    methods: targets.length,
    ends: Object.fromEntries([...ends].toSorted(([a], [b]) => a.localeCompare(b))),
    watched,
    frames,
    hostile,
    memory: Object.fromEntries(memory),
    faults,
  }
}

const targetsOf = (peer: Peer, service: string, definition: Readonly<Record<string, Method>>): Target[] =>
  Object.values(definition).map((method) => ({
    name: `${service}/${method.path.slice(method.path.lastIndexOf('/') + 1)}`,
    peer,
    method,
  }))

class Fuzzer {
  readonly ends = new Map<string, number>()
  readonly faults: string[] = []
  readonly memory = new Map<string, { beforeMib: number; afterMib: number }>()
  watched = 0
  frames = 0
  hostile = 0
  readonly #options: FuzzOptions
  readonly #targets: readonly Target[]
  readonly #nodes: readonly ClusterNode[]
  readonly #view: GetTimelineResponse
  readonly #timeline: TimelineRef
  readonly #safekeeper: SafekeeperServiceClient
  #decoy: TimelineRef = { tenantId: '', timelineId: '' }

  constructor(
    options: FuzzOptions,
    targets: readonly Target[],
    nodes: readonly ClusterNode[],
    view: GetTimelineResponse,
  ) {
    this.#options = options
    this.#targets = targets
    this.#nodes = nodes
    this.#view = view
    this.#timeline = present(view.timeline?.timeline, 'timeline')
    this.#safekeeper = createRpcClient(
      { security: { token: FUZZ_TOKEN } },
      SafekeeperServiceClient,
      (nodes[0] as ClusterNode).address,
    )
  }

  #fault(text: string): void {
    if (this.faults.length < FAULTS_MAX) this.faults.push(text)
    this.#options.say(`FAULT: ${text}`)
  }

  async run(): Promise<void> {
    const { messages, seed, say } = this.#options
    try {
      await this.#makeDecoy(0)
      let before = await this.#settled()
      for (let sent = 0, round = 0; sent < messages && this.faults.length < FAULTS_MAX; round++) {
        const count = Math.min(ROUND_MESSAGES, messages - sent)
        await this.#makeDecoy(round)
        await this.#round(count, seed * 1_000_003 + round * 101)
        await this.#frames(seed * 7 + round)
        await this.#hostile(seed * 13 + round)
        const after = await this.#state()
        this.#compare(before, after, `round ${round}`)
        before = after
        await this.#measure(round === 0)
        sent += count
        say(`${sent} messages, ${this.faults.length} faults`)
      }
      for (const [name, { beforeMib, afterMib }] of this.memory) {
        if (afterMib - beforeMib > GROWTH_MAX_MIB)
          this.#fault(`${name} grew from ${beforeMib} to ${afterMib} MiB`)
      }
    } finally {
      this.#safekeeper.close()
    }
  }

  /** A timeline with one proposer's WAL, on one safekeeper only. */
  async #makeDecoy(round: number): Promise<void> {
    const timelineId = `${'d'.repeat(24)}${round.toString(16).padStart(8, '0')}`
    this.#decoy = { tenantId: 'd'.repeat(32), timelineId }
    const request = { timeline: this.#decoy, postgres: this.#identity(), startLsn: lsnToBigint(START) }
    await callUnary(this.#safekeeper.createTimeline.bind(this.#safekeeper), request)
  }

  #identity(): { major: number; systemId: bigint; pgTimelineId: number; walSegmentBytes: number } {
    return IDENTITY
  }

  async #round(count: number, seed: number): Promise<void> {
    const seeds = seedMessages({
      tenant: this.#options.tenant,
      timeline: this.#timeline,
      stripeBlocks: this.#view.spec?.stripeBlocks ?? 1,
      lsn: this.#view.compute?.commitLsn ?? 0n,
      decoy: this.#decoy,
      decoyPostgres: this.#identity(),
      decoyStartLsn: lsnToBigint(START),
      decoyWal: new WalMaker(seed & 0xffff).records(3, 200),
    })
    const perMethod = Math.ceil(count / this.#targets.length)
    const calls = this.#targets.flatMap((target, i) =>
      drawSamples(target.method, seeds.get(target.name) ?? [[Buffer.alloc(0)]], perMethod, seed + i).map(
        (sample) => ({ target, sample }),
      ),
    )
    const allowed = calls.filter(({ target, sample }) => !isOrder(target, sample)).slice(0, count)
    const queue = allowed.filter((_, i) => i % WATCHED_EVERY !== 0).values()
    const work = async (): Promise<void> => {
      for (const { target, sample } of queue) await this.#call(target, sample)
    }
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, work))
    for (const [i, { target, sample }] of allowed.entries())
      if (i % WATCHED_EVERY === 0) await this.#watch(target, sample)
  }

  async #call({ name, peer, method }: Target, sample: Sample): Promise<CallEnd> {
    const end = await peer.call({
      path: method.path,
      body: Buffer.concat(sample.messages.map(frame)),
      mayStayOpen: method.responseStream,
    })
    const how = end.kind === 'status' ? `status ${end.status}` : end.kind
    this.ends.set(how, (this.ends.get(how) ?? 0) + 1)
    const hex = sample.messages.map((message) => message.toString('hex').slice(0, 400)).join(' ')
    if (end.kind === 'hangs') this.#fault(`${name} hangs on ${sample.kind}: ${hex}`)
    else if (end.kind === 'reset' || end.kind === 'http')
      this.#fault(`${name} ended without a status (${JSON.stringify(end)}) on ${sample.kind}: ${hex}`)
    else if (
      end.kind === 'status' &&
      end.status === INTERNAL &&
      sample.messages.every((m) => decodes(method, m))
    )
      this.#fault(`${name} answered INTERNAL (${end.message}) to ${sample.kind}: ${hex}`)
    return end
  }

  /** A call alone: refused without an answer, it must not have changed anything. */
  async #watch(target: Target, sample: Sample): Promise<void> {
    const before = await this.#decoyState()
    const end = await this.#call(target, sample)
    this.watched++
    if (end.kind !== 'status' || end.status === 0 || end.answers > 0) return
    const after = await this.#decoyState()
    if (after !== before)
      this.#fault(`${target.name} was refused and changed state: ${before} became ${after}`)
  }

  /** Bytes that are not messages: frames that lie, methods that are not there, bytes that are not HTTP/2. */
  async #frames(seed: number): Promise<void> {
    const drawn = fc.sample(
      fc.record({ what: fc.nat({ max: 4 }), target: fc.nat(), bytes: fc.uint8Array({ maxLength: 200 }) }),
      { numRuns: FRAMES_A_ROUND, seed },
    )
    await Promise.all(
      drawn.map(async ({ what, target: which, bytes }) => {
        // A frame whose flag is wrong may pass as a message, and the empty one is an order to some.
        const targets = this.#targets.filter((target) => !ONLY_ORDERS.has(target.name))
        const { name, peer, method } = targets[which % targets.length] as Target
        this.frames++
        if (what === 4) return peer.garbage(bytes)
        const call = { path: method.path, mayStayOpen: method.responseStream }
        const compressed = Buffer.concat([Buffer.from([1, 0, 0, 0, bytes.length]), bytes])
        const tooLong = Buffer.concat([Buffer.from([0, 0xff, 0xff, 0xff, 0xff]), bytes])
        const end = await [
          () => peer.call({ ...call, body: compressed }),
          () => peer.call({ ...call, body: tooLong }),
          () => peer.call({ ...call, body: Buffer.from(bytes) }),
          () => peer.call({ ...call, path: `${method.path}x`, body: frame(bytes) }),
        ][what]?.()
        if (end?.kind === 'hangs') this.#fault(`${name} hangs on frames of kind ${what}`)
        return undefined
      }),
    )
  }

  async #hostile(seed: number): Promise<void> {
    const strangers = new Map<string, Peer>()
    const strangerTo = (address: string): Peer => {
      const known = strangers.get(address) ?? new Peer(address)
      strangers.set(address, known)
      return known
    }
    const targets = this.#targets.map(({ name, peer, method }) => ({
      name,
      peer,
      method,
      stranger: strangerTo(peer.address),
      isOrder: ONLY_ORDERS.has(name),
    }))
    this.hostile += await sendHostileCalls(targets, seed, (fault) => {
      this.#fault(fault)
      return this.faults.length >= FAULTS_MAX
    })
    for (const stranger of strangers.values()) stranger[Symbol.dispose]()
  }

  async #decoyState(): Promise<string> {
    const status = await this.#walStatus(this.#decoy)
    const { timelines } = await callUnary(this.#safekeeper.listWalTimelines.bind(this.#safekeeper), {})
    return `${describeStatus(status)}, flushed ${status.flushLsn}, committed ${status.commitLsn}, ${timelines.length} timelines`
  }

  #walStatus(timeline: TimelineRef): Promise<GetWalStatusResponse> {
    return callUnary(this.#safekeeper.getWalStatus.bind(this.#safekeeper), { timeline })
  }

  /** A tenant that was just made has a last step to do. */
  async #settled(): Promise<ReadonlyMap<string, string>> {
    let state = await this.#state()
    for (let same = 0; same < SETTLED_COUNT;) {
      await delay(SETTLED_LOOK_MS)
      const now = await this.#state()
      same = [...now].every(([name, value]) => state.get(name) === value) ? same + 1 : 0
      state = now
    }
    return state
  }

  /** The facts of the tenant at work that must not change. */
  async #state(): Promise<ReadonlyMap<string, string>> {
    const { client, tenant } = this.#options
    const tenants = await Array.fromAsync(client.listTenants())
    const { spec, compute, shards } = await client.getTimeline(tenant)
    const fpw = await client.getFullPageWrites(tenant)
    const status = await this.#walStatus(this.#timeline)
    const commitLsn = this.#view.compute?.commitLsn ?? 0n
    const request = { timeline: this.#timeline, startLsn: commitLsn - 8_192n, endLsn: commitLsn, term: 0n }
    const wal = await Array.fromAsync(
      callServerStream(this.#safekeeper.readWal.bind(this.#safekeeper), request),
    )
    return new Map([
      ['tenants', tenants.map(({ name, tenantId }) => `${name} ${tenantId}`).join()],
      ['spec', JSON.stringify(spec, asText)],
      ['compute', `${compute?.pid} ${compute?.postmasterPid} ${compute?.term} ${compute?.state}`],
      ['shards', shards.map(({ number, address, alive }) => `${number} ${address} ${alive}`).join()],
      ['failures', shards.map((shard) => shard.failure).join()],
      ['full_page_writes', `${fpw.wanted} ${fpw.phase}`],
      ['WAL status', describeStatus(status)],
      ['WAL', Buffer.concat(wal.map((piece) => piece.wal)).toString('base64')],
    ])
  }

  #compare(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>, when: string): void {
    for (const [name, value] of before) {
      const now = after.get(name) ?? ''
      let at = 0
      while (at < value.length && value[at] === now[at]) at++
      const part = (text: string): string => text.slice(Math.max(0, at - 60), at + 200)
      if (now !== value) this.#fault(`${when} changed ${name}: "${part(value)}" became "${part(now)}"`)
    }
  }

  async #measure(isFirst: boolean): Promise<void> {
    for (const { nodeId, pid, log } of this.#nodes.map((node) => ({
      nodeId: node.nodeId,
      pid: node.pid,
      log: node.log(),
    }))) {
      try {
        const status = await readFile(`/proc/${pid}/status`, 'utf8')
        const mib = Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) / 1_024)
        const peakMib = Math.round(Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) / 1_024)
        if (!(peakMib <= PEAK_MAX_MIB)) this.#fault(`${nodeId} took ${peakMib} MiB at its peak`)
        const known = isFirst ? undefined : this.memory.get(nodeId)
        this.memory.set(nodeId, { beforeMib: known?.beforeMib ?? mib, afterMib: mib })
      } catch (error) {
        this.#fault(`${nodeId} died: ${describeError(error)}; ${log.slice(-2_000)}`)
      }
      const bug = /^.*"event":"rpc_handler_bug".*$/m.exec(log)?.[0]
      if (bug !== undefined) this.#fault(`${nodeId} met a bug of its own: ${bug.slice(0, 1_500)}`)
    }
  }
}

/** Whether the message would be obeyed by what must stay as it is. */
const isOrder = ({ name, method }: Target, { messages }: Sample): boolean =>
  ONLY_ORDERS.has(name) && messages.some((message) => decodes(method, message))

function decodes(method: Method, message: Buffer): boolean {
  try {
    method.requestDeserialize(message)
    return true
  } catch {
    return false
  }
}

const describeStatus = ({ term, termHistory, failure, membershipGeneration }: GetWalStatusResponse): string =>
  `term ${term}, ${termHistory.map((entry) => `${entry.term}@${formatLsn(lsnFromBigint(entry.startLsn))}`).join()}, ` +
  `generation ${membershipGeneration}, ${failure === '' ? 'well' : failure}`

const asText = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? `${value}` : value)

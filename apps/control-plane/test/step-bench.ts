/** A timeline with nodes in memory, for the steps of its reconciler: no sockets, and a clock that a sleep moves. */
import { seededRng, silentLog } from '@understory/env'
import type { Clock, Log } from '@understory/env'
import { memoryObjectStore } from '@understory/object-store'
import { MemoryNodes } from '@understory/protocol/clients/memory'
import type { MemoryCompute, MemoryComputeHost, MemoryPageserver } from '@understory/protocol/clients/memory'
import { NodeClients } from '../src/clients/node-clients.ts'
import { hostDriver } from '../src/computes/host-driver.ts'
import { ConfigurationStore } from '../src/documents/configuration-store.ts'
import type { NodeView } from '../src/documents/nodes.ts'
import type { TenantDocument } from '../src/documents/tenant-document.ts'
import { TenantStore } from '../src/documents/tenant-store.ts'
import type { TimelineDocument } from '../src/documents/timeline-document.ts'
import { TimelineStore } from '../src/documents/timeline-store.ts'
import { MembershipReconciler } from '../src/reconcile/membership-reconciler.ts'
import { observeTimeline } from '../src/reconcile/observation.ts'
import { PublishedConfiguration } from '../src/reconcile/published-configuration.ts'
import { ShardFollowers } from '../src/reconcile/shard-followers.ts'
import type { Step, StepOutcome, StepParts } from '../src/reconcile/steps/step.ts'
import { TimelineProblems } from '../src/reconcile/timeline-problems.ts'
import { REF, TENANT_ID, aTenant, aTimeline, leadUnder } from './support.ts'

/** Time passes where a caller sleeps, and by hand. */
export interface BenchClock extends Clock {
  pass(ms: number): void
}

function benchClock(): BenchClock {
  let nowMs = 1_000
  return {
    nowMs: () => nowMs,
    wallMs: () => Math.round(nowMs),
    setTimer: () => ({ cancel: () => undefined }),
    async sleep(ms) {
      nowMs += ms
      await Promise.resolve()
    },
    pass: (ms) => void (nowMs += ms),
  }
}

export const NODES: readonly NodeView[] = [
  ...['sk-1', 'sk-2', 'sk-3'].map((nodeId) => ({ nodeId, kind: 'safekeeper' as const })),
  ...['ps-1', 'ps-2'].map((nodeId) => ({ nodeId, kind: 'pageserver' as const })),
  { nodeId: 'host-1', kind: 'compute-host' as const },
].map((node) => ({ ...node, address: `${node.nodeId}:1` }))

/** Of a timeline that runs. */
export const RUNNING: Partial<TimelineDocument> & Pick<TimelineDocument, 'addresses'> = {
  bootstrapped: true,
  startLsn: '0/1000000',
  safekeeperNodes: ['sk-1', 'sk-2', 'sk-3'],
  shards: [
    { node: 'ps-1', generation: 1 },
    { node: 'ps-2', generation: 1 },
  ],
  computeHost: 'host-1',
  addresses: Object.fromEntries(NODES.map(({ nodeId, address }) => [nodeId, address])),
  postgres: { major: 17, systemId: '7', pgTimelineId: 1, walSegmentBytes: 16 << 20 },
}

export interface StepBench {
  readonly parts: StepParts
  readonly clock: BenchClock
  /** The announced nodes. */
  readonly announced: NodeView[]
  readonly events: { readonly event: string; readonly fields: object | undefined }[]
  pageserver(node: string): MemoryPageserver
  host(): MemoryComputeHost
  compute(): MemoryCompute
  tenant(): Promise<TenantDocument>
  timeline(): Promise<TimelineDocument>
  /** One run of the step over the documents and nodes as they are. */
  run(make: (parts: StepParts) => Step): Promise<StepOutcome>
}

export async function stepBench(
  timeline: Partial<TimelineDocument> = {},
  tenant: Partial<TenantDocument> = {},
): Promise<StepBench> {
  const clock = benchClock()
  const objects = memoryObjectStore()
  const lease = leadUnder(1)
  const tenants = new TenantStore(objects, lease)
  const timelines = new TimelineStore(objects, lease, tenants)
  await tenants.create(aTenant({ shardCount: 2, ...tenant }))
  await timelines.update(REF, () => aTimeline(timeline))
  const memory = new MemoryNodes()
  const clients = new NodeClients(clock, memory)
  const announced = [...NODES]
  const events: StepBench['events'] = []
  const note = (event: string, fields?: object): void => void events.push({ event, fields })
  const log: Log = { ...silentLog, info: note, warn: note, error: note }
  const nodes = { known: () => announced, list: () => Promise.resolve(announced) }
  const update: StepParts['update'] = (change) => timelines.update(REF, change)
  const shared = { clients, nodes, clock, log, ref: REF, update, replaceAfterMs: 0 }
  const configurations = new ConfigurationStore(objects)
  const parts: StepParts = {
    ...shared,
    tenants,
    timelines,
    computes: hostDriver(clients),
    configuration: new PublishedConfiguration(configurations, REF.timelineId),
    problems: new TimelineProblems(clock),
    membership: new MembershipReconciler(shared),
    followers: new ShardFollowers(clients),
    rng: seededRng(1),
  }
  const findTenant = async (): Promise<TenantDocument> => tenants.find(TENANT_ID)
  const findTimeline = (): Promise<TimelineDocument> => timelines.take(REF)
  const steps = new Map<unknown, Step>()
  return {
    parts,
    clock,
    announced,
    events,
    pageserver: (node) => memory.pageserver(`${node}:1`),
    host: () => memory.computeHost('host-1:1'),
    compute: () => memory.compute(`${REF.timelineId}.host-1:1`),
    tenant: findTenant,
    timeline: findTimeline,
    run: async (make) => {
      const step = steps.get(make) ?? make(parts)
      steps.set(make, step)
      const [tenantNow, timelineNow] = [await findTenant(), await findTimeline()]
      return step({
        tenant: tenantNow,
        timeline: timelineNow,
        observe: () => observeTimeline(parts, tenantNow, timelineNow),
      })
    },
  }
}

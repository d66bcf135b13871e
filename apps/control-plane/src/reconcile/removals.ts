/**
 * Removes what deleted timelines, and bootstraps that were interrupted, still have somewhere: compute, layers, WAL,
 * objects.
 *
 * Every removal is in the tenant's document before anything is removed, and is taken from there once all of
 * it is gone; every step may be repeated. So a removal continues after the loss of any process, and a node that is away
 * is asked again when it is back. The compute ends first: until then it could create the timeline on safekeepers and
 * pageservers again. Objects go in every try, because a node that was away may have stored some in the meantime.
 */
import { Mailbox, ProblemReport } from '@understory/actor'
import { isErrorCode } from '@understory/base'
import type { Clock, Log } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import { timelinePrefixes } from '@understory/protocol'
import type { ComputeDriver } from '../computes/compute-driver.ts'
import type { ConfigurationStore } from '../documents/configuration-store.ts'
import type { Nodes } from '../documents/nodes.ts'
import type { NodeClients } from '../clients/node-clients.ts'
import type { Removal, TenantDocument } from '../documents/tenant-document.ts'
import type { Stores } from './retirement.ts'

/** Between two tries where the one before got nowhere. */
const PAUSE_MS = 5_000
/** Within it a compute ends cleanly, as long as it has its safekeepers: it writes a last checkpoint to them. */
const COMPUTE_END_MS = 10_000
const COMPUTE_PAUSE_MS = 500
const DELETE_COUNT_MAX = 1_000

export interface RemovalParts extends Stores {
  /** The store of the safekeepers' and pageservers' objects. */
  readonly objects: ObjectStore
  readonly configurations: ConfigurationStore
  readonly nodes: Pick<Nodes, 'known'>
  readonly clients: NodeClients
  readonly computes: ComputeDriver
  readonly clock: Clock
  readonly log: Log
}

/** Names of the nodes that a removal waits for. */
export const waitsFor = ({ isComputeRemoved, computeHost, shards, safekeeperNodes }: Removal): string[] => [
  ...new Set([
    ...(isComputeRemoved ? [] : [computeHost === '' ? 'compute' : computeHost]),
    ...shards.map(({ node }) => node),
    ...safekeeperNodes,
  ]),
]

export class Removals {
  readonly #parts: RemovalParts
  /** By timeline: when it is tried again. */
  readonly #notBeforeMs = new Map<string, number>()
  /** By timeline: when its compute was first asked to end, by this process. */
  readonly #computeAskedMs = new Map<string, number>()
  readonly #releases = new Mailbox({ name: 'released names' })
  readonly #problems = new Map<string, ProblemReport>()

  constructor(parts: RemovalParts) {
    this.#parts = parts
  }

  /** Why the last try of a timeline's removal ended early; empty where it did not. */
  problemOf(timelineId: string): string {
    return this.#problems.get(timelineId)?.current ?? ''
  }

  /** One at a time: another tenant may take the name in between. */
  releaseName(tenant: TenantDocument): Promise<void> {
    return this.#releases.run(() => this.#parts.tenants.releaseName(tenant))
  }

  /** The next look tries every one of them. */
  hurry(): void {
    this.#notBeforeMs.clear()
  }

  /**
   * One try of everything that the tenant has to remove; `isInUse` says of which timelines something is still under
   * way. A deleted tenant goes when nothing of it is left.
   */
  async advance(tenant: TenantDocument, isInUse: (timelineId: string) => boolean): Promise<void> {
    const { tenants, clock, log } = this.#parts
    let leftCount = tenant.removals.length
    if (tenant.isDeleted) await this.releaseName(tenant)
    for (const removal of tenant.removals) {
      const { timelineId } = removal
      if (isInUse(timelineId) || clock.nowMs() < (this.#notBeforeMs.get(timelineId) ?? 0)) continue
      try {
        if (await this.#remove(tenant, removal)) leftCount--
        this.#problems.delete(timelineId)
      } catch (error) {
        const known = this.#problems.get(timelineId)
        const problems = known ?? new ProblemReport({ clock, log, event: 'removal_waiting' })
        this.#problems.set(timelineId, problems)
        problems.report(error, { tenant: tenant.tenantId, timeline: timelineId })
        this.#notBeforeMs.set(timelineId, clock.nowMs() + PAUSE_MS)
      }
    }
    if (!tenant.isDeleted || leftCount + tenant.timelines.length > 0) return
    await tenants.remove(tenant.tenantId)
    log.info('tenant_removed', { tenant: tenant.tenantId, name: tenant.name })
  }

  /** Whether all of it is gone. */
  async #remove(tenant: TenantDocument, removal: Removal): Promise<boolean> {
    const { nodes, clients, configurations, timelines, log, clock } = this.#parts
    const { timelineId } = removal
    const ref = { tenantId: tenant.tenantId, timelineId }
    const announced = new Map(nodes.known().map(({ nodeId, address }) => [nodeId, address]))
    const isComputeRemoved =
      removal.isComputeRemoved || (await this.#removeCompute(tenant, removal, announced))
    if (!isComputeRemoved && this.#isEnding(timelineId)) {
      this.#notBeforeMs.set(timelineId, clock.nowMs() + COMPUTE_PAUSE_MS)
      return false
    }
    const [safekeepersLeft, shardsLeft] = await Promise.all([
      leftOf(removal.safekeeperNodes, async (node) => {
        const address = announced.get(node)
        return address !== undefined && (await isDone(clients.deleteWal(address, ref)))
      }),
      leftOf(removal.shards, async ({ node, number }) => {
        const address = announced.get(node)
        const shard = { number, count: tenant.shardCount, stripeBlocks: tenant.stripeBlocks }
        return address !== undefined && (await isDone(clients.detachShard(address, ref, shard)))
      }),
    ])
    for (const prefix of timelinePrefixes(ref)) await this.#sweep(prefix)
    await configurations.remove(timelineId)
    await timelines.remove(ref)
    // Objects that were removed before the compute ended may be there again.
    const after: Removal = isComputeRemoved
      ? { ...removal, isComputeRemoved, safekeeperNodes: safekeepersLeft, shards: shardsLeft }
      : removal
    const waiting = waitsFor(after)
    if (waiting.length > 0) this.#notBeforeMs.set(timelineId, clock.nowMs() + PAUSE_MS)
    await this.#store(ref.tenantId, after)
    if (waiting.length > 0) return false
    this.#notBeforeMs.delete(timelineId)
    this.#computeAskedMs.delete(timelineId)
    log.info('timeline_removed', { tenant: tenant.tenantId, timeline: timelineId, name: removal.name })
    return true
  }

  /** Whether a compute that was asked to end may yet do so. A compute whose host is away is not waited for. */
  #isEnding(timelineId: string): boolean {
    const nowMs = this.#parts.clock.nowMs()
    const askedMs = this.#computeAskedMs.get(timelineId) ?? nowMs
    this.#computeAskedMs.set(timelineId, askedMs)
    return nowMs - askedMs < COMPUTE_END_MS
  }

  async #removeCompute(
    tenant: TenantDocument,
    { timelineId, name, computeHost, computeAddress }: Removal,
    announced: ReadonlyMap<string, string>,
  ): Promise<boolean> {
    const { computes } = this.#parts
    // It was never given a host.
    if (computes.usesHosts && computeHost === '') return true
    const hostAddress = computes.usesHosts
      ? (announced.get(computeHost) ?? (computeAddress || undefined))
      : undefined
    const timeline = { tenantId: tenant.tenantId, timelineId }
    return isDone(computes.remove({ tenantName: tenant.name, timelineName: name, timeline, hostAddress }))
  }

  async #store(tenantId: string, after: Removal): Promise<void> {
    const isOver = waitsFor(after).length === 0
    await this.#parts.tenants.update(tenantId, (document) => ({
      ...document,
      removals: document.removals.flatMap((item) =>
        item.timelineId !== after.timelineId ? [item] : isOver ? [] : [after],
      ),
    }))
  }

  async #sweep(prefix: string): Promise<void> {
    const { objects } = this.#parts
    let keys: string[] = []
    for await (const { key } of objects.list(prefix)) {
      keys.push(key)
      if (keys.length < DELETE_COUNT_MAX) continue
      await objects.delete(keys)
      keys = []
    }
    if (keys.length > 0) await objects.delete(keys)
  }
}

async function leftOf<T>(items: readonly T[], remove: (item: T) => Promise<boolean>): Promise<T[]> {
  const removed = await Promise.all(items.map(remove))
  return items.filter((_, i) => removed[i] !== true)
}

/** False where the other side is away. That it knows nothing of the matter is as good as done. */
async function isDone(promise: Promise<void>): Promise<boolean> {
  try {
    await promise
    return true
  } catch (error) {
    if (isErrorCode(error, 'unknown_timeline')) return true
    if (isErrorCode(error, 'unavailable') || isErrorCode(error, 'timeout')) return false
    throw error
  }
}

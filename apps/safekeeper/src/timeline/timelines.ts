/** Every timeline of this safekeeper: `timelines/<tenant>/<timeline>/` below the data folder. */
import { dirname, join } from 'node:path'
import { Mailbox } from '@understory/actor'
import { UnderstoryError, describeError, parseTenantId, parseTimelineId, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import { initialControl } from '@understory/consensus'
import type { AcceptorControl } from '@understory/consensus'
import type { Clock, Disk, Log, Rng } from '@understory/env'
import { describeIdentity, isSameIdentity } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { readTimelineRef } from '@understory/protocol'
import type { TimelineRef } from '@understory/rpc'
import type { SafekeeperObserver } from '../telemetry/safekeeper-observer.ts'
import { hasControlFile } from './control-file.ts'
import type { NodeQuota } from './node-quota.ts'
import { createTimelineFiles } from './open-timeline.ts'
import type { RemoteWal } from './remote-wal.ts'
import { Replica } from './replica.ts'
import type { ChildFactory } from './replica.ts'
import { Timeline } from './timeline.ts'
import { WalMemory } from './wal-memory.ts'
import { isDamage } from './wal-check.ts'

/** A folder of this name is being removed: if the removal is cut short, the next start completes it. */
const DELETED = '.deleted'

export interface TimelinesOptions {
  readonly disk: Disk
  readonly log: Log
  readonly clock: Clock
  readonly rng: Rng
  readonly dataDir: string
  /** Where the WAL of all timelines counts. */
  readonly quota: NodeQuota
  /** Undefined where nothing is measured. */
  readonly observer?: SafekeeperObserver | undefined
  /** A timeline's WAL in the object store; undefined where there is none. */
  readonly remoteOf?: ((ref: TimelineRef) => RemoteWal) | undefined
  /** The workers of each timeline beside its WAL, from `start` on. */
  readonly children?: readonly ChildFactory[]
}

export class Timelines {
  readonly #options: TimelinesOptions
  readonly #memory = new WalMemory()
  readonly #root: string
  /** By timeline id; also those that are absent, while a recovery may make them. */
  readonly #replicas = new Map<string, Replica>()
  /** One creation, deletion or opening at a time. */
  readonly #changes = new Mailbox({ name: 'timelines' })
  #isStarted = false

  constructor(options: TimelinesOptions) {
    this.#options = options
    this.#root = join(options.dataDir, 'timelines')
  }

  /** Undefined where nothing is measured. */
  get observer(): SafekeeperObserver | undefined {
    return this.#options.observer
  }

  /** Opens what is on disk. Error: where the folder itself cannot be used. */
  async openAll(): Promise<void> {
    const { disk } = this.#options
    await disk.makeDirectory(this.#root)
    await disk.syncDirectory(dirname(this.#root))
    for (const tenant of await disk.list(this.#root)) {
      for (const timeline of await disk.list(join(this.#root, tenant.name))) {
        if (timeline.name.endsWith(DELETED)) {
          await disk.removeTree(join(this.#root, tenant.name, timeline.name))
          continue
        }
        const ref = { tenantId: parseTenantId(tenant.name), timelineId: parseTimelineId(timeline.name) }
        await open(this.replicaOf(ref), this.#options, this.#memory)
      }
      await removeIfEmpty(disk, join(this.#root, tenant.name))
    }
    for (const replica of this.#replicas.values()) if (!isHere(replica)) this.forget(replica)
  }

  /** From now on the children of all replicas work. */
  start(): void {
    this.#isStarted = true
    for (const replica of this.#replicas.values()) this.#startChildren(replica)
  }

  #startChildren(replica: Replica): void {
    if (!this.#isStarted) return
    for (const make of this.#options.children ?? []) {
      const { name, child } = make(replica)
      replica.start(name, child)
    }
  }

  /** Idempotent with the same arguments. */
  create(ref: TimelineRef | undefined, identity: PostgresIdentity, startLsn: Lsn): Promise<void> {
    return this.createFrom(ref, identity, initialControl(startLsn))
  }

  /** Begins with what other safekeepers have committed, where they keep nothing before it. */
  async createFrom(
    ref: TimelineRef | undefined,
    identity: PostgresIdentity,
    control: AcceptorControl,
  ): Promise<void> {
    const known = readTimelineRef(ref)
    await this.#changes.run(() => this.#create(known, identity, control))
  }

  async #create(ref: TimelineRef, identity: PostgresIdentity, control: AcceptorControl): Promise<void> {
    const { timelineId } = ref
    const { timelineStartLsn: startLsn } = control
    if (startLsn === 0 || startLsn % identity.walSegmentBytes !== 0) {
      throw fail('bad_lsn', `timeline cannot start at ${startLsn}`, {
        hint: 'It starts with a WAL segment.',
      })
    }
    const there = this.#replicas.get(timelineId)
    if (there !== undefined && isHere(there)) {
      const existing = this.get(ref)
      if (existing.timelineStartLsn === startLsn && isSameIdentity(existing.identity, identity)) return
      throw fail('already_exists', `timeline ${timelineId} exists with other properties`, {
        detail: describeIdentity(existing.identity),
      })
    }
    const replica = this.replicaOf(ref)
    await createTimelineFiles(this.#options.disk, replica.folder, identity, control)
    await open(replica, this.#options, this.#memory)
    this.get(ref)
  }

  /** The replica, absent where there is none. Errors: `unknown_timeline` where another tenant has the timeline. */
  replicaOf(ref: TimelineRef): Replica {
    const { tenantId, timelineId } = ref
    const known = this.#replicas.get(timelineId)
    if (known !== undefined) {
      if (known.ref.tenantId !== tenantId) throw unknownTimeline(ref)
      return known
    }
    const { clock, rng } = this.#options
    const folder = join(this.#root, tenantId, timelineId)
    const log = this.#options.log.child({ tenant: tenantId, timeline: timelineId })
    const replica: Replica = new Replica({
      ref: { tenantId, timelineId },
      folder,
      clock,
      rng,
      log,
      control: {
        create: (identity, control) => this.createFrom(replica.ref, identity, control),
        close: (why) => this.#close(replica, why),
        reopen: () => this.#reopen(replica),
      },
    })
    this.#replicas.set(timelineId, replica)
    this.#startChildren(replica)
    return replica
  }

  /** Undefined where there is none, not even one that was never made. */
  findReplica({ tenantId, timelineId }: TimelineRef): Replica | undefined {
    const replica = this.#replicas.get(timelineId)
    return replica?.ref.tenantId === tenantId ? replica : undefined
  }

  /** A replica that is absent need not be remembered. */
  forget(replica: Replica): void {
    const { timelineId } = replica.ref
    if (this.#replicas.get(timelineId) !== replica || isHere(replica)) return
    this.#replicas.delete(timelineId)
    void replica.end()
  }

  /** Whether there is one, also where it could not be opened. */
  has(ref: TimelineRef): boolean {
    const replica = this.findReplica(ref)
    return replica !== undefined && isHere(replica)
  }

  /** Undefined where there is none, or none that could be opened. */
  find(ref: TimelineRef): Timeline | undefined {
    return this.findReplica(ref)?.timeline
  }

  /**
   * Errors: `unknown_timeline`; what is damaged (wal-check.ts, isDamage); `disk_failed` where it could not be opened
   * for any other reason: a caller need not know all failures of a disk.
   */
  get(ref: TimelineRef | undefined): Timeline {
    const known = readTimelineRef(ref)
    const state = this.findReplica(known)?.state ?? { kind: 'absent' }
    switch (state.kind) {
      case 'open':
        return state.timeline
      case 'closed':
        throw closedError(known, state.failure)
      case 'absent':
        throw unknownTimeline(known)
    }
  }

  /** A reader met damage in what is committed. */
  onDamage(ref: TimelineRef): void {
    this.findReplica(ref)?.reportDamage()
  }

  async #close(replica: Replica, why: Error): Promise<void> {
    const { timeline } = replica
    if (timeline === undefined) return
    replica.log.error('timeline_closed', { reason: describeError(why) })
    replica.become({ kind: 'closed', failure: why })
    await timeline.close(why)
  }

  #reopen(replica: Replica): Promise<void> {
    return this.#changes.run(async () => {
      await open(replica, this.#options, this.#memory)
      this.get(replica.ref)
    })
  }

  /**
   * Removes the timeline from the disk, in any state; it may be missing. Its workers have ended before its
   * files go. Errors: `stale` where `leftWithGeneration` is not 0 and it has a newer membership: it was made a member
   * again.
   */
  async delete(ref: TimelineRef, leftWithGeneration: number): Promise<void> {
    const known = readTimelineRef(ref)
    const there = this.#replicas.get(known.timelineId)
    if (there !== undefined && there.ref.tenantId !== known.tenantId) return
    // Before it is this job's turn: children may wait for theirs.
    await there?.end()
    await this.#changes.run(() => this.#delete(known, leftWithGeneration))
  }

  async #delete(ref: TimelineRef, leftWithGeneration: number): Promise<void> {
    const { disk, log } = this.#options
    const { tenantId, timelineId } = ref
    const replica = this.findReplica(ref)
    if (replica !== undefined && leftWithGeneration > 0) this.#checkLeft(replica, leftWithGeneration)
    this.#replicas.delete(timelineId)
    await replica?.timeline?.close(fail('unknown_timeline', `timeline ${timelineId} was deleted`))
    const folder = join(this.#root, tenantId, timelineId)
    if ((await disk.stat(folder)) !== undefined) {
      // One step, which takes no room: before it, it is here; after it, it never is again.
      await disk.rename(folder, folder + DELETED)
      await disk.syncDirectory(dirname(folder))
    }
    if (replica !== undefined && isHere(replica))
      log.info('timeline_deleted', { tenant: tenantId, timeline: timelineId })
    this.observer?.forget(ref)
    await disk.removeTree(folder + DELETED)
    await removeIfEmpty(disk, dirname(folder))
  }

  #checkLeft(replica: Replica, leftWithGeneration: number): void {
    const { timeline } = replica
    const known = Math.max(
      timeline?.state.control.membershipGeneration ?? 0,
      timeline?.membership?.generation ?? 0,
    )
    if (known <= leftWithGeneration) return
    replica.resume()
    this.#startChildren(replica)
    throw fail('stale', `membership generation ${known} is newer than ${leftWithGeneration}`)
  }

  /** Called every few seconds: idle timelines release what they hold. */
  async releaseIdle(stop: AbortSignal): Promise<void> {
    for (const { timeline } of this.#replicas.values()) {
      if (stop.aborted) return
      await timeline?.releaseIdle()
    }
  }

  list(): TimelineRef[] {
    return [...this.#replicas.values()].filter(isHere).map(({ ref }) => ref)
  }

  /** Ends what works for the timelines; they themselves stay open. */
  async stop(): Promise<void> {
    this.#isStarted = false
    await Promise.all([...this.#replicas.values()].map((replica) => replica.end()))
  }

  async close(): Promise<void> {
    await this.stop()
    for (const { timeline } of this.#replicas.values()) await timeline?.close()
  }
}

/** Reads what is on the disk; a folder without a control file leaves the replica absent. */
async function open(
  replica: Replica,
  { disk, quota, observer, remoteOf }: TimelinesOptions,
  memory: WalMemory,
): Promise<void> {
  const { ref, folder, log } = replica
  try {
    await disk.removeLeftovers(folder)
    // A creation that was cut short left no control file: it was never answered.
    if (!(await hasControlFile(disk, folder))) return
    const timeline = await Timeline.open({
      disk,
      log,
      folder,
      quota,
      memory,
      remote: remoteOf?.(ref),
      observer: observer?.ofTimeline(ref),
      onFailed: () => replica.notify(),
    })
    replica.become({ kind: 'open', timeline })
  } catch (failure) {
    log.error('timeline_not_opened', { reason: describeError(failure) })
    replica.become({ kind: 'closed', failure })
  }
}

/** The folder of a tenant whose last timeline is gone. */
async function removeIfEmpty(disk: Disk, folder: string): Promise<void> {
  if ((await disk.stat(folder)) !== undefined && (await disk.list(folder)).length === 0)
    await disk.removeTree(folder)
}

const isHere = (replica: Replica): boolean => replica.state.kind !== 'absent'

const unknownTimeline = ({ tenantId, timelineId }: TimelineRef): Error =>
  fail('unknown_timeline', `timeline ${timelineId} of tenant ${tenantId} is not on this safekeeper`)

function closedError({ timelineId }: TimelineRef, failure: unknown): unknown {
  if (!(failure instanceof UnderstoryError) || isDamage(failure)) return failure
  return fail('disk_failed', `timeline ${timelineId} is not open on this safekeeper: ${failure.message}`, {
    hint: `${failure.hint ?? 'Check its disk.'} It opens again by itself.`,
    cause: failure,
  })
}

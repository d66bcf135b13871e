/** Every timeline of this safekeeper: `timelines/<tenant>/<timeline>/` below the data folder. */
import { dirname, join } from 'node:path'
import { Mailbox } from '@understory/actor'
import {
  UnderstoryError,
  describeError,
  isErrorCode,
  parseTenantId,
  parseTimelineId,
  refuse,
} from '@understory/base'
import type { Lsn, TenantId, TimelineId } from '@understory/base'
import { initialControl } from '@understory/consensus'
import type { AcceptorControl } from '@understory/consensus'
import type { Disk, Log } from '@understory/env'
import { describeIdentity, isSameIdentity } from '@understory/postgres/cluster'
import type { PostgresIdentity } from '@understory/postgres/cluster'
import { readTimelineRef } from '@understory/protocol'
import type { TimelineRef } from '@understory/rpc'
import { hasControlFile } from './control-file.ts'
import type { NodeQuota } from './node-quota.ts'
import { createTimelineFiles } from './open-timeline.ts'
import type { RemoteWal } from './remote-wal.ts'
import type { SafekeeperObserver } from '../telemetry/safekeeper-observer.ts'
import { Timeline } from './timeline.ts'
import { isDamage } from './wal-check.ts'

type Entry = { readonly tenantId: TenantId; readonly timelineId: TimelineId } & (
  | { readonly timeline: Timeline }
  /** It could not be opened; all that asks for it hears why, the others go on. */
  | { readonly failure: unknown }
)

/** A folder of this name is on its way out: whatever ends that half way, the next start goes on. */
const DELETED = '.deleted'

export interface TimelinesOptions {
  readonly disk: Disk
  readonly log: Log
  readonly dataDir: string
  /** Where the WAL of all timelines counts. */
  readonly quota: NodeQuota
  /** Undefined where nothing is measured. */
  readonly observer?: SafekeeperObserver | undefined
  /** A timeline's WAL in the object store; undefined where there is none. */
  readonly remoteOf?: ((ref: TimelineRef) => RemoteWal) | undefined
}

export class Timelines {
  readonly #options: TimelinesOptions
  readonly #disk: Disk
  readonly #log: Log
  readonly #root: string
  readonly #entries = new Map<string, Entry>()
  /** Called when somebody meets damage in what is committed. */
  onDamage: (ref: TimelineRef) => void = () => undefined
  /** Called when one is known no more, before its files go. */
  beforeDelete: (ref: TimelineRef) => Promise<void> | undefined = () => undefined
  /** One creation, deletion or opening at a time. */
  readonly #changes = new Mailbox({ name: 'timelines' })

  constructor(options: TimelinesOptions) {
    this.#options = options
    this.#disk = options.disk
    this.#log = options.log
    this.#root = join(options.dataDir, 'timelines')
  }

  /** Undefined where nothing is measured. */
  get observer(): SafekeeperObserver | undefined {
    return this.#options.observer
  }

  /** Opens what is on disk. Error: where the folder itself cannot be used. */
  async openAll(): Promise<void> {
    await this.#disk.makeDirectory(this.#root)
    await this.#disk.syncDirectory(dirname(this.#root))
    for (const tenant of await this.#disk.list(this.#root)) {
      for (const timeline of await this.#disk.list(join(this.#root, tenant.name))) {
        if (timeline.name.endsWith(DELETED)) {
          await this.#disk.removeTree(join(this.#root, tenant.name, timeline.name))
          continue
        }
        await this.#open(parseTenantId(tenant.name), parseTimelineId(timeline.name))
      }
      await this.#removeIfEmpty(join(this.#root, tenant.name))
    }
  }

  async #open(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    const folder = join(this.#root, tenantId, timelineId)
    const log = this.#log.child({ tenant: tenantId, timeline: timelineId })
    try {
      await this.#disk.removeLeftovers(folder)
      // A creation that was cut short left no control file: it was never answered.
      if (!(await hasControlFile(this.#disk, folder))) return
      const { disk, quota, observer, remoteOf } = this.#options
      const ref = { tenantId, timelineId }
      const timeline = await Timeline.open({
        disk,
        log,
        folder,
        quota,
        remote: remoteOf?.(ref),
        observer: observer?.ofTimeline(ref),
      })
      this.#entries.set(timelineId, { tenantId, timelineId, timeline })
    } catch (failure) {
      log.error('timeline_not_opened', { reason: describeError(failure) })
      this.#entries.set(timelineId, { tenantId, timelineId, failure })
    }
  }

  /** Idempotent with the same arguments. */
  create(ref: TimelineRef | undefined, identity: PostgresIdentity, startLsn: Lsn): Promise<void> {
    return this.createFrom(ref, identity, initialControl(startLsn))
  }

  /** One that begins with what others have committed, where they keep nothing before it. */
  createFrom(
    ref: TimelineRef | undefined,
    identity: PostgresIdentity,
    control: AcceptorControl,
  ): Promise<void> {
    return this.#changes.run(() => this.#create(ref, identity, control))
  }

  async #create(
    ref: TimelineRef | undefined,
    identity: PostgresIdentity,
    control: AcceptorControl,
  ): Promise<void> {
    const { tenantId, timelineId } = readTimelineRef(ref)
    const { timelineStartLsn: startLsn } = control
    if (startLsn === 0 || startLsn % identity.walSegmentBytes !== 0) {
      throw refuse('bad_lsn', `timeline cannot start at ${startLsn}`, {
        hint: 'It starts with a WAL segment.',
      })
    }
    if (this.#entries.has(timelineId)) {
      const existing = this.get(ref)
      if (existing.timelineStartLsn === startLsn && isSameIdentity(existing.identity, identity)) return
      throw refuse('already_exists', `timeline ${timelineId} exists with other properties`, {
        detail: describeIdentity(existing.identity),
      })
    }
    await createTimelineFiles(this.#disk, join(this.#root, tenantId, timelineId), identity, control)
    await this.#open(tenantId, timelineId)
    this.get(ref)
  }

  /** Whether there is one, be it that it could not be opened. */
  has(ref: TimelineRef): boolean {
    return this.#entries.get(ref.timelineId)?.tenantId === ref.tenantId
  }

  /** Undefined where there is none, or none that could be opened. */
  find(ref: TimelineRef): Timeline | undefined {
    const entry = this.#entries.get(ref.timelineId)
    return entry?.tenantId === ref.tenantId && 'timeline' in entry ? entry.timeline : undefined
  }

  /**
   * Error: refused `unknown_timeline`; what is damaged (wal-check.ts, isDamage); `disk_failed` where it could not be opened
   * for any other reason, whatever that was: nobody else needs to know what can go wrong with a disk.
   */
  get(ref: TimelineRef | undefined): Timeline {
    const { tenantId, timelineId } = readTimelineRef(ref)
    const entry = this.#entries.get(timelineId)
    if (entry === undefined || entry.tenantId !== tenantId) {
      throw refuse(
        'unknown_timeline',
        `timeline ${timelineId} of tenant ${tenantId} is not on this safekeeper`,
      )
    }
    if ('failure' in entry) throw closedError(timelineId, entry.failure)
    return entry.timeline
  }

  folderOf({ tenantId, timelineId }: TimelineRef): string {
    return join(this.#root, tenantId, timelineId)
  }

  /** Those that could not be opened, or were closed, and why. */
  failed(): { readonly ref: TimelineRef; readonly failure: unknown }[] {
    return [...this.#entries.values()].flatMap((entry) =>
      'failure' in entry
        ? [{ ref: { tenantId: entry.tenantId, timelineId: entry.timelineId }, failure: entry.failure }]
        : [],
    )
  }

  /** Why it takes no WAL, or could not be opened; undefined where it does or there is none. */
  failureOf({ tenantId, timelineId }: TimelineRef): unknown {
    const entry = this.#entries.get(timelineId)
    if (entry === undefined || entry.tenantId !== tenantId) return undefined
    return 'failure' in entry ? entry.failure : entry.timeline.failure
  }

  /** Closes one that is damaged: whoever asks for it hears why, until `reopen`. */
  async shut(ref: TimelineRef, why: Error): Promise<void> {
    const { tenantId, timelineId } = readTimelineRef(ref)
    const entry = this.#entries.get(timelineId)
    if (entry === undefined || !('timeline' in entry)) return
    this.#log.error('timeline_closed', { tenant: tenantId, timeline: timelineId, reason: describeError(why) })
    this.#entries.set(timelineId, { tenantId, timelineId, failure: why })
    await entry.timeline.close(why)
  }

  /** Error: why it could not be opened. */
  reopen(ref: TimelineRef): Promise<void> {
    const { tenantId, timelineId } = readTimelineRef(ref)
    return this.#changes.run(async () => {
      await this.#open(tenantId, timelineId)
      this.get(ref)
    })
  }

  /**
   * Removes the timeline from the disk, in whatever state it is; there may be none. Error: refused `stale` where
   * `leftWithGeneration` is not 0 and it has a newer membership: it was made a member again.
   */
  delete(ref: TimelineRef, leftWithGeneration: number): Promise<void> {
    return this.#changes.run(() => this.#delete(ref, leftWithGeneration))
  }

  async #delete(ref: TimelineRef, leftWithGeneration: number): Promise<void> {
    const { tenantId, timelineId } = readTimelineRef(ref)
    const entry = this.#entries.get(timelineId)
    if (entry !== undefined && entry.tenantId !== tenantId) return
    const timeline = entry !== undefined && 'timeline' in entry ? entry.timeline : undefined
    const known = Math.max(
      timeline?.state.control.membershipGeneration ?? 0,
      timeline?.membership?.generation ?? 0,
    )
    if (leftWithGeneration > 0 && known > leftWithGeneration)
      throw refuse('stale', `membership generation ${known} is newer than ${leftWithGeneration}`)
    this.#entries.delete(timelineId)
    const why = refuse('unknown_timeline', `timeline ${timelineId} was deleted`)
    await timeline?.close(why)
    await this.beforeDelete(ref)
    const folder = join(this.#root, tenantId, timelineId)
    if ((await this.#disk.stat(folder)) !== undefined) {
      // One step, which takes no room: before it, it is here; after it, it never is again.
      await this.#disk.rename(folder, folder + DELETED)
      await this.#disk.syncDirectory(dirname(folder))
    }
    if (entry !== undefined) this.#log.info('timeline_deleted', { tenant: tenantId, timeline: timelineId })
    this.observer?.forget(ref)
    await this.#disk.removeTree(folder + DELETED)
    await this.#removeIfEmpty(dirname(folder))
  }

  /** The folder of a tenant whose last timeline is gone. */
  async #removeIfEmpty(folder: string): Promise<void> {
    if ((await this.#disk.stat(folder)) !== undefined && (await this.#disk.list(folder)).length === 0)
      await this.#disk.removeTree(folder)
  }

  /** Called every few seconds: idle timelines release what they hold. */
  async releaseIdle(stop: AbortSignal): Promise<void> {
    for (const entry of this.#entries.values()) {
      if (stop.aborted) return
      if ('timeline' in entry) await entry.timeline.releaseIdle()
    }
  }

  list(): TimelineRef[] {
    return [...this.#entries.values()].map(({ tenantId, timelineId }) => ({ tenantId, timelineId }))
  }

  async close(): Promise<void> {
    for (const entry of this.#entries.values()) {
      if ('timeline' in entry) await entry.timeline.close()
    }
  }
}

/** Says what to do about a data folder that cannot be used. */
export function explainDataFolder(error: unknown, dataDir: string): unknown {
  if (
    !isErrorCode(error, 'precondition') &&
    !isErrorCode(error, 'not_found') &&
    !isErrorCode(error, 'already_exists')
  )
    return error
  if (error.message.includes('is in use')) return error
  return refuse('precondition', `data folder "${dataDir}" cannot be used: ${error.message}`, {
    ...(error.detail === undefined ? {} : { detail: error.detail }),
    hint: error.hint ?? 'Name a folder with --data-dir.',
    cause: error,
  })
}

function closedError(timelineId: TimelineId, failure: unknown): unknown {
  if (!(failure instanceof UnderstoryError) || isDamage(failure)) return failure
  return refuse('disk_failed', `timeline ${timelineId} is not open on this safekeeper: ${failure.message}`, {
    hint: `${failure.hint ?? 'See to its disk.'} It opens again by itself.`,
    cause: failure,
  })
}

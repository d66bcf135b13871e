/**
 * One shard of one timeline: the actor that owns its state. Batches of WAL, imports and freezing run one after another
 * through its mailbox. Images and the files of frozen layers come beside it, each in one synchronous step, because
 * ingest waits for both within the mailbox; reads run beside, at LSNs that are complete.
 *
 *   awaiting import --ImportShard--> ingesting --failure--> stopped (reads below stay possible)
 *                       loading --------^  |  ^
 *                              trouble outside: stalled, until it is over
 */
import { Mailbox } from '@understory/actor'
import { UnderstoryError, formatLsn } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { TrackerState } from '@understory/postgres/cluster'
import type { ChainLedger, ImageGenerationSettings, ImportValue, IndexPart } from '@understory/storage'
import type { ImageGenerator } from '../images/image-generator.ts'
import { WalSubscriber } from '../ingest/wal-subscriber.ts'
import type { WalBatch } from '../ingest/fragments.ts'
import type { AttachDocument, ShardFiles } from '../layers/shard-files.ts'
import type { ShardReader } from '../state/shard-reader.ts'
import { LatencyHistogram } from '../telemetry/latency-histogram.ts'
import type { SubscriptionEnd } from '../telemetry/metrics.ts'
import { connectParts } from './connect-parts.ts'
import type { ShardParts, ShardWork } from './connect-parts.ts'
import { importBackup } from './import-backup.ts'
import { ReadWaiters } from './read-waiters.ts'
import type { Readiness } from './read-waiters.ts'
import { ShardCondition } from './shard-condition.ts'
import { WalIntake } from './wal-intake.ts'

/** The figures of a shard in its status and its gauges. */
export interface ShardCounts {
  /** WAL of the timeline that it has gone through. */
  readonly walBytes: number
  readonly walImagesCount: number
  readonly generatedImagesCount: number
  readonly layerBytes: number
  readonly openLayerBytes: number
  /** On shard 0 only. */
  readonly tracker: TrackerState | undefined
  readonly chains: Pick<ChainLedger, 'summary' | 'bands' | 'max'>
  readonly images: Pick<ImageGenerator, 'threshold' | 'queuedCount' | 'waitedMs'>
}

export class Shard implements Readiness {
  readonly latency = new LatencyHistogram()
  readonly #parts: ShardParts
  readonly #files: ShardFiles
  readonly #work: ShardWork
  readonly #subscriber: WalSubscriber
  readonly #mailbox: Mailbox
  readonly #waiters: ReadWaiters
  readonly #intake: WalIntake
  readonly #condition = new ShardCondition((error) => this.#stopFor(error))

  constructor(parts: ShardParts, files: ShardFiles, attached: AttachDocument, index: IndexPart) {
    this.#parts = parts
    this.#files = files
    const work = connectParts(parts, files, index, {
      inMailbox: (job) => this.#mailbox.run(job),
      fail: (error) => this.#condition.fail(error),
      isOver: () => this.#condition.isOver,
    })
    const { env, observer } = work
    this.#work = work
    this.#mailbox = new Mailbox({ name: 'shard', ...observer?.watchMailbox('shard', env.clock) })
    this.#waiters = new ReadWaiters(this, env.clock)
    this.#intake = new WalIntake(work, this.#mailbox, this.#condition, () => this.#waiters.notify())
    const onEnd = (reason: SubscriptionEnd): void => observer?.subscriptionEnded(reason)
    const subscription = { env, streams: parts.streams, positions: parts.positions, onEnd }
    this.#subscriber = new WalSubscriber(subscription, index.owner, attached.safekeepers, this.#intake)
  }

  get owner(): IndexPart['owner'] {
    return this.index.owner
  }
  get number(): number {
    return this.owner.shard.number
  }
  get reader(): ShardReader {
    return this.#work.state
  }
  get index(): IndexPart {
    return this.#work.layers.index
  }
  get generation(): number {
    return this.index.generation
  }
  get readableLsn(): Lsn {
    return this.index.readableLsn
  }
  get ingestedLsn(): Lsn {
    return this.#work.state.ingestedLsn
  }
  get remoteConsistentLsn(): Lsn {
    return this.#intake.remoteConsistentLsn
  }
  get failure(): string | undefined {
    return this.#condition.failure
  }
  /** Whether it has stopped for a damaged file. */
  get isDamaged(): boolean {
    return this.#condition.isDamaged
  }
  get hasFailed(): boolean {
    return this.#condition.hasFailed
  }
  get isStopped(): boolean {
    return this.#condition.isStopped
  }
  /** Why it does not continue for now, or undefined. */
  get stall(): string | undefined {
    return this.#work.stalls.reason
  }
  get isLoading(): boolean {
    const { isLoading, isReadable, isOver } = this.#condition
    return isLoading || (this.isImported && !isReadable && !isOver)
  }
  get isReadable(): boolean {
    return this.#condition.isReadable
  }
  get isImported(): boolean {
    return this.index.startLsn > 0
  }
  /** Commit position as last reported. */
  get commitLsn(): Lsn {
    return this.#intake.commitLsn
  }
  get imageGeneration(): ImageGenerationSettings {
    return this.#work.images.settings
  }
  /** The figures of its status and its gauges. */
  get counts(): ShardCounts {
    const { tracker, ledger, walImagesCount, generatedImagesCount, open } = this.#work.state
    return {
      walBytes: this.#intake.walBytes,
      walImagesCount,
      generatedImagesCount,
      layerBytes: this.#work.layers.sizeBytes,
      openLayerBytes: open.sizeBytes,
      tracker,
      chains: ledger,
      images: this.#work.images,
    }
  }

  /** Notes what the object store is known to have. */
  noteRemote(part: IndexPart): void {
    this.#work.layers.uploads.noteRemote(part)
  }

  /** Loads what the index lists and begins to follow the WAL. A damaged layer stops this shard alone. */
  async load(): Promise<void> {
    if (!this.isImported) return
    const { state, layers, images, flow } = this.#work
    try {
      const load = async (): Promise<void> => state.load(await layers.openAll(), this.index.consistentLsn)
      await this.#loadWith(() => layers.loading(load))
      images.change(this.index.imageGeneration)
    } catch (error) {
      this.#condition.fail(error)
    }
    if (this.#condition.isOver) return
    this.#begin()
    flow.startUpload()
  }
  /** Resolves once the shard is loaded, or waits for trouble outside to end. */
  async loadedOrStalled(loaded: Promise<void>): Promise<void> {
    await this.#work.stalls.orStalled(loaded).catch(() => undefined)
  }
  #loadWith(load: () => Promise<void>): Promise<void> {
    return this.#condition.load(load, () => this.isImported)
  }
  #begin(): void {
    this.#subscriber.start()
    this.#work.flow.start()
    this.#work.compactor.start()
  }

  // WAL

  /** The next batch. Errors: `unavailable` where it does not begin where ingest is. */
  take(batch: WalBatch): Promise<void> {
    return this.#intake.take(batch)
  }
  #stopFor(error: unknown): void {
    const isBug = !(error instanceof UnderstoryError)
    this.#work.env.log.error('shard_stopped', { at: formatLsn(this.ingestedLsn), error, isBug })
    this.#work.images.stop()
    void this.#work.compactor.stop()
    this.#waiters.notify()
  }

  // Layers

  /** Everything ingested, durable in the object store; gives its end. Errors: `precondition`, `unavailable`. */
  async flush(): Promise<Lsn> {
    this.#waiters.mustBeImported()
    this.#waiters.mustBeLoaded()
    const flushed = this.#mailbox.run(() => this.#work.flow.freezeAll())
    const { at, written } = await this.#work.stalls.orStalled(flushed)
    await this.#work.stalls.orStalled(written)
    if (this.hasFailed) throw this.#waiters.stoppedError()
    await this.#work.layers.uploads.upload()
    return at
  }

  /** Brings the object store up to the local index. */
  upload(): Promise<void> {
    return this.#work.layers.uploads.upload()
  }

  // Reads

  waitFor(at: Lsn, deadlineMs: number, signal?: AbortSignal): Promise<void> {
    return this.#waiters.waitFor(at, deadlineMs, signal)
  }

  // Settings

  /** Errors: those of `ImageSettings.set`; `unavailable` while the shard is loading. */
  async setImageGeneration(settings: ImageGenerationSettings, revision: number): Promise<void> {
    this.#waiters.mustBeLoaded()
    await this.#work.imageSettings.set(settings, revision)
  }

  /**
   * A newer generation of the same shard on this node. False where another node has published since: what is here is of
   * the past, and the shard must be loaded again.
   */
  async adoptGeneration(attached: AttachDocument): Promise<boolean> {
    const { layers, env } = this.#work
    const { generation } = attached
    const isNew = generation !== this.generation
    const adopt = async (): Promise<void> => {
      await this.#files.writeAttach(attached)
      if (isNew) await layers.changeIndex({ generation })
    }
    if (!isNew || !this.isImported) await adopt()
    else if (!(await layers.uploads.claim(generation, adopt))) return false
    this.#subscriber.safekeepers = attached.safekeepers
    if (!isNew) return true
    env.log.info('generation_adopted', { generation })
    if (this.isImported) await layers.uploads.upload()
    return true
  }

  // Import

  /**
   * Takes a base backup in; gives the number of its values. `values` are those of import batches; `finish` gives its
   * end when they are through. Errors: `already_exists`; those of `gatherImport`; what the object store says.
   */
  import(
    startLsn: Lsn,
    values: AsyncIterable<Iterable<ImportValue>>,
    finish: () => Lsn | undefined,
  ): Promise<number> {
    return this.#mailbox.run(async () => {
      const { importLayerBytesMax: layerBytesMax } = this.#parts.limits
      const stop = this.#condition.stopSignal
      const backup = { startLsn, values, finish, layerBytesMax, stop }
      const valuesCount = await importBackup(this.#work, backup, (load) => this.#loadWith(load))
      if (!this.isStopped) this.#begin()
      return valuesCount
    })
  }

  /** Ends what waits for anything outside; `stop` follows. */
  cancel(): void {
    this.#condition.stop()
    this.#work.images.stop()
    void this.#work.compactor.stop()
    this.#work.stalls.stop()
    // An import waits for its upload within the mailbox.
    this.#work.layers.cancel()
    this.#waiters.notify()
  }
  /** Ends everything under way. WAL that is ingested but not in layers comes again. */
  async stop(): Promise<void> {
    this.cancel()
    await this.#work.compactor.stop()
    await this.#subscriber.stop()
    await this.#mailbox.idle()
    await this.#work.images.drained()
    await this.#work.flow.stop()
    await this.#work.layers.stop()
  }
}

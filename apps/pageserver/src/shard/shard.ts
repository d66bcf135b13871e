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
import { LSN_ZERO, UnderstoryError, describeError, formatLsn, isErrorCode, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { TrackerState } from '@understory/postgres/cluster'
import type { ChainLedger, ImageGenerationSettings, ImportValue, IndexPart } from '@understory/storage'
import type { ImageGenerator } from '../images/image-generator.ts'
import { WalSubscriber } from '../ingest/wal-subscriber.ts'
import type { WalBatch } from '../ingest/fragments.ts'
import type { WalConsumer } from '../ingest/wal-subscriber.ts'
import type { AttachDocument, ShardFiles } from '../layers/shard-files.ts'
import type { ShardReader } from '../state/shard-reader.ts'
import { LatencyHistogram } from '../telemetry/latency-histogram.ts'
import type { SubscriptionEnd } from '../telemetry/metrics.ts'
import { connectParts } from './connect-parts.ts'
import type { ShardParts, ShardWork } from './connect-parts.ts'
import { importBackup } from './import-backup.ts'
import { ReadWaiters } from './read-waiters.ts'
import type { Readiness } from './read-waiters.ts'

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

export class Shard implements WalConsumer, Readiness {
  readonly latency = new LatencyHistogram()
  readonly #parts: ShardParts
  readonly #files: ShardFiles
  readonly #work: ShardWork
  readonly #subscriber: WalSubscriber
  readonly #mailbox: Mailbox
  readonly #waiters: ReadWaiters
  #attached: AttachDocument
  #failure: string | undefined
  #isDamaged = false
  #walBytes = 0
  #commitLsn: Lsn = LSN_ZERO
  readonly #stopping = new AbortController()
  /** False while layers are missing: those that are there could answer wrongly. */
  #isReadable = false
  #isLoading = false

  constructor(parts: ShardParts, files: ShardFiles, attached: AttachDocument, index: IndexPart) {
    this.#parts = parts
    this.#files = files
    this.#attached = attached
    const work = connectParts(parts, files, index, {
      inMailbox: (job) => this.#mailbox.run(job),
      fail: (error) => this.#fail(error),
      isOver: () => this.hasFailed || this.isStopped,
    })
    const { env, observer } = work
    this.#work = work
    this.#mailbox = new Mailbox({ name: 'shard', ...observer?.watchMailbox('shard', env.clock) })
    this.#waiters = new ReadWaiters(this, env.clock)
    const onEnd = (reason: SubscriptionEnd): void => observer?.subscriptionEnded(reason)
    const subscription = { env, streams: parts.streams, positions: parts.positions, onEnd }
    this.#subscriber = new WalSubscriber(subscription, index.owner, attached.safekeepers, this)
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
  get attached(): AttachDocument {
    return this.#attached
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
    return this.#work.layers.uploads.remoteConsistentLsn
  }
  get trackCommitTimestamp(): boolean {
    return this.#work.state.settings.trackCommitTimestamp === true
  }
  get failure(): string | undefined {
    return this.#failure
  }
  /** Whether it has stopped for a damaged file. */
  get isDamaged(): boolean {
    return this.#isDamaged
  }
  get hasFailed(): boolean {
    return this.#failure !== undefined
  }
  get isStopped(): boolean {
    return this.#stopping.signal.aborted
  }
  /** Why it does not continue for now, or undefined. */
  get stall(): string | undefined {
    return this.#work.stalls.reason
  }
  get isLoading(): boolean {
    return this.#isLoading
  }
  get isReadable(): boolean {
    return this.#isReadable
  }
  get isImported(): boolean {
    return this.index.startLsn > 0
  }
  /** Commit position as last reported. */
  get commitLsn(): Lsn {
    return this.#commitLsn
  }
  get imageGeneration(): ImageGenerationSettings {
    return this.#work.images.settings
  }
  /** The figures of its status and its gauges. */
  get counts(): ShardCounts {
    const { tracker, ledger, walImagesCount, generatedImagesCount, open } = this.#work.state
    return {
      walBytes: this.#walBytes,
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
      await this.#loadWith(async () => state.load(await layers.openAll(), this.index.consistentLsn))
      images.change(this.index.imageGeneration)
    } catch (error) {
      this.#fail(error)
    }
    if (this.hasFailed || this.isStopped) return
    this.#begin()
    flow.startUpload()
  }
  async #loadWith(load: () => Promise<void>): Promise<void> {
    this.#isLoading = true
    try {
      await load()
      this.#isReadable = true
    } catch (error) {
      // Data of an import that is here is loaded under a new generation.
      if (this.isImported) this.#fail(error)
      throw error
    } finally {
      this.#isLoading = false
    }
  }
  #begin(): void {
    this.#subscriber.start()
    this.#work.flow.start()
  }

  // WAL

  /** The next batch. Errors: `unavailable` where it does not begin where ingest is. */
  take(batch: WalBatch): Promise<void> {
    return this.#mailbox.run(async () => {
      if (this.hasFailed || this.isStopped) throw fail('cancelled', 'shard has stopped')
      const { startLsn, endLsn, commitLsn, entries } = batch
      if (startLsn !== this.ingestedLsn || endLsn < startLsn) {
        // Not a failure of the shard: another safekeeper may do better.
        const range = `${formatLsn(startLsn)} to ${formatLsn(endLsn)}`
        throw fail('unavailable', `batch of ${range} does not continue ${formatLsn(this.ingestedLsn)}`)
      }
      await this.#apply(entries, endLsn)
      this.#walBytes += endLsn - startLsn
      if (commitLsn > this.#commitLsn) this.#commitLsn = commitLsn
      this.#waiters.notify()
      await this.#work.flow.freezeFull()
    })
  }
  async #apply(entries: Uint8Array, endLsn: Lsn): Promise<void> {
    const observer = this.#work.observer
    const { clock } = this.#work.env
    const startMs = observer === undefined ? 0 : clock.nowMs()
    try {
      await this.#work.ingest.apply(entries, endLsn)
      observer?.ingested(clock.nowMs() - startMs, entries.length)
    } catch (error) {
      this.#fail(error)
      throw error
    }
  }
  stopFor(error: Error): void {
    this.#fail(error)
  }
  #fail(error: unknown): void {
    if (this.#failure !== undefined || this.isStopped) return
    this.#failure = describeError(error)
    this.#isDamaged = isErrorCode(error, 'bad_file')
    const isBug = !(error instanceof UnderstoryError)
    this.#work.env.log.error('shard_stopped', { at: formatLsn(this.ingestedLsn), error, isBug })
    this.#work.images.stop()
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

  /** A newer generation of the same shard on this node. */
  async adoptGeneration(attached: AttachDocument): Promise<void> {
    await this.#files.writeAttach(attached)
    this.#attached = attached
    this.#subscriber.safekeepers = attached.safekeepers
    if (attached.generation === this.generation) return
    await this.#work.layers.changeIndex({ generation: attached.generation })
    this.#work.env.log.info('generation_adopted', { generation: attached.generation })
    if (this.isImported) await this.#work.layers.uploads.upload()
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
      const stop = this.#stopping.signal
      const backup = { startLsn, values, finish, layerBytesMax, stop }
      const valuesCount = await importBackup(this.#work, backup, (load) => this.#loadWith(load))
      if (!this.isStopped) this.#begin()
      return valuesCount
    })
  }

  /** Ends everything under way. WAL that is ingested but not in layers comes again. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#work.images.stop()
    this.#work.stalls.stop()
    // An import waits for its upload within the mailbox.
    this.#work.layers.uploads.cancel()
    this.#waiters.notify()
    await this.#subscriber.stop()
    await this.#mailbox.idle()
    await this.#work.images.drained()
    await this.#work.flow.stop()
    await this.#work.layers.stop()
  }
}

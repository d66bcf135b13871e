/**
 * One shard of one timeline: the actor that owns its state. Everything that changes it (batches of WAL, imports,
 * freezing) runs one after another through its mailbox; reads run beside, at LSNs that are complete.
 *
 *   awaiting import --ImportShard--> ingesting --failure--> stopped (reads below stay possible)
 *                       loading --------^  |  ^
 *                              trouble outside: stalled, until it is over
 */
import { Mailbox, Signal } from '@understory/actor'
import type { Semaphore } from '@understory/actor'
import { LSN_ZERO, UnderstoryError, describeError, formatLsn, isErrorCode, refuse } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Env, Workers } from '@understory/env'
import type { ObjectStore } from '@understory/object-store'
import type { BlockCache, ImageGenerationSettings, IndexPart, ImportValue } from '@understory/storage'
import type { CommitPositions } from '../ingest/commit-positions.ts'
import type { SafekeeperStreams } from '../ingest/safekeeper-stream.ts'
import type { ImageJobs } from '../images/image-protocol.ts'
import { ImageMaker } from '../images/image-maker.ts'
import { Ingest } from '../ingest/ingest.ts'
import { LatencyHistogram } from '../telemetry/latency-histogram.ts'
import { LayerStore } from '../layers/layer-store.ts'
import type { SubscriptionEnd } from '../telemetry/metrics.ts'
import type { PageserverObserver, ShardObserver } from '../telemetry/pageserver-observer.ts'
import type { AttachDocument, ShardFiles } from '../layers/shard-files.ts'
import { ShardState } from '../state/shard-state.ts'
import { Stalls } from '../layers/stalls.ts'
import { gatherImport } from './gather-import.ts'
import { LayerFlow } from './layer-flow.ts'
import { WalSubscriber } from '../ingest/wal-subscriber.ts'
import type { WalBatch } from '../ingest/fragments.ts'
import type { WalConsumer } from '../ingest/wal-subscriber.ts'

interface ShardLimits {
  readonly openLayerBytesMax: number
  readonly openLayerAgeMsMax: number
  /** A layer of an import. */
  readonly importLayerBytesMax: number
}

export interface ShardParts {
  readonly env: Env
  readonly store: ObjectStore
  readonly cache: BlockCache
  readonly workers: Workers<ImageJobs>
  /** Whose turn it is to use them. */
  readonly imageTurns: Semaphore
  /** Whose turn it is to have a layer of the object store in memory. */
  readonly fetchTurns: Semaphore
  readonly positions: CommitPositions
  readonly streams: SafekeeperStreams
  readonly limits: ShardLimits
  /** Undefined where nothing is measured. */
  readonly observer?: PageserverObserver | undefined
}

/** How long SetImageGeneration waits for chains that are too long already. */
const CUT_DEADLINE_MS = 20_000

export class Shard implements WalConsumer {
  readonly state: ShardState
  readonly latency = new LatencyHistogram()
  readonly #observer: ShardObserver | undefined
  readonly #parts: ShardParts
  readonly #env: Env
  readonly #files: ShardFiles
  readonly #layers: LayerStore
  readonly #flow: LayerFlow
  readonly #images: ImageMaker
  readonly #ingest: Ingest
  readonly #subscriber: WalSubscriber
  readonly #stalls: Stalls
  readonly #mailbox = new Mailbox({ name: 'shard' })
  #attached: AttachDocument
  #failure: string | undefined
  #isDamaged = false
  #walBytes = 0
  #commitLsn: Lsn = LSN_ZERO
  /** Ingest got further, or ended. */
  readonly #progress = new Signal()
  readonly #stopping = new AbortController()
  /** False while layers are missing: what is there could answer wrongly. */
  #isReadable = false
  #isLoading = false

  constructor(parts: ShardParts, files: ShardFiles, attached: AttachDocument, index: IndexPart) {
    this.#parts = parts
    this.#files = files
    this.#attached = attached
    const { tenantId, timelineId, shard } = index.owner
    const log = parts.env.log.child({ tenant: tenantId, timeline: timelineId, shard: shard.number })
    this.#env = { ...parts.env, log }
    this.state = new ShardState(index.owner)
    this.#observer = parts.observer?.ofShard(index.owner)
    const observer = this.#observer
    const stalls = new Stalls(this.#env, observer)
    this.#stalls = stalls
    this.#layers = new LayerStore(
      {
        env: this.#env,
        files,
        store: parts.store,
        cache: parts.cache,
        fetchTurns: parts.fetchTurns,
        stalls,
        observer,
      },
      index,
    )
    this.#flow = new LayerFlow({
      state: this.state,
      layers: this.#layers,
      clock: this.#env.clock,
      limits: parts.limits,
      inMailbox: (job) => this.#mailbox.run(job),
      fail: (error) => this.#fail(error),
      isOver: () => this.hasFailed || this.#isStopped,
    })
    this.#images = new ImageMaker(
      {
        state: this.state,
        workers: parts.workers,
        turns: parts.imageTurns,
        stalls,
        made: () => this.#madeImages(),
        fail: (error) => this.#fail(error),
        observer,
      },
      index.imageGeneration,
    )
    const images = this.#images
    this.#ingest = new Ingest(
      this.state,
      {
        get settings() {
          return images.settings
        },
        queue: (keyId) => images.queue(keyId),
        sawFullPageWrites: (on) => this.#sawFullPageWrites(on),
        read: (attempt) => stalls.retry('layer read', attempt),
      },
      observer,
    )
    const subscription = {
      env: this.#env,
      streams: parts.streams,
      positions: parts.positions,
      onEnd: (reason: SubscriptionEnd) => observer?.subscriptionEnded(reason),
    }
    this.#subscriber = new WalSubscriber(subscription, index.owner, attached.safekeepers, this)
  }

  get #isStopped(): boolean {
    return this.#stopping.signal.aborted
  }
  get owner(): IndexPart['owner'] {
    return this.#layers.index.owner
  }
  get attached(): AttachDocument {
    return this.#attached
  }
  get index(): IndexPart {
    return this.#layers.index
  }
  get layers(): LayerStore {
    return this.#layers
  }
  get generation(): number {
    return this.#layers.index.generation
  }
  get ingestedLsn(): Lsn {
    return this.state.ingestedLsn
  }
  get remoteConsistentLsn(): Lsn {
    return this.#layers.remoteConsistentLsn
  }
  get trackCommitTimestamp(): boolean {
    return this.state.settings.trackCommitTimestamp === true
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
  /** Why it does not go on for now, or undefined. */
  get stall(): string | undefined {
    return this.#stalls.reason
  }
  /** Not all that its index lists is open yet. */
  get isLoading(): boolean {
    return this.#isLoading
  }
  get walBytes(): number {
    return this.#walBytes
  }
  /** Commit position as last heard. */
  get commitLsn(): Lsn {
    return this.#commitLsn
  }
  get images(): ImageMaker {
    return this.#images
  }
  get isImported(): boolean {
    return this.index.startLsn > 0
  }
  get imageGeneration(): ImageGenerationSettings {
    return this.#images.settings
  }

  /** Loads what the index lists and begins to follow the WAL. A damaged layer stops this shard alone. */
  async load(): Promise<void> {
    if (!this.isImported) return
    this.#isLoading = true
    try {
      await this.state.load(await this.#layers.openAll(), this.index.consistentLsn)
      this.#isReadable = true
      this.#images.change(this.index.imageGeneration)
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#isLoading = false
    }
    if (this.hasFailed || this.#isStopped) return
    this.#begin()
    this.#flow.startUpload()
  }
  #begin(): void {
    this.#subscriber.start()
    this.#flow.start()
  }

  // WAL

  /** The next batch. Error: refused `bad_wal` where it does not begin where ingest stands. */
  take(batch: WalBatch): Promise<void> {
    return this.#mailbox.run(async () => {
      if (this.hasFailed || this.#isStopped) throw refuse('cancelled', 'shard has stopped')
      const { startLsn, endLsn, commitLsn, entries } = batch
      if (startLsn !== this.state.ingestedLsn || endLsn < startLsn) {
        // Not a failure of the shard: another safekeeper may do better.
        const range = `${formatLsn(startLsn)} to ${formatLsn(endLsn)}`
        throw refuse(
          'unavailable',
          `batch of ${range} does not continue ${formatLsn(this.state.ingestedLsn)}`,
        )
      }
      const observer = this.#observer
      const { clock } = this.#env
      const startMs = observer === undefined ? 0 : clock.nowMs()
      try {
        await this.#ingest.apply(entries, endLsn)
        observer?.ingested(clock.nowMs() - startMs, entries.length)
      } catch (error) {
        this.#fail(error)
        throw error
      }
      this.#walBytes += endLsn - startLsn
      if (commitLsn > this.#commitLsn) this.#commitLsn = commitLsn
      this.#progress.notify()
      await this.#flow.freezeFull()
    })
  }
  /** Images fill the open layer as WAL does. */
  async #madeImages(): Promise<void> {
    if (this.#flow.isFull) await this.#mailbox.run(() => this.#flow.freezeFull())
  }
  #sawFullPageWrites(on: boolean): void {
    const { settings } = this.#images
    if (on || settings.enabled) return
    // Nobody asked for it, or the order of a switch was lost: chains must not grow, so images begin at once.
    this.#observer?.drifted()
    this.#env.log.warn('full_page_writes_drift', { lsn: formatLsn(this.state.ingestedLsn) })
    const enabled = { ...settings, enabled: true }
    this.#images.change(enabled)
    const { imageWish } = this.index
    // Where somebody asked for something else meanwhile, that holds.
    const change = (index: IndexPart) => (index.imageWish === imageWish ? { imageGeneration: enabled } : {})
    this.#stalls
      .retry('index write', () => this.#layers.changeIndex(change))
      .then(
        () => this.#flow.startUpload(),
        (error: unknown) => this.#fail(error),
      )
  }

  stopFor(error: Error): void {
    this.#fail(error)
  }
  #fail(error: unknown): void {
    if (this.#failure !== undefined || this.#isStopped) return
    this.#failure = describeError(error)
    this.#isDamaged = isErrorCode(error, 'bad_file')
    const isBug = !(error instanceof UnderstoryError)
    this.#env.log.error('shard_stopped', { at: formatLsn(this.state.ingestedLsn), error, isBug })
    this.#images.stop()
    this.#progress.notify()
  }
  #stoppedError(): Error {
    return refuse('precondition', `shard ${this.owner.shard.number} has stopped: ${this.#failure}`, {
      hint: 'See its status; where its layers are whole, what it has ingested can still be read.',
    })
  }

  // Layers

  /** Everything ingested, durable in the object store; gives its end. Errors: `precondition`, `unavailable`. */
  async flush(): Promise<Lsn> {
    this.#mustBeImported()
    this.#mustBeLoaded()
    const flushed = this.#mailbox.run(() => this.#flow.freezeAll())
    const { at, written } = await this.#stalls.orStalled(flushed)
    await this.#stalls.orStalled(written)
    if (this.hasFailed) throw this.#stoppedError()
    await this.#layers.upload()
    return at
  }

  // Reads

  #mustBeImported(): void {
    if (!this.isImported) {
      throw refuse('precondition', `shard ${this.owner.shard.number} has no data yet`, {
        hint: 'Wait until its import is finished.',
      })
    }
  }

  #mustBeLoaded(): void {
    if (this.#isLoading)
      throw refuse('unavailable', `shard ${this.owner.shard.number} is loading its layers`, {
        hint: 'Try again.',
      })
  }

  /**
   * Resolves when everything before `at` is ingested. Errors: `out_of_range`, `precondition`, `timeout`, `cancelled`,
   * `unavailable` while the shard is loading.
   */
  async waitFor(at: Lsn, deadlineMs: number, signal?: AbortSignal): Promise<void> {
    this.#mustBeImported()
    this.#mustBeLoaded()
    if (!this.#isReadable) throw this.#stoppedError()
    if (at < this.index.readableLsn) {
      throw refuse(
        'out_of_range',
        `lsn ${formatLsn(at)} is before ${formatLsn(this.index.readableLsn)}, where the timeline can be read from`,
      )
    }
    if (at <= this.state.ingestedLsn) return
    if (this.hasFailed) throw this.#stoppedError()
    const late = new AbortController()
    const timer = this.#env.clock.setTimer(deadlineMs, () => late.abort())
    const over = signal === undefined ? late.signal : AbortSignal.any([signal, late.signal])
    const isAnswered = (): boolean => at <= this.state.ingestedLsn || this.hasFailed || this.#isStopped
    await this.#progress.until(isAnswered, over)
    timer.cancel()
    if (this.#isStopped) throw refuse('cancelled', 'shard was detached')
    if (at <= this.state.ingestedLsn) return
    if (this.hasFailed) throw this.#stoppedError()
    if (signal?.aborted === true) throw refuse('cancelled', 'read was cancelled')
    throw refuse(
      'timeout',
      `lsn ${formatLsn(at)} is not there after ${deadlineMs} ms: the shard stands at ${formatLsn(this.state.ingestedLsn)}`,
      { detail: this.#standing },
    )
  }
  get #standing(): string {
    const known = `committed WAL is known up to ${formatLsn(this.#commitLsn)}`
    return this.stall === undefined ? known : `${known}; stalled: ${this.stall}`
  }

  // Settings

  /**
   * Durable when it returns: enabling in the object store too, since a node may lose its disk and Postgres logs no images
   * then (rule I5). Errors: refused `stale` where a later wish was heard of, since a message that comes late must not end
   * what I5 rests on; what the object store says.
   */
  async setImageGeneration(settings: ImageGenerationSettings, wish: number): Promise<void> {
    this.#mustBeLoaded()
    await this.#layers.changeIndex(({ imageWish = 0 }) => {
      if (wish >= imageWish) return { imageGeneration: settings, imageWish: wish }
      throw refuse('stale', `image generation follows wish ${imageWish} already, wish ${wish} is older`)
    })
    this.#images.change(settings)
    this.#env.log.info('image_generation', { ...settings })
    if (this.isImported) {
      // Goes on trying should the one that is waited for fail.
      this.#flow.startUpload()
      if (settings.enabled) await this.#layers.upload()
    }
    if (settings.enabled) await this.#waitForCutChains()
  }

  /** Chains that grew while no images were made are cut before the caller relies on the bound; bounded in time. */
  async #waitForCutChains(): Promise<void> {
    const { clock } = this.#env
    const endMs = clock.nowMs() + CUT_DEADLINE_MS
    while (this.state.ledger.max > this.#images.threshold * 2 && clock.nowMs() < endMs && !this.hasFailed) {
      await clock.sleep(20)
    }
  }

  /** A newer generation of the same shard on this node. */
  async adoptGeneration(attached: AttachDocument): Promise<void> {
    await this.#files.writeAttach(attached)
    this.#attached = attached
    this.#subscriber.safekeepers = attached.safekeepers
    if (attached.generation === this.generation) return
    await this.#layers.changeIndex({ generation: attached.generation })
    this.#env.log.info('generation_adopted', { generation: attached.generation })
    if (this.isImported) await this.#layers.upload()
  }

  // Import

  /** Takes a base backup in. `batches` are values of import batches; `finish` gives its end when they are through. */
  async import(
    startLsn: Lsn,
    values: AsyncIterable<Iterable<ImportValue>>,
    finish: () => Lsn | undefined,
  ): Promise<number> {
    return this.#mailbox.run(async () => {
      if (this.isImported) {
        throw refuse(
          'already_exists',
          `shard ${this.owner.shard.number} has its data already, from ${formatLsn(this.index.startLsn)} on`,
        )
      }
      const { files, control, endLsn, valuesCount } = await gatherImport({
        owner: this.owner,
        layers: this.#layers,
        layerBytesMax: this.#parts.limits.importLayerBytesMax,
        stop: this.#stopping.signal,
        startLsn,
        values,
        finish,
      })
      const { major, systemId, segmentBytes, checkpoint } = control
      const postgres = { major, systemId, pgTimelineId: checkpoint.timelineId, walSegmentBytes: segmentBytes }
      this.#isLoading = true
      try {
        await this.#layers.changeIndex({ startLsn, readableLsn: endLsn, postgres })
        await this.state.load(files, startLsn)
        this.#isReadable = true
      } catch (error) {
        // Its data is here: it is loaded under a new generation.
        if (this.isImported) this.#fail(error)
        throw error
      } finally {
        this.#isLoading = false
      }
      // Answered when the object store has it all: the backup it came from may be gone then.
      await this.#layers.uploadWithRetries()
      this.#sawFullPageWrites(checkpoint.fullPageWrites)
      this.#env.log.info('imported', {
        startLsn: formatLsn(startLsn),
        endLsn: formatLsn(endLsn),
        values: valuesCount,
      })
      if (!this.#isStopped) this.#begin()
      return valuesCount
    })
  }
  /** Ends everything under way. What is ingested but not in layers comes again from the WAL. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#images.stop()
    this.#stalls.stop()
    // An import waits for its upload within the mailbox.
    this.#layers.giveUpUploads()
    this.#progress.notify()
    await this.#subscriber.stop()
    await this.#mailbox.idle()
    await this.#images.drained()
    await this.#flow.stop()
    await this.#layers.stop()
  }
}

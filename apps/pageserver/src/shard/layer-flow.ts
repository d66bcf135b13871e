/**
 * The way of a shard's open layer: frozen when it is full or old, written beside ingest, in the layer map in place of
 * the frozen one, uploaded. Its methods that freeze run within the shard's mailbox.
 */
import type { Lsn } from '@understory/base'
import type { Clock, Timer } from '@understory/env'
import type { LayerStore } from '../layers/layer-store.ts'
import type { ShardState } from '../state/shard-state.ts'

export interface LayerFlowParts {
  readonly state: ShardState
  readonly layers: LayerStore
  readonly clock: Clock
  readonly limits: {
    /** The open layer is frozen beyond this. */
    readonly openLayerBytesMax: number
    /** And at this age, if it has anything. */
    readonly openLayerAgeMsMax: number
  }
  /** Runs a job within the shard's mailbox. */
  readonly inMailbox: (job: () => void) => Promise<void>
  /** There is one more layer in the index and in the map. */
  readonly written: () => void
  /** The shard stops with it. */
  readonly fail: (error: unknown) => void
  /** Whether the shard has failed, or was stopped. */
  readonly isOver: () => boolean
}

/** Writes that may wait for the disk before ingest, and image generation, wait for them. */
const WRITES_COUNT_MAX = 3

export class LayerFlow {
  readonly #parts: LayerFlowParts
  #openedAtMs: number
  /** Frozen layers, and positions without one, that are not durable yet; and the last of them. */
  #writesCount = 0
  #writing: Promise<void> = Promise.resolve()
  #ageTimer: Timer | undefined
  #isUploading = false

  constructor(parts: LayerFlowParts) {
    this.#parts = parts
    this.#openedAtMs = parts.clock.nowMs()
  }

  /** Whether the writer of the open layer should call `freezeFull`. */
  get isFull(): boolean {
    return this.#isOpenLayerFull || this.#writesCount > WRITES_COUNT_MAX
  }
  get #isOpenLayerFull(): boolean {
    const { state, limits } = this.#parts
    return state.open.sizeBytes >= limits.openLayerBytesMax || state.open.isFull
  }

  /** Looks at the age of the open layer from now on. */
  start(): void {
    const { clock, limits, isOver, inMailbox } = this.#parts
    const { openLayerAgeMsMax } = limits
    this.#ageTimer = clock.setTimer(openLayerAgeMsMax / 4, () => {
      if (isOver()) return
      if (clock.nowMs() - this.#openedAtMs > openLayerAgeMsMax) void inMailbox(() => this.#freezeAged())
      this.start()
    })
  }

  /** No more looks; resolves once nothing is being written. */
  async stop(): Promise<void> {
    this.#ageTimer?.cancel()
    await this.#writing
  }

  /** Ingest is slowed rather than memory filled when the disk does not keep up. */
  async freezeFull(): Promise<void> {
    if (this.#isOpenLayerFull) this.#freeze()
    if (this.#writesCount > WRITES_COUNT_MAX) await this.#writing
  }

  /** Sends all that is ingested on its way to the disk, up to `at`; `written` resolves once it is there. */
  freezeAll(): { readonly at: Lsn; readonly written: Promise<void> } {
    const { state, layers, isOver } = this.#parts
    const { ingestedLsn } = state
    const hasValues = state.open.valuesCount > 0
    this.#freeze()
    if (!hasValues && !isOver()) this.#noteWrite(layers.noteConsistent(ingestedLsn))
    return { at: ingestedLsn, written: this.#writing }
  }

  startUpload(): void {
    const { layers, fail, isOver } = this.#parts
    if (this.#isUploading) return
    this.#isUploading = true
    void layers.uploads
      .uploadWithRetries()
      .catch(fail)
      .finally(() => {
        this.#isUploading = false
        // Settings that changed while an upload was under way are to get there too.
        if (!layers.uploads.isPublished && !isOver()) this.startUpload()
      })
  }

  #freeze(): void {
    const { state, layers, clock, isOver } = this.#parts
    this.#openedAtMs = clock.nowMs()
    if (state.open.valuesCount === 0 || isOver()) return
    const frozen = state.freeze()
    const written = layers.write(frozen, state.ingestedLsn)
    this.#noteWrite(
      written.then((file) => {
        state.map.replace([frozen], [file])
        this.#parts.written()
      }),
    )
  }

  /** WAL without a value for this shard is taken in all the same, or the safekeepers would keep it for ever. */
  #freezeAged(): void {
    const { state, layers, isOver } = this.#parts
    const { ingestedLsn } = state
    const isIdle = state.open.valuesCount === 0 && this.#writesCount === 0
    this.#freeze()
    if (!isIdle || isOver() || ingestedLsn <= layers.index.consistentLsn) return
    this.#noteWrite(layers.noteConsistent(ingestedLsn))
  }

  #noteWrite(write: Promise<void>): void {
    this.#writesCount++
    this.#writing = write.then(() => {
      this.#writesCount--
      this.startUpload()
    }, this.#parts.fail)
  }
}

/**
 * Whether a shard makes images (rule I5): as requested, durable before it is answered, and at once where
 * full_page_writes went off without a request.
 */
import { formatLsn, fail } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Env } from '@understory/env'
import type { ImageGenerationSettings, IndexPart } from '@understory/storage'
import type { ImageGenerator } from '../images/image-generator.ts'
import type { LayerStore } from '../layers/layer-store.ts'
import type { Stalls } from '../layers/stalls.ts'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'

export interface ImageSettingsParts {
  readonly env: Env
  readonly layers: LayerStore
  readonly images: ImageGenerator
  readonly stalls: Stalls
  readonly observer: ShardObserver | undefined
  readonly startUpload: () => void
  /** The shard stops with it. */
  readonly fail: (error: unknown) => void
  /** Whether the shard has failed, or was stopped. */
  readonly isOver: () => boolean
}

/** How long a request waits for chains that are too long already. */
const CUT_DEADLINE_MS = 20_000

export class ImageSettings {
  readonly #parts: ImageSettingsParts

  constructor(parts: ImageSettingsParts) {
    this.#parts = parts
  }

  /**
   * Durable when it returns: enabling in the object store too, since a node may lose its disk and Postgres logs no
   * images then (rule I5). Errors: `stale` where a later request is known, since a message that comes late must not end
   * what I5 rests on; what the object store says.
   */
  async set(settings: ImageGenerationSettings, revision: number): Promise<void> {
    const { env, layers, images, startUpload } = this.#parts
    await layers.changeIndex(({ imageGenerationRevision = 0 }) => {
      if (revision >= imageGenerationRevision)
        return { imageGeneration: settings, imageGenerationRevision: revision }
      throw fail(
        'stale',
        `image generation follows revision ${imageGenerationRevision}, revision ${revision} is older`,
      )
    })
    images.change(settings)
    env.log.info('image_generation', { ...settings })
    if (layers.index.startLsn > 0) {
      // Continues should the one that is waited for fail.
      startUpload()
      if (settings.enabled) await layers.uploads.upload()
    }
    if (settings.enabled) await this.#waitForCutChains()
  }

  /** Chains that grew while no images were made are cut before the caller relies on the bound; bounded in time. */
  async #waitForCutChains(): Promise<void> {
    const { env, images, isOver } = this.#parts
    const { clock } = env
    const endMs = clock.nowMs() + CUT_DEADLINE_MS
    while (images.chainMax > images.threshold * 2 && clock.nowMs() < endMs && !isOver()) {
      await clock.sleep(20)
    }
  }

  /**
   * full_page_writes as a record says it. Off without a request is drift: chains must not grow, so images begin at
   * once.
   */
  sawFullPageWrites(on: boolean, at: Lsn): void {
    const { env, layers, images, stalls, observer, startUpload, fail } = this.#parts
    const { settings } = images
    if (on || settings.enabled) return
    observer?.drifted()
    env.log.warn('full_page_writes_drifted', { lsn: formatLsn(at) })
    const enabled = { ...settings, enabled: true }
    images.change(enabled)
    const { imageGenerationRevision } = layers.index
    // A request that came in between holds.
    const change = (index: IndexPart) =>
      index.imageGenerationRevision === imageGenerationRevision ? { imageGeneration: enabled } : {}
    stalls.retry('index write', () => layers.changeIndex(change)).then(startUpload, fail)
  }
}

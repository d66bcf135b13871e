/**
 * Image generation: pages whose chain has passed the threshold wait here, threads rebuild them in batches, and the
 * images go into the open layer at the LSN of the last record in them. What came for a page since then stays on top.
 *
 * While Postgres logs images, only pages whose changes come without any are made here (isStorageImaged): their chains
 * would grow for ever.
 *
 *   queued -> gathered (values read) -> in a thread -> image put, or dropped because the page has a newer base
 *     ^ trouble outside: the pages of the job wait again     |
 *     +-----------------------------------------------------+
 */
import { Signal } from '@understory/actor'
import type { Semaphore } from '@understory/actor'
import { LSN_MAX } from '@understory/base'
import type { Lsn } from '@understory/base'
import type { Clock, Workers } from '@understory/env'
import { PAGE_SIZE } from '@understory/postgres/page'
import { PageJobWriter, endsChain, isStorageImaged } from '@understory/storage'
import type { ImageGenerationSettings, Key, Layer, PageValue, ReadPlan, ValueRef } from '@understory/storage'
import type { ImageJobs } from './image-protocol.ts'
import type { ShardObserver } from '../telemetry/pageserver-observer.ts'
import { loopTurns } from '../state/loop-turns.ts'
import type { ShardState } from '../state/shard-state.ts'
import type { Stalls } from '../layers/stalls.ts'

/** Pages of a job: enough to hide its cost, few enough that images come soon. */
const JOB_PAGES_MAX = 64
const JOB_BYTES_MAX = 4 * 1024 * 1024
/** Jobs under way at once: one in a thread, one gathered at the same time. */
const JOBS_COUNT_MAX = 2

interface Gathered {
  readonly keyId: number
  readonly lastLsn: Lsn
}

export interface ImageGeneratorParts {
  readonly state: ShardState
  readonly clock: Clock
  readonly workers: Workers<ImageJobs>
  /** One for all shards that share the threads: each has its turn, and no job waits in memory for a thread. */
  readonly turns: Semaphore
  readonly stalls: Stalls
  /** Images of a job are in the open layer. No more are made before it resolves. */
  readonly made: () => Promise<void>
  readonly fail: (error: unknown) => void
  readonly observer?: ShardObserver | undefined
}

export class ImageGenerator {
  readonly #parts: ImageGeneratorParts
  readonly #state: ShardState
  readonly #observer: ShardObserver | undefined
  #settings: ImageGenerationSettings
  /** First in, first out: a page that waits must not be overtaken for ever by pages that are hotter. */
  #queue: number[] = []
  #head = 0
  #isQueued = new Uint8Array(1024)
  /** Since when; empty where nothing is measured. */
  #queuedMs = new Float64Array(0)
  #jobsCount = 0
  /** Walks over all pages under way. */
  #scansCount = 0
  #isStopped = false
  readonly #ended = new Signal()

  constructor(parts: ImageGeneratorParts, settings: ImageGenerationSettings) {
    this.#parts = parts
    this.#observer = parts.observer
    this.#state = parts.state
    this.#settings = settings
  }

  get settings(): ImageGenerationSettings {
    return this.#settings
  }
  /** Records after which a page is queued. */
  get threshold(): number {
    return this.#settings.enabled ? this.#settings.thresholdRecords : Infinity
  }
  #thresholdOf(key: Key): number {
    return isStorageImaged(key) ? this.#settings.thresholdRecords : this.threshold
  }
  get queuedCount(): number {
    return this.#queue.length - this.#head
  }
  /** How long the page has waited that has its turn next. */
  waitedMs(nowMs: number): number {
    const next = this.#queue[this.#head]
    return next === undefined ? 0 : nowMs - (this.#queuedMs[next] ?? nowMs)
  }

  /** Records of the longest chain. */
  get chainMax(): number {
    return this.#state.ledger.max
  }

  /** Takes the new settings; pages that are over the threshold already are queued, the longest chains first. */
  change(settings: ImageGenerationSettings): void {
    this.#settings = settings
    this.#scansCount++
    void this.#queueLongChains(settings)
      .catch((error: unknown) => this.#parts.fail(error))
      .finally(() => {
        this.#scansCount--
        this.#ended.notify()
      })
  }

  /** There may be millions of pages: the event loop gets its turns in between. Ends where the settings change again. */
  async #queueLongChains(settings: ImageGenerationSettings): Promise<void> {
    const { keys, ledger } = this.#state
    const isOver = (): boolean => this.#settings !== settings || this.#isStopped
    const idsByCount = new Map<number, number[]>()
    for (let id = 0; id < keys.count; id++) {
      if (loopTurns.isOver) await loopTurns.next()
      if (isOver()) return
      const count = ledger.countOf(id)
      if (count < settings.thresholdRecords || count < this.#thresholdOf(keys.keyOf(id))) continue
      const ids = idsByCount.get(count)
      if (ids === undefined) idsByCount.set(count, [id])
      else ids.push(id)
    }
    for (const [, ids] of [...idsByCount].sort(([a], [b]) => b - a)) {
      for (const id of ids) {
        if (loopTurns.isOver) await loopTurns.next()
        if (isOver()) return
        this.queue(id)
      }
    }
  }

  queue(keyId: number): void {
    if (keyId >= this.#isQueued.length) {
      const wider = new Uint8Array(Math.max(keyId + 1, this.#isQueued.length * 2))
      wider.set(this.#isQueued)
      this.#isQueued = wider
    }
    if (this.#isQueued[keyId] === 1) return
    this.#isQueued[keyId] = 1
    if (this.#observer !== undefined) this.#noteQueued(keyId)
    this.#queue.push(keyId)
    if (this.#jobsCount < JOBS_COUNT_MAX) this.#start()
  }

  #noteQueued(keyId: number): void {
    if (keyId >= this.#queuedMs.length) {
      const wider = new Float64Array(this.#isQueued.length)
      wider.set(this.#queuedMs)
      this.#queuedMs = wider
    }
    this.#queuedMs[keyId] = this.#parts.clock.nowMs()
  }

  stop(): void {
    this.#isStopped = true
    this.#queue = []
    this.#head = 0
  }

  /** Resolves when nothing waits and nothing is under way. */
  async drained(): Promise<void> {
    await this.#ended.until(() => this.#jobsCount === 0 && this.#scansCount === 0)
  }

  #start(): void {
    this.#jobsCount++
    void this.#work()
      .catch((error: unknown) => {
        if (!this.#isStopped) this.#parts.fail(error)
      })
      .finally(() => {
        this.#jobsCount--
        this.#ended.notify()
        // Pages that were queued after the loop had ended and before this have no job.
        if (this.queuedCount > 0 && !this.#isStopped && this.#jobsCount < JOBS_COUNT_MAX) this.#start()
      })
  }

  #next(): number {
    const keyId = this.#queue[this.#head++] as number
    if (this.#head === this.#queue.length) {
      this.#queue = []
      this.#head = 0
    } else if (this.#head > 4096 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head)
      this.#head = 0
    }
    this.#isQueued[keyId] = 0
    return keyId
  }

  async #work(): Promise<void> {
    // Ingest continues with its batch first, so that a job finds more pages.
    await new Promise<void>((resolve) => setImmediate(resolve))
    const { stalls, turns, made } = this.#parts
    while (this.queuedCount > 0 && !this.#isStopped) {
      await stalls.retry('image job', () => turns.run(() => this.#runJob()))
      await made()
    }
  }

  async #runJob(): Promise<void> {
    const taken: number[] = []
    try {
      const { settings } = this.#state
      const writer = new PageJobWriter()
      const gathered: Gathered[] = []
      while (this.queuedCount > 0 && gathered.length < JOB_PAGES_MAX && writer.length < JOB_BYTES_MAX) {
        const keyId = this.#next()
        taken.push(keyId)
        const one = await this.#state.reads.during(() => this.#gather(keyId, writer))
        if (one !== undefined) gathered.push(one)
      }
      if (gathered.length === 0) return
      // They changed while values were read: what some of the pages were found to need is not what others do.
      if (settings !== this.#state.settings) return this.#queueAgain(taken)
      const job = writer.take()
      const request = { job, pagesCount: gathered.length, settings }
      const { pages, isMade, tookMs } = await this.#parts.workers.run('image', request, { transfer: [job] })
      if (this.#isStopped) return
      this.#observer?.imageJob(tookMs, gathered.length)
      for (const [i, page] of gathered.entries()) {
        if (isMade[i] !== 1) continue
        const put = this.#put(page, new Uint8Array(pages, i * PAGE_SIZE, PAGE_SIZE))
        if (put !== undefined) await this.#state.reads.during(async () => put)
      }
    } catch (error) {
      this.#queueAgain(taken)
      throw error
    }
  }

  #queueAgain(keyIds: readonly number[]): void {
    if (!this.#isStopped) for (const keyId of keyIds) this.queue(keyId)
  }

  async #gather(keyId: number, writer: PageJobWriter): Promise<Gathered | undefined> {
    const { keys, ledger, map } = this.#state
    const key = keys.keyOf(keyId)
    if (ledger.countOf(keyId) < this.#thresholdOf(key)) return undefined
    const plan = await map.plan(key, LSN_MAX)
    const last = plan?.records.at(-1)
    if (plan === undefined || last === undefined) return undefined
    const first = plan.base ?? (plan.records[0] as ValueRef)
    if (!this.#state.hasSettingsOfNowSince(first.lsn)) return undefined
    writer.page(key, await valuesOf(plan))
    return { keyId, lastLsn: last.lsn }
  }

  /**
   * To be awaited where it gives a promise: then blocks of layers that were frozen in the meantime are read first. In
   * layers of `searched` nothing newer was found.
   */
  #put(page: Gathered, image: Uint8Array, searched?: readonly Layer[]): void | Promise<void> {
    const { keyId, lastLsn } = page
    const { open, keys, map, ledger } = this.#state
    const key = keys.keyOf(keyId)
    if (map.barriers.newest(key, LSN_MAX) > lastLsn) return
    let count = 0
    let value = open.newestOf(keyId, LSN_MAX)
    for (; value >= 0 && open.lsnOf(value) > lastLsn; value = open.older(value)) {
      if (endsChain(open.metaOf(value))) return
      count++
    }
    if (value >= 0 && open.lsnOf(value) === lastLsn && endsChain(open.metaOf(value))) return
    // A layer was frozen in the meantime and has newer values: an image above them would hide them.
    const { layers } = map
    if (value < 0 && layers !== searched) {
      const hasNewer = map.hasNewer(key, lastLsn, open)
      if (hasNewer instanceof Promise)
        return hasNewer.then((is) => (is ? this.queue(keyId) : this.#put(page, image, layers)))
      if (hasNewer) return this.queue(keyId)
    }
    this.#state.putImage(keyId, lastLsn, image)
    this.#state.generatedImagesCount++
    const observer = this.#observer
    if (observer !== undefined) {
      observer.chainEnded(ledger.countOf(keyId) - count)
      observer.imageMade('threshold')
      observer.imageLagged(this.#parts.clock.nowMs() - (this.#queuedMs[keyId] as number))
    }
    ledger.reset(keyId, count)
    if (count >= this.#thresholdOf(key)) this.queue(keyId)
  }
}

async function valuesOf({ base, records }: ReadPlan): Promise<PageValue[]> {
  const values: PageValue[] = []
  for (const value of base === undefined ? records : [base, ...records]) {
    const { lsn, meta, blockIndex } = value
    values.push({ lsn, meta, blockIndex, bytes: value.bytes() ?? (await value.load()) })
  }
  return values
}
